// Sixteen float lanes as two AVX2 registers; see vec_scalar.h for what each function must give.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace shoal {
namespace {

#define SHOAL_VEC inline __attribute__((always_inline))

constexpr int kTileVectors = 6;  // 12 of the 16 registers

struct Vec {
  __m256 lo, hi;
};

SHOAL_VEC Vec broadcast(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
SHOAL_VEC Vec load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
SHOAL_VEC void store(float* p, Vec a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}

SHOAL_VEC Vec add(Vec a, Vec b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
SHOAL_VEC Vec sub(Vec a, Vec b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
SHOAL_VEC Vec mul(Vec a, Vec b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
SHOAL_VEC Vec div(Vec a, Vec b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
SHOAL_VEC Vec fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
SHOAL_VEC Vec negate(Vec a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_xor_ps(a.lo, sign), _mm256_xor_ps(a.hi, sign)};
}
SHOAL_VEC Vec abs(Vec a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
SHOAL_VEC Vec max(Vec a, Vec b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
SHOAL_VEC bool any_nan(Vec a, Vec b) {
  return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_UNORD_Q),
                                         _mm256_cmp_ps(a.hi, b.hi, _CMP_UNORD_Q))) != 0;
}
SHOAL_VEC Vec select_less(Vec x, Vec y, Vec a, Vec b) {
  return {_mm256_blendv_ps(b.lo, a.lo, _mm256_cmp_ps(x.lo, y.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(b.hi, a.hi, _mm256_cmp_ps(x.hi, y.hi, _CMP_LT_OQ))};
}

SHOAL_VEC __m256 add_exponent(__m256 p, __m256 shifted) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
}
SHOAL_VEC Vec add_exponent(Vec p, Vec shifted) {
  return {add_exponent(p.lo, shifted.lo), add_exponent(p.hi, shifted.hi)};
}

SHOAL_VEC float reduce_max(Vec a) {
  const __m256 m8 = _mm256_max_ps(a.lo, a.hi);
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  m = _mm_max_ss(m, _mm_movehdup_ps(m));
  return _mm_cvtss_f32(m);
}

SHOAL_VEC Vec load_f16(const uint16_t* p) {
  const __m128i* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
SHOAL_VEC void store_f16(uint16_t* p, Vec a) {
  __m128i* halves = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(halves, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}

SHOAL_VEC Vec load_i8(const int8_t* p) {
  const auto eight = [](const int8_t* q) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(q))));
  };
  return {eight(p), eight(p + 8)};
}

SHOAL_VEC __m256i low_bits(__m256 shifted) {  // n of n + 1.5 * 2^23
  return _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x4b400000));
}
SHOAL_VEC int32_t store_i8(int8_t* q, Vec lo, Vec hi) {
  const __m256i words0 = _mm256_packs_epi32(low_bits(lo.lo), low_bits(lo.hi));
  const __m256i words1 = _mm256_packs_epi32(low_bits(hi.lo), low_bits(hi.hi));
  // The packs work inside 128-bit halves; the permutation puts the groups of four back in order.
  const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words0, words1),
                                                    _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), bytes);
  const __m256i sums = _mm256_madd_epi16(_mm256_add_epi16(words0, words1), _mm256_set1_epi16(1));
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
  return _mm_cvtsi128_si32(sum);
}

}  // namespace
}  // namespace shoal
