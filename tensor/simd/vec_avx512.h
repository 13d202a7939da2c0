// Sixteen float lanes as one AVX-512 register (AVX512F); see vec_scalar.h for what each function must give.
// With SHOAL_EMULATE_AVX512 the intrinsics come from SIMDe, so that the same source can be checked on a
// processor without AVX-512.
#pragma once

// g++ 12's own AVX-512 header warns about its "undefined" registers (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if defined(SHOAL_EMULATE_AVX512)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#else
#include <immintrin.h>
#endif

#include <cstdint>

namespace shoal {
namespace {

#define SHOAL_VEC inline __attribute__((always_inline))

constexpr int kTileVectors = 16;  // of 32 registers

struct Vec {
  __m512 v;
};

SHOAL_VEC Vec broadcast(float x) {
  return {_mm512_set1_ps(x)};
}
SHOAL_VEC Vec load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
SHOAL_VEC void store(float* p, Vec a) {
  _mm512_storeu_ps(p, a.v);
}

SHOAL_VEC Vec add(Vec a, Vec b) {
  return {_mm512_add_ps(a.v, b.v)};
}
SHOAL_VEC Vec sub(Vec a, Vec b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
SHOAL_VEC Vec mul(Vec a, Vec b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
SHOAL_VEC Vec div(Vec a, Vec b) {
  return {_mm512_div_ps(a.v, b.v)};
}
SHOAL_VEC Vec fma(Vec a, Vec b, Vec c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
SHOAL_VEC Vec negate(Vec a) {
  return {_mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(INT32_MIN)))};
}
SHOAL_VEC Vec abs(Vec a) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(INT32_MAX)))};
}
SHOAL_VEC Vec max(Vec a, Vec b) {
  return {_mm512_max_ps(a.v, b.v)};
}
SHOAL_VEC bool any_nan(Vec a, Vec b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_UNORD_Q) != 0;
}
SHOAL_VEC Vec select_less(Vec x, Vec y, Vec a, Vec b) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, y.v, _CMP_LT_OQ), b.v, a.v)};
}
SHOAL_VEC Vec add_exponent(Vec p, Vec shifted) {
  return {_mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(p.v), _mm512_slli_epi32(_mm512_castps_si512(shifted.v), 23)))};
}

SHOAL_VEC __m256i upper_half(__m512i a) {
  return _mm512_extracti64x4_epi64(a, 1);
}

SHOAL_VEC float reduce_max(Vec a) {
  const __m256 m8 =
      _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm256_castsi256_ps(upper_half(_mm512_castps_si512(a.v))));
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  m = _mm_max_ss(m, _mm_movehdup_ps(m));
  return _mm_cvtss_f32(m);
}

#if defined(SHOAL_EMULATE_AVX512)
// This SIMDe has no 512-bit conversions from halves and bytes; two 256-bit ones are the same numbers.
SHOAL_VEC Vec load_f16(const uint16_t* p) {
  alignas(64) float t[16];
  _mm256_storeu_ps(t, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  _mm256_storeu_ps(t + 8, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8))));
  return load(t);
}
SHOAL_VEC void store_f16(uint16_t* p, const Vec& a) {
  alignas(64) float t[16];
  store(t, a);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(_mm256_loadu_ps(t), 0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(_mm256_loadu_ps(t + 8), 0));
}
SHOAL_VEC Vec load_i8(const int8_t* p) {
  alignas(64) float t[16];
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  _mm256_storeu_ps(t, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
  _mm256_storeu_ps(t + 8, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))));
  return load(t);
}
#else
SHOAL_VEC Vec load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
SHOAL_VEC void store_f16(uint16_t* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
SHOAL_VEC Vec load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
#endif

SHOAL_VEC __m512i low_bits(__m512 shifted) {  // n of n + 1.5 * 2^23
  return _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x4b400000));
}
SHOAL_VEC int32_t store_i8(int8_t* q, Vec lo, Vec hi) {
  const __m512i n0 = low_bits(lo.v), n1 = low_bits(hi.v);
  const __m256i words0 = _mm256_packs_epi32(_mm512_castsi512_si256(n0), upper_half(n0));
  const __m256i words1 = _mm256_packs_epi32(_mm512_castsi512_si256(n1), upper_half(n1));
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
