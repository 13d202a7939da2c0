// Sixteen float lanes as four NEON registers (Armv8-A); see vec_scalar.h for what each function must give.
// FPCR must be at its default (no flushing of denormals), as Linux starts every thread.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace shoal {
namespace {

#define SHOAL_VEC inline __attribute__((always_inline))

constexpr int kTileVectors = 6;  // 24 of the 32 registers

struct Vec {
  float32x4_t v[4];
};

template <class Op>
SHOAL_VEC Vec each_quad(Op op) {
  return {{op(0), op(1), op(2), op(3)}};
}

SHOAL_VEC Vec broadcast(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {{v, v, v, v}};
}
SHOAL_VEC Vec load(const float* p) {
  return each_quad([&](int i) { return vld1q_f32(p + 4 * i); });
}
SHOAL_VEC void store(float* p, const Vec& a) {
  vst1q_f32(p, a.v[0]);
  vst1q_f32(p + 4, a.v[1]);
  vst1q_f32(p + 8, a.v[2]);
  vst1q_f32(p + 12, a.v[3]);
}

SHOAL_VEC Vec add(const Vec& a, const Vec& b) {
  return each_quad([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
SHOAL_VEC Vec sub(const Vec& a, const Vec& b) {
  return each_quad([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
SHOAL_VEC Vec mul(const Vec& a, const Vec& b) {
  return each_quad([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
SHOAL_VEC Vec div(const Vec& a, const Vec& b) {
  return each_quad([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
SHOAL_VEC Vec fma(const Vec& a, const Vec& b, const Vec& c) {  // vmlaq would round twice
  return each_quad([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
SHOAL_VEC Vec negate(const Vec& a) {
  return each_quad([&](int i) { return vnegq_f32(a.v[i]); });
}
SHOAL_VEC Vec abs(const Vec& a) {
  return each_quad([&](int i) { return vabsq_f32(a.v[i]); });
}
SHOAL_VEC Vec max(const Vec& a, const Vec& b) {  // vmaxq treats NaN and signed zeros differently
  return each_quad([&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
SHOAL_VEC bool any_nan(const Vec& a, const Vec& b) {
  uint32x4_t numbers = vdupq_n_u32(~0u);  // only a NaN is not equal to itself
  for (int i = 0; i < 4; ++i) {
    numbers = vandq_u32(numbers, vandq_u32(vceqq_f32(a.v[i], a.v[i]), vceqq_f32(b.v[i], b.v[i])));
  }
  return vminvq_u32(numbers) == 0;
}
SHOAL_VEC Vec select_less(const Vec& x, const Vec& y, const Vec& a, const Vec& b) {
  return each_quad([&](int i) { return vbslq_f32(vcltq_f32(x.v[i], y.v[i]), a.v[i], b.v[i]); });
}
SHOAL_VEC Vec add_exponent(const Vec& p, const Vec& shifted) {
  return each_quad([&](int i) {
    const uint32x4_t n = vshlq_n_u32(vreinterpretq_u32_f32(shifted.v[i]), 23);
    return vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(p.v[i]), n));
  });
}
SHOAL_VEC float reduce_max(const Vec& a) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3])));
}

SHOAL_VEC Vec load_f16(const uint16_t* p) {
  return each_quad([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}
SHOAL_VEC void store_f16(uint16_t* p, const Vec& a) {
  vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a.v[0])));
  vst1_u16(p + 4, vreinterpret_u16_f16(vcvt_f16_f32(a.v[1])));
  vst1_u16(p + 8, vreinterpret_u16_f16(vcvt_f16_f32(a.v[2])));
  vst1_u16(p + 12, vreinterpret_u16_f16(vcvt_f16_f32(a.v[3])));
}

SHOAL_VEC Vec load_i8(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t lo = vmovl_s8(vget_low_s8(bytes)), hi = vmovl_s8(vget_high_s8(bytes));
  const auto quad = [](int16x4_t words) { return vcvtq_f32_s32(vmovl_s16(words)); };
  return {{quad(vget_low_s16(lo)), quad(vget_high_s16(lo)), quad(vget_low_s16(hi)), quad(vget_high_s16(hi))}};
}

SHOAL_VEC int8x16_t low_bytes(const Vec& a) {  // n of n + 1.5 * 2^23
  const auto words = [&](int i) { return vmovn_s32(vreinterpretq_s32_f32(a.v[i])); };
  return vcombine_s8(vmovn_s16(vcombine_s16(words(0), words(1))),
                     vmovn_s16(vcombine_s16(words(2), words(3))));
}
SHOAL_VEC int32_t store_i8(int8_t* q, const Vec& lo, const Vec& hi) {
  const int8x16_t n0 = low_bytes(lo), n1 = low_bytes(hi);
  vst1q_s8(q, n0);
  vst1q_s8(q + 16, n1);
  return vaddvq_s16(vaddq_s16(vpaddlq_s8(n0), vpaddlq_s8(n1)));
}

}  // namespace
}  // namespace shoal
