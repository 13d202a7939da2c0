#include "bench/integer_peak.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace shoal::bench {
namespace {

constexpr int kChains =
    12;  // enough to hide the latency; accumulators, operand and constant fit 16 registers

#if defined(__x86_64__)

// The operand is hidden from the optimiser in each round, so that no product can be taken out of the loop.
__attribute__((target("avx512f,avx512vnni"))) uint64_t vnni512(int64_t rounds) {
  __m512i sum[kChains] = {}, w = _mm512_set1_epi8(3), x = _mm512_set1_epi8(-5);
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+v"(w), "+v"(x));
    _Pragma("GCC unroll 12") for (auto& s : sum) s = _mm512_dpbusd_epi32(s, w, x);
  }
  __m512i total = sum[0];
  for (int i = 1; i < kChains; ++i) total = _mm512_add_epi32(total, sum[i]);
  return static_cast<uint64_t>(total[0]);
}

__attribute__((target("avx2,avxvnni"))) uint64_t vnni256(int64_t rounds) {
  __m256i sum[kChains] = {}, w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(-5);
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+x"(w), "+x"(x));
    _Pragma("GCC unroll 12") for (auto& s : sum) s = _mm256_dpbusd_avx_epi32(s, w, x);
  }
  __m256i total = sum[0];
  for (int i = 1; i < kChains; ++i) total = _mm256_add_epi32(total, sum[i]);
  return static_cast<uint64_t>(total[0]);
}

// vpmaddubsw, vpmaddwd, vpaddd: what AVX2 needs for bytes of any size.
__attribute__((target("avx2"))) uint64_t maddubs(int64_t rounds) {
  __m256i sum[kChains] = {}, w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(-5);
  const __m256i one = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < rounds; ++i) {
    _Pragma("GCC unroll 12") for (auto& s : sum) {
      asm volatile("" : "+x"(w), "+x"(x));
      s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), one));
    }
  }
  __m256i total = sum[0];
  for (int i = 1; i < kChains; ++i) total = _mm256_add_epi32(total, sum[i]);
  return static_cast<uint64_t>(total[0]);
}

// Nibbles: eight results of vpmaddubsw are added in 16 bits before they are widened.
__attribute__((target("avx2"))) uint64_t maddubs_nibbles(int64_t rounds) {
  constexpr int kShort = 6;
  __m256i sum[kShort] = {}, w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(-5);
  const __m256i one = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < rounds; ++i) {
    __m256i part[kShort];
    _Pragma("GCC unroll 8") for (int j = 0; j < 8; ++j) {
      _Pragma("GCC unroll 6") for (int c = 0; c < kShort; ++c) {
        asm volatile("" : "+x"(w), "+x"(x));
        const __m256i product = _mm256_maddubs_epi16(w, x);
        part[c] = j == 0 ? product : _mm256_add_epi16(part[c], product);
      }
    }
    _Pragma("GCC unroll 6") for (int c = 0; c < kShort; ++c) {
      sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(part[c], one));
    }
  }
  __m256i total = sum[0];
  for (int i = 1; i < kShort; ++i) total = _mm256_add_epi32(total, sum[i]);
  return static_cast<uint64_t>(total[0]);
}

#elif defined(__aarch64__)

__attribute__((target("arch=armv8.2-a+dotprod"))) uint64_t sdot(int64_t rounds) {
  int32x4_t sum[kChains] = {};
  int8x16_t w = vdupq_n_s8(3), x = vdupq_n_s8(-5);
  for (int64_t i = 0; i < rounds; ++i) {
    asm volatile("" : "+w"(w), "+w"(x));
    _Pragma("GCC unroll 12") for (auto& s : sum) s = vdotq_s32(s, w, x);
  }
  int32x4_t total = sum[0];
  for (int i = 1; i < kChains; ++i) total = vaddq_s32(total, sum[i]);
  return static_cast<uint64_t>(vaddvq_s32(total));
}

// smull, smlal2, sadalp: two products in 16 bits, then widened.
uint64_t smull(int64_t rounds) {
  int32x4_t sum[kChains] = {};
  int8x16_t w = vdupq_n_s8(3), x = vdupq_n_s8(-5);
  for (int64_t i = 0; i < rounds; ++i) {
    _Pragma("GCC unroll 12") for (auto& s : sum) {
      asm volatile("" : "+w"(w), "+w"(x));
      s = vpadalq_s16(s, vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x));
    }
  }
  int32x4_t total = sum[0];
  for (int i = 1; i < kChains; ++i) total = vaddq_s32(total, sum[i]);
  return static_cast<uint64_t>(vaddvq_s32(total));
}

#else
#error "a chain for this processor is missing: see vnni512 for what it has to do"
#endif

}  // namespace

IntegerChains best_integer_chains() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vnni"))
    return {"vpdpbusd zmm", vnni512, kChains * 128, vnni512, kChains * 128};
  if (__builtin_cpu_supports("avxvnni"))
    return {"vpdpbusd ymm", vnni256, kChains * 64, vnni256, kChains * 64};
  return {"vpmaddubsw ymm", maddubs, kChains * 64, maddubs_nibbles, 6 * 8 * 64};
#else
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) return {"sdot", sdot, kChains * 32, sdot, kChains * 32};
  return {"smull", smull, kChains * 32, smull, kChains * 32};
#endif
}

}  // namespace shoal::bench
