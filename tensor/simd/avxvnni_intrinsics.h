// The intrinsic of AVX-VNNI, from the compiler, or with SHOAL_EMULATE_AVXVNNI from SIMDe
// (https://github.com/simd-everywhere): plain C++ of the same meaning, so that the same source can be checked
// on a processor without AVX-VNNI (tests/emulated). Not for use: it is slow.
#pragma once

#include <immintrin.h>

#if defined(SHOAL_EMULATE_AVXVNNI)
#include <simde/x86/avx512/dpbusd.h>

namespace shoal {
namespace {

// Called, not inlined: the unrolled kernels have thousands of these, which take minutes to compile inlined.
[[maybe_unused, gnu::noinline]] __m256i emulated_dpbusd(__m256i sum, __m256i unsigned_bytes,
                                                        __m256i signed_bytes) {
  return simde_mm256_dpbusd_epi32(sum, unsigned_bytes, signed_bytes);
}

}  // namespace
}  // namespace shoal

#define _mm256_dpbusd_avx_epi32(sum, unsigned_bytes, signed_bytes) \
  ::shoal::emulated_dpbusd(sum, unsigned_bytes, signed_bytes)
#endif
