// What the layers of all families do to the rows of a step, on the pool: each row, or each element, alone.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>

#include "model/transformer.h"
#include "tensor/float_ops.h"

namespace shoal {

// Elements of an elementwise pass that are worth a thread of their own.
inline constexpr int64_t kElementGrain = 2048;

// y[n_rows, n_embd] = RMS norm of x; in place where y == x.
inline void rms_norm_rows(const ComputeContext& cx, const float* x, std::span<const float> weight, int n_rows,
                          float* y) {
  const int n = cx.config->n_embd;
  cx.pool->for_range(n_rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      cx.kernels->floats->rms_norm(x + r * n, weight.data(), cx.config->norm_eps, n, y + r * n);
  });
}

inline void add(const ComputeContext& cx, float* x, const float* y, int64_t n) {
  cx.pool->for_range(n, kElementGrain, [&](int64_t begin, int64_t end) {
    cx.kernels->floats->add(x + begin, y + begin, static_cast<int>(end - begin));
  });
}

// gate = silu(gate) * up, or gelu; n elements.
inline void activate_gate(const ComputeContext& cx, float* gate, const float* up, int64_t n) {
  const FloatOps& f = *cx.kernels->floats;
  const auto activate = cx.config->arch->gate == GateKind::kSilu ? f.silu_mul : f.gelu_mul;
  cx.pool->for_range(n, kElementGrain, [&](int64_t begin, int64_t end) {
    activate(gate + begin, up + begin, static_cast<int>(end - begin));
  });
}

// All products of the same rows x[n_rows, n_in] at once.
inline void multiply(const ComputeContext& cx, const float* x, int n_in, int n_rows,
                     std::initializer_list<Product> products) {
  cx.act->rows.assign(*cx.kernels, *cx.pool, x, n_in, n_rows, n_in);
  matmul(*cx.kernels, *cx.pool, cx.act->rows, products);
}

}  // namespace shoal
