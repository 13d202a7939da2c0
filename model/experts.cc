// A mixture of experts: which ones a row asks, and what they answer.
#include "model/experts.h"

#include <algorithm>

#include "model/row_ops.h"
#include "tensor/exact_math.h"
#include "tensor/float_ops.h"

namespace shoal {
namespace {

// e^x for x <= 0; 0 where that is not a normal number, and for NaN.
double exp_nonpositive(double x) {
  return x > -700 ? exact_math::exp_of(x) : 0;
}

// The `used` experts of largest logit, of equals the first, in that order; weights are the softmax of theirs.
void choose_experts(const float* logits, int n_expert, int used, int32_t* chosen, float* weights) {
  for (int i = 0; i < used; ++i) {
    int best = -1;
    for (int e = 0; e < n_expert; ++e) {
      if (std::find(chosen, chosen + i, e) != chosen + i) continue;
      if (best < 0 || logits[e] > logits[best]) best = e;
    }
    chosen[i] = best;
  }
  const double largest = logits[chosen[0]];
  double sum = 0;
  for (int i = 0; i < used; ++i) sum += exp_nonpositive(logits[chosen[i]] - largest);
  for (int i = 0; i < used; ++i) {
    weights[i] = static_cast<float>(exp_nonpositive(logits[chosen[i]] - largest) / sum);
  }
}

// Orders the choices of all rows by expert, of one expert by row: those of expert e are
// ordered[first[e]] to ordered[first[e + 1]], each an index into `chosen`.
void order_choices(const int32_t* chosen, int n, int n_expert, int32_t* first, int32_t* ordered) {
  std::fill_n(first, n_expert + 2, 0);
  int32_t* const next = first + 1;  // becomes the end of each expert's choices
  for (int i = 0; i < n; ++i) ++next[chosen[i] + 1];
  for (int e = 0; e < n_expert; ++e) next[e + 1] += next[e];
  for (int i = 0; i < n; ++i) ordered[next[chosen[i]]++] = i;
}

}  // namespace

void mix_experts(const ComputeContext& cx, const LayerWeights& w, const float* x, int n_rows, float* out) {
  const ModelConfig& c = *cx.config;
  const Activations& a = *cx.act;
  const FloatOps& f = *cx.kernels->floats;
  const int n_embd = c.n_embd, used = c.n_expert_used;
  const int n_ff = static_cast<int>(w.expert_gate[0].rows());
  multiply(cx, x, n_embd, n_rows, {{&w.ffn_router, a.router, c.n_expert}});
  cx.pool->for_range(n_rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      choose_experts(a.router + r * c.n_expert, c.n_expert, used, a.chosen + r * used,
                     a.chosen_weight + r * used);
      std::fill_n(out + r * n_embd, n_embd, 0.0f);
    }
  });
  order_choices(a.chosen, n_rows * used, c.n_expert, a.choices_first, a.choices);

  for (int e = 0; e < c.n_expert; ++e) {
    const int32_t* choices = a.choices + a.choices_first[e];
    const int n = a.choices_first[e + 1] - a.choices_first[e];
    if (n == 0) continue;
    cx.pool->for_range(n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        std::copy_n(x + int64_t{choices[i] / used} * n_embd, n_embd, a.expert_in + i * n_embd);
    });
    multiply(cx, a.expert_in, n_embd, n, {{&w.expert_gate[e], a.gate, n_ff}, {&w.expert_up[e], a.up, n_ff}});
    activate_gate(cx, a.gate, a.up, int64_t{n} * n_ff);
    multiply(cx, a.gate, n_ff, n, {{&w.expert_down[e], a.expert_out, n_embd}});
    cx.pool->for_range(n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        f.add_scaled(out + int64_t{choices[i] / used} * n_embd, a.expert_out + i * n_embd,
                     a.chosen_weight[choices[i]], n_embd);
    });
  }
}

}  // namespace shoal
