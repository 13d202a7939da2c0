// Sixteen float lanes in plain C++: the definition that every other vec_*.h must equal bit for bit.
//
// A vec_*.h gives one type `Vec` and the functions below. It is included by exactly one source file, built
// with that instruction set's flags; everything has internal linkage, so the linker can never put one
// instruction set's code in place of another's. No standard library templates are used here for the same
// reason.
#pragma once

#include <cstdint>
#include <cstring>

namespace shoal {
namespace {

#define SHOAL_VEC inline __attribute__((always_inline))

// How many Vec of running sums a kernel may keep in registers.
constexpr int kTileVectors = 6;

struct Vec {
  float lane[16];
};

SHOAL_VEC uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

SHOAL_VEC float bits_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

template <class Op>
SHOAL_VEC Vec each_lane(Op op) {
  Vec r;
  for (int i = 0; i < 16; ++i) r.lane[i] = op(i);
  return r;
}

SHOAL_VEC Vec broadcast(float x) {
  return each_lane([&](int) { return x; });
}
SHOAL_VEC Vec load(const float* p) {
  return each_lane([&](int i) { return p[i]; });
}
SHOAL_VEC void store(float* p, const Vec& a) {
  std::memcpy(p, a.lane, sizeof a.lane);
}

SHOAL_VEC Vec add(const Vec& a, const Vec& b) {
  return each_lane([&](int i) { return a.lane[i] + b.lane[i]; });
}
SHOAL_VEC Vec sub(const Vec& a, const Vec& b) {
  return each_lane([&](int i) { return a.lane[i] - b.lane[i]; });
}
SHOAL_VEC Vec mul(const Vec& a, const Vec& b) {
  return each_lane([&](int i) { return a.lane[i] * b.lane[i]; });
}
SHOAL_VEC Vec div(const Vec& a, const Vec& b) {
  return each_lane([&](int i) { return a.lane[i] / b.lane[i]; });
}
// a * b + c, rounded once. On processors without FMA this is the C library's exact software version.
SHOAL_VEC Vec fma(const Vec& a, const Vec& b, const Vec& c) {
  return each_lane([&](int i) { return __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); });
}
SHOAL_VEC Vec negate(const Vec& a) {
  return each_lane([&](int i) { return -a.lane[i]; });
}
SHOAL_VEC Vec abs(const Vec& a) {
  return each_lane([&](int i) { return __builtin_fabsf(a.lane[i]); });
}
// a > b ? a : b, so b where either is NaN.
SHOAL_VEC Vec max(const Vec& a, const Vec& b) {
  return each_lane([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
SHOAL_VEC bool any_nan(const Vec& a, const Vec& b) {
  bool found = false;
  for (int i = 0; i < 16; ++i) found |= __builtin_isunordered(a.lane[i], b.lane[i]);
  return found;
}
// x < y ? a : b
SHOAL_VEC Vec select_less(const Vec& x, const Vec& y, const Vec& a, const Vec& b) {
  return each_lane([&](int i) { return x.lane[i] < y.lane[i] ? a.lane[i] : b.lane[i]; });
}
// p * 2^n, where n is the integer in the low bits of `shifted` = n + 1.5 * 2^23, and the result is a normal
// number.
SHOAL_VEC Vec add_exponent(const Vec& p, const Vec& shifted) {
  return each_lane(
      [&](int i) { return bits_float(float_bits(p.lane[i]) + (float_bits(shifted.lane[i]) << 23)); });
}
SHOAL_VEC float reduce_max(const Vec& a) {
  float m = a.lane[0];
  for (int i = 1; i < 16; ++i) m = m > a.lane[i] ? m : a.lane[i];
  return m;
}

// The exact value of an IEEE half; a signalling NaN becomes quiet, as the processors do.
SHOAL_VEC float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
  if (exponent == 31)
    return bits_float(sign | 0x7f800000 | (mantissa << 13) | (mantissa != 0 ? 0x400000 : 0));
  if (exponent == 0) return bits_float(sign | float_bits(float(mantissa) * 0x1p-24f));
  return bits_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

// Round to nearest even; too large becomes infinity.
SHOAL_VEC uint16_t float_to_half(float f) {
  const uint32_t bits = float_bits(f), magnitude = bits & 0x7fffffff;
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
  if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
  if (magnitude >= 0x47800000) return uint16_t(sign | 0x7c00);
  // Below 2^-14 the half is a multiple of 2^-24, the unit in the last place of a float in [0.5, 1).
  if (magnitude < 0x38800000) return uint16_t(sign | (float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000));
  return uint16_t(sign | ((magnitude + 0xfff + ((magnitude >> 13) & 1) - 0x38000000) >> 13));
}

SHOAL_VEC Vec load_f16(const uint16_t* p) {
  return each_lane([&](int i) { return half_to_float(p[i]); });
}
SHOAL_VEC void store_f16(uint16_t* p, const Vec& a) {
  for (int i = 0; i < 16; ++i) p[i] = float_to_half(a.lane[i]);
}

SHOAL_VEC Vec load_i8(const int8_t* p) {
  return each_lane([&](int i) { return float(p[i]); });
}

// Stores 32 lanes n + 1.5 * 2^23, n in [-127, 127], as int8; returns the sum of the n.
SHOAL_VEC int32_t store_i8(int8_t* q, const Vec& lo, const Vec& hi) {
  int32_t sum = 0;
  for (int i = 0; i < 32; ++i) {
    const uint32_t bits = float_bits(i < 16 ? lo.lane[i] : hi.lane[i - 16]);
    q[i] = int8_t(uint8_t(bits & 0xff));
    sum += q[i];
  }
  return sum;
}

}  // namespace
}  // namespace shoal
