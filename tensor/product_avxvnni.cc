// Products for AVX-VNNI, the 256-bit form of the VNNI instructions for processors without AVX-512.
//
// vpdpbusd adds four products u8 x i8 to 32 bits without saturating, so no format needs care; an offset is
// taken off by letting the integer start at -offset * (sum of the activations) instead of 0. With sub-scales
// the two integers of 16 columns are scaled as floats, exactly: product_avx512.cc says why the bits are those
// of the integer form.
#include "tensor/product_avx2_impl.h"
#include "tensor/simd/avxvnni_intrinsics.h"

namespace shoal {
namespace {

struct DpbusdDot {
  static constexpr int kTileRows = 6;  // 12 integers, 2 weights and 1 activation in 16 registers

  // acc[c][p] += the products of steps [kFirst, kLast) of the block `w` and activation row c.
  template <class Source, int kFirst, int kLast, int C>
  static void add_products(const typename Source::Block& w, const ActivationBlock<C>& a,
                           __m256i (&acc)[C][kParts]) {
    SHOAL_UNROLL for (int i = kFirst; i < kLast; ++i) {
      const int j = step<Source>(i);
      __m256i q[kParts];
      SHOAL_UNROLL for (int p = 0; p < kParts; ++p) q[p] = w.weights(p, j);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const __m256i x = broadcast_word(a.q[c] + 4 * j);
        SHOAL_UNROLL for (int p = 0; p < kParts; ++p) acc[c][p] = _mm256_dpbusd_avx_epi32(acc[c][p], q[p], x);
      }
    }
  }

  // acc[c][p] = -offset * sum_of(c), where the integer starts.
  template <class Source, int C, class SumOf>
  static void start(const Source& source, SumOf sum_of, __m256i (&acc)[C][kParts]) {
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      __m256i first = _mm256_setzero_si256();
      if constexpr (Source::template kHasOffset<0>) {
        first = _mm256_sub_epi32(first, source.template times_offset<0>(_mm256_set1_epi32(sum_of(c))));
      }
      SHOAL_UNROLL for (int p = 0; p < kParts; ++p) acc[c][p] = first;
    }
  }

  template <class Source, int C>
  static void dot(const Source& source, const typename Source::Block& w, const ActivationBlock<C>& a,
                  __m256 (&t)[C][kParts]) {
    __m256i acc[C][kParts];
    if constexpr (!has_sub(Source::kKind)) {
      start(
          source, [&](int c) { return a.sum[c]; }, acc);
      add_products<Source, 0, 8>(w, a, acc);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        SHOAL_UNROLL for (int p = 0; p < kParts; ++p) t[c][p] = _mm256_cvtepi32_ps(acc[c][p]);
      }
    } else {
      add_half<Source, 0>(source, w, a, t);
      add_half<Source, 1>(source, w, a, t);
    }
  }

  // The 16 columns of half h: t = scale0 t0, then t += scale1 t1.
  template <class Source, int kHalf, int C>
  static void add_half(const Source& source, const typename Source::Block& w, const ActivationBlock<C>& a,
                       __m256 (&t)[C][kParts]) {
    __m256i acc[C][kParts];
    start(
        source, [&](int c) { return int{a.half_sum[c][kHalf]}; }, acc);
    add_products<Source, 4 * kHalf, 4 * kHalf + 4>(w, a, acc);
    SHOAL_UNROLL for (int p = 0; p < kParts; ++p) {
      const __m256i pairs = w.sub_scales(p);
      const __m256i words = _mm256_srai_epi32(kHalf == 0 ? _mm256_slli_epi32(pairs, 16) : pairs, 16);
      const __m256 scale = _mm256_cvtepi32_ps(words);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const __m256 part = _mm256_cvtepi32_ps(acc[c][p]);
        t[c][p] = kHalf == 0 ? _mm256_mul_ps(part, scale) : _mm256_fmadd_ps(part, scale, t[c][p]);
      }
    }
  }
};

}  // namespace

const ProductOps kProductOpsAvxVnni = make_product_ops<Products256<DpbusdDot>>();

}  // namespace shoal
