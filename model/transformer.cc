#include "model/transformer.h"

#include <algorithm>

#include "model/experts.h"
#include "model/row_ops.h"
#include "tensor/exact_math.h"
#include "tensor/float_ops.h"

namespace shoal {

namespace {

// hidden += residual_scale * normed(added), where the family norms what a half of the layer adds.
void add_to_hidden(const ComputeContext& cx, float* hidden, float* added, std::span<const float> post_norm,
                   int n_rows) {
  if (cx.config->arch->post_norms) rms_norm_rows(cx, added, post_norm, n_rows, added);
  const int64_t n = int64_t{n_rows} * cx.config->n_embd;
  cx.pool->for_range(n, kElementGrain, [&](int64_t begin, int64_t end) {
    cx.kernels->floats->add_scaled(hidden + begin, added + begin, cx.config->residual_scale,
                                   static_cast<int>(end - begin));
  });
}

// Biases, norms of each head and rotation of q and k; then K and V of each row go to their place in the
// cache.
void position_and_store(const ComputeContext& cx, int layer, const LayerWeights& w,
                        std::span<const BatchRow> rows, KvCache& cache) {
  const ModelConfig& c = *cx.config;
  const FloatOps& f = *cx.kernels->floats;
  const int n_head = c.n_head[layer], n_head_kv = c.n_head_kv[layer], dim = c.head_dim_k;
  const int n_q = n_head * dim, n_k = c.n_embd_k(layer), n_v = c.n_embd_v(layer);
  const bool interleaved = c.arch->rope == RopeKind::kInterleaved;
  cx.pool->for_range(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float *q = cx.act->q + r * n_q, *k = cx.act->k + r * n_k, *v = cx.act->v + r * n_v;
      if (c.arch->qkv_bias) {
        f.add(q, w.attn_q_bias.data(), n_q);
        f.add(k, w.attn_k_bias.data(), n_k);
        f.add(v, w.attn_v_bias.data(), n_v);
      }
      if (c.arch->qk_norm) {
        for (int h = 0; h < n_head; ++h)
          f.rms_norm(q + h * dim, w.attn_q_norm.data(), c.norm_eps, dim, q + h * dim);
        for (int h = 0; h < n_head_kv; ++h)
          f.rms_norm(k + h * dim, w.attn_k_norm.data(), c.norm_eps, dim, k + h * dim);
      }
      if (c.rope[layer] != kNoRope) {
        const size_t at = cx.act->rope_stride * c.rope[layer] + r * (c.n_rot / 2);
        const float *cos = cx.act->rope_cos + at, *sin = cx.act->rope_sin + at;
        f.rope(q, n_head, dim, c.n_rot, interleaved, cos, sin);
        f.rope(k, n_head_kv, dim, c.n_rot, interleaved, cos, sin);
      }
      const auto [token, position, slot, wants_logits] = rows[r];
      f.store_k(cache.type(), k, n_head_kv, dim, position % kKvPageTokens,
                cache.k_page(layer, slot, position));
      f.store_v(cache.type(), v, n_head_kv, c.head_dim_v, position % kKvPageTokens,
                cache.v_page(layer, slot, position));
    }
  });
}

// Each row attends to the positions of its own sequence up to its own, in some layers only to the last few.
// The work items are (KV head, row),
// dealt to the threads in turn: neighbouring rows, which see about as many positions, then go to different
// threads, and a head's K and V stay in a cache near the processor while its rows pass.
void attend(const ComputeContext& cx, int layer, std::span<const BatchRow> rows, const KvCache& cache) {
  const ModelConfig& c = *cx.config;
  const int n_head = c.n_head[layer], n_head_kv = c.n_head_kv[layer];
  const int64_t n_rows = static_cast<int64_t>(rows.size());
  cx.pool->for_each(n_head_kv * n_rows, [&](int64_t item, int thread) {
    const int64_t r = item % n_rows;
    const int head_kv = static_cast<int>(item / n_rows);
    AttentionArgs args{};
    args.q = cx.act->q + r * n_head * c.head_dim_k;
    args.out = cx.act->attended + r * n_head * c.head_dim_v;
    args.kv = cache.view(layer, rows[r].slot);
    args.n_head = n_head;
    args.n_head_kv = n_head_kv;
    args.head_dim_k = c.head_dim_k;
    args.head_dim_v = c.head_dim_v;
    args.last = rows[r].position + 1;
    args.first = c.window[layer] > 0 ? std::max(0, args.last - c.window[layer]) : 0;
    args.scale = cx.act->attention_scale[r];
    args.soft_cap = c.attention_soft_cap;
    args.head_kv_begin = head_kv;
    args.head_kv_end = head_kv + 1;
    args.scratch = cx.act->attention_scratch + cx.act->attention_scratch_stride * thread;
    cx.kernels->floats->attention(args);
  });
}

// What scores of a row grow by with its position.
float temperature(const ModelConfig& c, int position) {
  if (c.temperature_scale == 0) return 1;
  const double lengths = position / c.temperature_length + 1;
  return static_cast<float>(1 + double{c.temperature_scale} * exact_math::log_of(lengths));
}

// logits[n] scaled and capped as the family does.
void finish_logits(const ComputeContext& cx, float* logits, int64_t n) {
  const ModelConfig& c = *cx.config;
  if (c.logit_scale == 1 && c.final_soft_cap == 0) return;
  cx.pool->for_range(n, kElementGrain, [&](int64_t begin, int64_t end) {
    const int count = static_cast<int>(end - begin);
    if (c.logit_scale != 1) cx.kernels->floats->scale(logits + begin, c.logit_scale, count);
    if (c.final_soft_cap != 0) cx.kernels->floats->soft_cap(logits + begin, c.final_soft_cap, count);
  });
}

}  // namespace

void forward_layer(const ComputeContext& cx, int layer, const LayerWeights& w, std::span<const BatchRow> rows,
                   KvCache& cache, float* hidden) {
  const ModelConfig& c = *cx.config;
  const Activations& a = *cx.act;
  const int n_rows = static_cast<int>(rows.size());
  const int n_q = c.n_head[layer] * c.head_dim_k, n_attended = c.n_head[layer] * c.head_dim_v;
  const int n_k = c.n_embd_k(layer), n_v = c.n_embd_v(layer), n_ff = c.n_ff[layer];

  // hidden += W_o attention(rope(W_q norm(hidden)), rope(W_k norm(hidden)), W_v norm(hidden))
  rms_norm_rows(cx, hidden, w.attn_norm, n_rows, a.normed);
  multiply(cx, a.normed, c.n_embd, n_rows,
           {{&w.attn_q, a.q, n_q}, {&w.attn_k, a.k, n_k}, {&w.attn_v, a.v, n_v}});
  position_and_store(cx, layer, w, rows, cache);
  attend(cx, layer, rows, cache);
  multiply(cx, a.attended, n_attended, n_rows, {{&w.attn_output, a.projected, c.n_embd}});
  add_to_hidden(cx, hidden, a.projected, w.attn_post_norm, n_rows);

  // hidden += W_down (silu(W_gate norm(hidden)) * W_up norm(hidden)), or a mixture of several such
  rms_norm_rows(cx, hidden, w.ffn_norm, n_rows, a.normed);
  float* fed_forward = a.projected;
  if (c.n_expert > 0) {
    fed_forward = a.mixed;
    mix_experts(cx, w, a.normed, n_rows, fed_forward);
  } else {
    multiply(cx, a.normed, c.n_embd, n_rows, {{&w.ffn_gate, a.gate, n_ff}, {&w.ffn_up, a.up, n_ff}});
    activate_gate(cx, a.gate, a.up, int64_t{n_rows} * n_ff);
    multiply(cx, a.gate, n_ff, n_rows, {{&w.ffn_down, fed_forward, c.n_embd}});
  }
  add_to_hidden(cx, hidden, fed_forward, w.ffn_post_norm, n_rows);
}

std::vector<double> rope_frequencies(const ModelConfig& config, std::span<const float> factors) {
  const size_t pairs = static_cast<size_t>(config.n_rot / 2);
  std::vector<double> frequencies(config.ropes.size() * pairs);
  for (size_t i = 0; i < config.ropes.size(); ++i) {
    const float* divisors = i == 0 && !factors.empty() ? factors.data() : nullptr;
    rope_frequencies(config.ropes[i], config.n_rot, divisors, frequencies.data() + i * pairs);
  }
  return frequencies;
}

void prepare_positions(const ComputeContext& cx, std::span<const BatchRow> rows) {
  const ModelConfig& c = *cx.config;
  const int pairs = c.n_rot / 2;
  cx.pool->for_range(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (size_t i = 0; i < c.ropes.size(); ++i) {
        const size_t at = cx.act->rope_stride * i + r * pairs;
        rope_angles(rows[r].position, cx.rope_frequencies + i * pairs, pairs, c.ropes[i].magnitude,
                    cx.act->rope_cos + at, cx.act->rope_sin + at);
      }
      cx.act->attention_scale[r] = c.attention_scale * temperature(c, rows[r].position);
    }
  });
}

void embed(const ComputeContext& cx, const WeightMatrix& token_embd, std::span<const BatchRow> rows,
           float* hidden) {
  const float scale = cx.config->embedding_scale;
  cx.pool->for_range(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = hidden + r * token_embd.cols();
      token_embd.decode_row(rows[r].token, row);
      if (scale != 1) cx.kernels->floats->scale(row, scale, static_cast<int>(token_embd.cols()));
    }
  });
}

void output_head(const ComputeContext& cx, std::span<const float> output_norm, const WeightMatrix& output,
                 const float* hidden, int n_rows, float* logits) {
  rms_norm_rows(cx, hidden, output_norm, n_rows, cx.act->normed);
  multiply(cx, cx.act->normed, cx.config->n_embd, n_rows, {{&output, logits, output.rows()}});
  finish_logits(cx, logits, n_rows * output.rows());
}

}  // namespace shoal
