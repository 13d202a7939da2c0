// The AVX-512 intrinsics, from the compiler, or with SHOAL_EMULATE_AVX512 from SIMDe
// (https://github.com/simd-everywhere): plain C++ of the same meaning, so that the same source can be checked
// on a processor without AVX-512 (tests/emulated). The few that SIMDe 0.7.4 lacks or gets wrong are written
// out here. Not for use: it is slow.
#pragma once

// g++ 12's own AVX-512 header warns about its "undefined" registers (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#if !defined(SHOAL_EMULATE_AVX512)

#include <immintrin.h>

#else

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>

namespace shoal {
namespace {

// A 512-bit conversion as two of 256 bits, which this processor has.
inline __m512 two_halves(__m256 low, __m256 high) {
  float lanes[16];
  _mm256_storeu_ps(lanes, low);
  _mm256_storeu_ps(lanes + 8, high);
  return _mm512_loadu_ps(lanes);
}
inline __m512i two_halves(__m256i low, __m256i high) {
  return _mm512_castps_si512(two_halves(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)));
}
inline __m512 emulated_cvtph_ps(__m256i halves) {
  return two_halves(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
                    _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
}
inline __m512 emulated_cvtepi32_ps(__m512i words) {
  return two_halves(_mm256_cvtepi32_ps(_mm512_castsi512_si256(words)),
                    _mm256_cvtepi32_ps(_mm512_extracti64x4_epi64(words, 1)));
}
inline __m512i emulated_cvtepi8_epi32(__m128i bytes) {
  return two_halves(_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)));
}
inline __m512i emulated_cvtepu16_epi32(__m256i words) {
  return two_halves(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(words)),
                    _mm256_cvtepu16_epi32(_mm256_extracti128_si256(words, 1)));
}
inline __m512i emulated_srai_epi32(__m512i words, int count) {
  return two_halves(_mm256_srai_epi32(_mm512_castsi512_si256(words), count),
                    _mm256_srai_epi32(_mm512_extracti64x4_epi64(words, 1), count));
}

// Called, not inlined: the unrolled kernels have thousands of these, which take a minute to compile inlined.
[[maybe_unused, gnu::noinline]] __m512i emulated_dpbusd(__m512i sum, __m512i unsigned_bytes,
                                                        __m512i signed_bytes) {
  return simde_mm512_dpbusd_epi32(sum, unsigned_bytes, signed_bytes);
}

}  // namespace
}  // namespace shoal

#undef _mm512_dpbusd_epi32
#undef _mm512_srai_epi32
#undef _mm512_madd_epi16  // this SIMDe gives the name to the masked form
#undef _mm512_cvtph_ps
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
#define _mm512_dpbusd_epi32(sum, unsigned_bytes, signed_bytes) \
  ::shoal::emulated_dpbusd(sum, unsigned_bytes, signed_bytes)
#define _mm512_srai_epi32(a, count) ::shoal::emulated_srai_epi32(a, count)
#define _mm512_cvtph_ps(a) ::shoal::emulated_cvtph_ps(a)
#define _mm512_cvtepi32_ps(a) ::shoal::emulated_cvtepi32_ps(a)
#define _mm512_cvtepi8_epi32(a) ::shoal::emulated_cvtepi8_epi32(a)
#define _mm512_cvtepu16_epi32(a) ::shoal::emulated_cvtepu16_epi32(a)

#endif
