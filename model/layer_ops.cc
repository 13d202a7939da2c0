#include "model/layer_ops.h"

#include "tensor/float_ops.h"

namespace shoal {
namespace {

// Elements of an elementwise pass that are worth a thread of their own.
constexpr int64_t kElementGrain = 2048;

}  // namespace

void rms_norm_rows(const ComputeContext& cx, const float* x, std::span<const float> weight, int n_rows,
                   float* y) {
  const int n = cx.config->n_embd;
  cx.pool->for_range(n_rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      cx.kernels->floats->rms_norm(x + r * n, weight.data(), cx.config->norm_eps, n, y + r * n);
  });
}

void add_to_hidden(const ComputeContext& cx, float* hidden, float* added, std::span<const float> post_norm,
                   int n_rows) {
  if (cx.config->arch->post_norms) rms_norm_rows(cx, added, post_norm, n_rows, added);
  const int64_t n = int64_t{n_rows} * cx.config->n_embd;
  cx.pool->for_range(n, kElementGrain, [&](int64_t begin, int64_t end) {
    cx.kernels->floats->add_scaled(hidden + begin, added + begin, cx.config->residual_scale,
                                   static_cast<int>(end - begin));
  });
}

void activate_gate(const ComputeContext& cx, float* gate, const float* up, int64_t n) {
  const FloatOps& f = *cx.kernels->floats;
  const auto activate = cx.config->arch->gate == GateKind::kSilu ? f.silu_mul : f.gelu_mul;
  cx.pool->for_range(n, kElementGrain, [&](int64_t begin, int64_t end) {
    activate(gate + begin, up + begin, static_cast<int>(end - begin));
  });
}

void multiply(const ComputeContext& cx, const float* x, int n_in, int n_rows,
              std::initializer_list<Product> products) {
  cx.act->rows.assign(*cx.kernels, *cx.pool, x, n_in, n_rows, n_in);
  matmul(*cx.kernels, *cx.pool, cx.act->rows, products);
}

}  // namespace shoal
