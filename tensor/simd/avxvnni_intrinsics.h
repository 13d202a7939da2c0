// The intrinsic of AVX-VNNI, from the compiler, or with SHOAL_EMULATE_AVXVNNI from SIMDe
// (https://github.com/simd-everywhere): plain C++ of the same meaning, so that the same source can be checked
// on a processor without AVX-VNNI (tests/emulated). Not for use: it is slow.
#pragma once

#include <immintrin.h>

#if defined(SHOAL_EMULATE_AVXVNNI)
#include <simde/x86/avx512/dpbusd.h>
#define _mm256_dpbusd_avx_epi32(sum, unsigned_bytes, signed_bytes) \
  simde_mm256_dpbusd_epi32(sum, unsigned_bytes, signed_bytes)
#endif
