// Every FloatOps function, written once over the sixteen lanes of a vec_*.h, which the including file picks
// first.
//
// What makes every instruction set give the same bits:
//  - a lane is an output element wherever that is possible, so vector width and tails cannot change a sum's
//  order;
//  - a true reduction runs over 16 lanes, lane l taking the elements i = l mod 16 in ascending order, then
//  the tree
//    t[i] += t[i + 8], + 4, + 2, + 1; a lane without an element adds exactly +0;
//  - multiply-adds are explicit, rounded once, and nothing else is ever fused; divide and square root are
//  IEEE's;
//  - exp is our own (below).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tensor/float_ops.h"

namespace shoal {
namespace {

#define SHOAL_UNROLL _Pragma("GCC unroll 16")

// Added to |x| < 2^22, it leaves the integer nearest to x (ties to even) in the low bits: floats in [2^23,
// 2^24) are the integers. Unlike a conversion instruction it does the same everywhere, for any input.
constexpr float kIntegerShift = 12582912.0f;  // 1.5 * 2^23

constexpr float kLargestFloat = 0x1.fffffep127f;

inline Vec load_partial(const float* p, int n) {
  float t[16] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  return load(t);
}

inline void store_partial(float* p, const Vec& a, int n) {
  float t[16];
  store(t, a);
  for (int i = 0; i < n; ++i) p[i] = t[i];
}

inline Vec load_f16_partial(const uint16_t* p, int n) {
  uint16_t t[16] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  return load_f16(t);
}

inline float reduce_add(const Vec& a) {
  float t[16];
  store(t, a);
  for (int half = 8; half >= 1; half /= 2) {
    for (int i = 0; i < half; ++i) t[i] = t[i] + t[i + half];
  }
  return t[0];
}

// exp(x) for x <= 0, relative error below 1.5e-7; exactly +0 below -87, where results would come near the
// denormals. x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts and the polynomial are those of Cephes'
// expf (S. Moshier).
SHOAL_VEC Vec exp_nonpositive(const Vec& x) {
  const Vec limit = broadcast(-87.0f);
  const Vec clamped = max(limit, x);
  const Vec shifted = fma(clamped, broadcast(1.44269504f), broadcast(kIntegerShift));
  const Vec n = sub(shifted, broadcast(kIntegerShift));
  Vec r = fma(n, broadcast(-0.693359375f), clamped);
  r = fma(n, broadcast(2.12194440e-4f), r);
  Vec p = broadcast(1.9875691e-4f);
  p = fma(p, r, broadcast(1.3981999e-3f));
  p = fma(p, r, broadcast(8.3334519e-3f));
  p = fma(p, r, broadcast(4.1665796e-2f));
  p = fma(p, r, broadcast(1.6666666e-1f));
  p = fma(p, r, broadcast(0.5f));
  p = fma(p, mul(r, r), add(r, broadcast(1.0f)));
  return select_less(x, limit, broadcast(0.0f), add_exponent(p, shifted));
}

// tanh(x) = sign(x) (1 - e) / (1 + e), e = exp(-2|x|); absolute error below 2e-7.
SHOAL_VEC Vec tanh_of(const Vec& x) {
  const Vec one = broadcast(1.0f);
  const Vec e = exp_nonpositive(mul(abs(x), broadcast(-2.0f)));
  const Vec magnitude = div(sub(one, e), add(one, e));
  return select_less(x, broadcast(0.0f), negate(magnitude), magnitude);
}

void rms_norm(const float* x, const float* weight, float eps, int n, float* y) {
  Vec squares = broadcast(0.0f);
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const Vec v = load(x + i);
    squares = fma(v, v, squares);
  }
  if (i < n) {
    const Vec v = load_partial(x + i, n - i);
    squares = fma(v, v, squares);
  }
  const Vec inverse = broadcast(1.0f / __builtin_sqrtf(reduce_add(squares) / static_cast<float>(n) + eps));
  for (i = 0; i + 16 <= n; i += 16) store(y + i, mul(mul(load(x + i), inverse), load(weight + i)));
  if (i < n) {
    const Vec v = mul(mul(load_partial(x + i, n - i), inverse), load_partial(weight + i, n - i));
    store_partial(y + i, v, n - i);
  }
}

// x - mean of 16 elements from x on; lanes beyond the n that exist are +0.
SHOAL_VEC Vec centred(const float* x, int n, float mean) {
  if (n >= 16) return sub(load(x), broadcast(mean));
  float t[16] = {};
  for (int i = 0; i < n; ++i) t[i] = x[i] - mean;
  return load(t);
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int n, float* y) {
  Vec sum = broadcast(0.0f);
  int i = 0;
  for (; i + 16 <= n; i += 16) sum = add(sum, load(x + i));
  if (i < n) sum = add(sum, load_partial(x + i, n - i));
  const float mean = reduce_add(sum) / static_cast<float>(n);
  Vec squares = broadcast(0.0f);
  for (i = 0; i < n; i += 16) {
    const Vec v = centred(x + i, n - i, mean);
    squares = fma(v, v, squares);
  }
  const Vec inverse = broadcast(1.0f / __builtin_sqrtf(reduce_add(squares) / static_cast<float>(n) + eps));
  for (i = 0; i < n; i += 16) {
    const Vec v = mul(centred(x + i, n - i, mean), inverse);
    if (i + 16 <= n) {
      store(y + i, fma(v, load(weight + i), load(bias + i)));
    } else {
      store_partial(y + i, fma(v, load_partial(weight + i, n - i), load_partial(bias + i, n - i)), n - i);
    }
  }
}

// Rotates the pair (a, b) by the angle whose cosine and sine are c and s.
SHOAL_VEC void rotate(float& a, float& b, float c, float s) {
  const float a0 = a, b0 = b;
  a = __builtin_fmaf(a0, c, -(b0 * s));
  b = __builtin_fmaf(a0, s, b0 * c);
}

void rope(float* x, int n_head, int head_dim, int n_rot, bool interleaved, const float* cos,
          const float* sin) {
  const int half = n_rot / 2;
  for (int h = 0; h < n_head; ++h) {
    float* head = x + static_cast<size_t>(h) * static_cast<size_t>(head_dim);
    if (interleaved) {
      for (int i = 0; i < half; ++i) rotate(head[2 * i], head[2 * i + 1], cos[i], sin[i]);
      continue;
    }
    int i = 0;
    for (; i + 16 <= half; i += 16) {
      const Vec a = load(head + i), b = load(head + half + i), c = load(cos + i), s = load(sin + i);
      store(head + i, fma(a, c, negate(mul(b, s))));
      store(head + half + i, fma(a, s, mul(b, c)));
    }
    for (; i < half; ++i) rotate(head[i], head[half + i], cos[i], sin[i]);
  }
}

// x = op(x, y), element by element, in 16 lanes. An op is a lambda with SHOAL_OP behind its parameters, so
// that it becomes part of both loops.
#define SHOAL_OP __attribute__((always_inline))
template <class Op>
SHOAL_VEC void combine(float* x, const float* y, int n, Op op) {
  int i = 0;
  for (; i + 16 <= n; i += 16) store(x + i, op(load(x + i), load(y + i)));
  if (i < n) store_partial(x + i, op(load_partial(x + i, n - i), load_partial(y + i, n - i)), n - i);
}

// g / (1 + exp(-z)), by exp of -|z| alone, which cannot overflow.
SHOAL_VEC Vec times_sigmoid(const Vec& g, const Vec& z) {
  const Vec one = broadcast(1.0f);
  const Vec e = exp_nonpositive(negate(abs(z)));
  const Vec numerator = select_less(z, broadcast(0.0f), e, one);
  return mul(g, div(numerator, add(e, one)));
}

void silu_mul(float* gate, const float* up, int n) {
  combine(gate, up, n, [](const Vec& g, const Vec& u) SHOAL_OP { return mul(times_sigmoid(g, g), u); });
}

// gelu(g) = g / 2 (1 + tanh(u)) = g sigmoid(2 u), u = sqrt(2 / pi) (g + 0.044715 g^3): without the sum, small
// results keep their digits.
SHOAL_VEC Vec gelu(const Vec& g) {
  const Vec square = mul(g, g);
  const Vec z = mul(g, fma(square, broadcast(0.0713548162726f), broadcast(1.59576912161f)));
  return times_sigmoid(g, z);
}

// x Phi(x). Phi(-|x|) = erfc(|x| / sqrt(2)) / 2 by the polynomial 7.1.26 of Abramowitz and Stegun.
SHOAL_VEC Vec gelu_by_erf(const Vec& x) {
  const Vec one = broadcast(1.0f);
  const Vec z = mul(abs(x), broadcast(0.70710678119f));
  const Vec t = div(one, fma(z, broadcast(0.3275911f), one));
  Vec p = broadcast(1.061405429f);
  p = fma(p, t, broadcast(-1.453152027f));
  p = fma(p, t, broadcast(1.421413741f));
  p = fma(p, t, broadcast(-0.284496736f));
  p = fma(p, t, broadcast(0.254829592f));
  const Vec tail = mul(mul(mul(p, t), broadcast(0.5f)), exp_nonpositive(negate(mul(z, z))));
  return mul(x, select_less(x, broadcast(0.0f), tail, sub(one, tail)));
}

void gelu_of(float* x, int n) {
  combine(x, x, n, [](const Vec& a, const Vec&) { return gelu_by_erf(a); });
}

void gelu_mul(float* gate, const float* up, int n) {
  combine(gate, up, n, [](const Vec& g, const Vec& u) SHOAL_OP { return mul(gelu(g), u); });
}

void add_to(float* x, const float* y, int n) {
  int i = 0;
  for (; i + 16 <= n; i += 16) store(x + i, add(load(x + i), load(y + i)));
  for (; i < n; ++i) x[i] += y[i];
}

void add_scaled(float* x, const float* y, float scale, int n) {
  const Vec s = broadcast(scale);
  combine(x, y, n, [&](const Vec& a, const Vec& b) SHOAL_OP { return fma(b, s, a); });
}

void scale_by(float* x, float scale, int n) {
  const Vec s = broadcast(scale);
  combine(x, x, n, [&](const Vec& a, const Vec&) SHOAL_OP { return mul(a, s); });
}

void soft_cap(float* x, float cap, int n) {
  const Vec c = broadcast(cap);
  combine(x, x, n, [&](const Vec& a, const Vec&) SHOAL_OP { return mul(c, tanh_of(div(a, c))); });
}

// Lanes [0, n) of p, -inf in the others.
inline Vec load_partial_or_lowest(const float* p, int n) {
  float t[16];
  for (int i = 0; i < 16; ++i) t[i] = i < n ? p[i] : -__builtin_inff();
  return load(t);
}

float largest(const float* x, int n) {
  Vec best = broadcast(-__builtin_inff());
  int i = 0;
  for (; i + 16 <= n; i += 16) best = max(load(x + i), best);
  if (i < n) best = max(load_partial_or_lowest(x + i, n - i), best);
  return reduce_max(best);
}

float sum_of_exps(const float* x, float highest, int n) {
  const Vec shift = broadcast(highest);
  const auto term = [&](const Vec& v) {  // a comparison with NaN is false
    return select_less(v, broadcast(__builtin_inff()), exp_nonpositive(sub(v, shift)), broadcast(0.0f));
  };
  Vec sum = broadcast(0.0f);
  int i = 0;
  for (; i + 16 <= n; i += 16) sum = add(sum, term(load(x + i)));
  if (i < n) sum = add(sum, term(load_partial_or_lowest(x + i, n - i)));
  return reduce_add(sum);
}

void f16_to_f32(const uint16_t* x, int n, float* y) {
  int i = 0;
  for (; i + 16 <= n; i += 16) store(y + i, load_f16(x + i));
  if (i < n) store_partial(y + i, load_f16_partial(x + i, n - i), n - i);
}

void f32_to_f16(const float* x, int n, uint16_t* y) {
  int i = 0;
  for (; i + 16 <= n; i += 16) store_f16(y + i, load(x + i));
  if (i == n) return;
  uint16_t t[16];
  store_f16(t, load_partial(x + i, n - i));
  for (int l = 0; i + l < n; ++l) y[i + l] = t[l];
}

// The largest magnitude of 32 elements; NaN where one is NaN or infinite, which int8 has no value for.
SHOAL_VEC float largest_magnitude(const Vec& lo, const Vec& hi) {
  const float amax = reduce_max(max(abs(lo), abs(hi)));
  return any_nan(lo, hi) || amax > kLargestFloat ? __builtin_nanf("") : amax;
}

void quantize(const float* x, int n, int8_t* q, float* scale, int32_t* sum) {
  const Vec shift = broadcast(kIntegerShift);
  for (int b = 0; b < n / kQuantBlock; ++b, x += kQuantBlock, q += kQuantBlock) {
    const Vec lo = load(x), hi = load(x + 16);
    const float amax = largest_magnitude(lo, hi);
    // Below 1e-30 the quotient 127 / amax could overflow.
    const bool zero = amax < 1e-30f;
    const Vec inverse = broadcast(zero ? 0.0f : 127.0f / amax);
    scale[b] = zero ? 0.0f : amax / 127.0f;
    sum[b] = store_i8(q, add(mul(lo, inverse), shift), add(mul(hi, inverse), shift));
  }
}

}  // namespace
}  // namespace shoal

#include "tensor/kv_pages_impl.h"

#include "tensor/attention_impl.h"

namespace shoal {
namespace {

constexpr FloatOps kTable = {rms_norm,  rope,       silu_mul, add_to,      store_k,    store_v,
                             attention, quantize,   largest,  sum_of_exps, f16_to_f32, f32_to_f16,
                             gelu_mul,  add_scaled, scale_by, soft_cap,    layer_norm, gelu_of};

}  // namespace
}  // namespace shoal
