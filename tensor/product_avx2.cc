// Products for AVX2 with FMA and F16C. How its integers stay exact:
//   vpmaddubsw adds two products u8 x i8 in 16 bits; with |a| <= 127 a result is at most 2 max_q 127:
//     q <= 15: 3,810, eight of them fit 16 bits; q <= 31: 7,874, four; q <= 63: 16,002, two; q <= 255 does
//     not fit, so q - 128 is used as |w| x sign(a, w), at most 32,512, each widened at once;
//   vpmaddwd widens to 32 bits while multiplying by 1, or by the scale of the 16 columns.
#include "tensor/product_avx2_impl.h"

namespace shoal {
namespace {

// How many products of vpmaddubsw may be added in 16 bits. With sub-scales at most the four of 16 columns.
template <class Source>
constexpr int kSteps = Source::kMaxQ <= 15   ? (has_sub(Source::kKind) ? 4 : 8)
                       : Source::kMaxQ <= 31 ? 4
                       : Source::kMaxQ <= 63 ? 2
                                             : 1;

// [s, s] of half h from the pairs [s0, s1].
inline __m256i both(__m256i pairs, int h) {
  return h == 0 ? _mm256_blend_epi16(pairs, _mm256_slli_epi32(pairs, 16), 0xaa)
                : _mm256_blend_epi16(pairs, _mm256_srli_epi32(pairs, 16), 0x55);
}

template <int kMaxQ>
inline __m256i multiply_bytes(__m256i w, __m256i magnitude, __m256i a) {
  if constexpr (kMaxQ == 255) return _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(a, w));
  return _mm256_maddubs_epi16(w, a);
}

struct MaddubsDot {
  // 2 to 6 rows, and one part at a time instead of both, were within 5 % of each other for many rows (Zen 3);
  // 4 serves small batches best.
  static constexpr int kTileRows = 4;

  // t[c][p] = the sum of q a, where q lacks kTaken<Source> of the unsigned byte.
  template <class Source, int C>
  static void integers(const typename Source::Block& w, const ActivationBlock<C>& a,
                       __m256i (&t)[C][kParts]) {
    constexpr int kGroup = kSteps<Source>;
    SHOAL_UNROLL for (int g = 0; g < 8 / kGroup; ++g) {
      __m256i sum[C][kParts];
      SHOAL_UNROLL for (int i = 0; i < kGroup; ++i) {
        const int j = step<Source>(g * kGroup + i);
        __m256i q[kParts], magnitude[kParts];
        SHOAL_UNROLL for (int p = 0; p < kParts; ++p) {
          q[p] = magnitude[p] = w.weights(p, j);
          if constexpr (Source::kMaxQ == 255) {
            q[p] = _mm256_xor_si256(q[p], _mm256_set1_epi8(-128));
            magnitude[p] = _mm256_abs_epi8(q[p]);
          }
        }
        SHOAL_UNROLL for (int c = 0; c < C; ++c) {
          const __m256i x = broadcast_word(a.q[c] + 4 * j);
          SHOAL_UNROLL for (int p = 0; p < kParts; ++p) {
            const __m256i product = multiply_bytes<Source::kMaxQ>(q[p], magnitude[p], x);
            sum[c][p] = i == 0 ? product : _mm256_add_epi16(sum[c][p], product);
          }
        }
      }
      SHOAL_UNROLL for (int p = 0; p < kParts; ++p) {
        __m256i factor = _mm256_set1_epi16(1);
        if constexpr (has_sub(Source::kKind)) factor = both(w.sub_scales(p), g * kGroup / 4);
        SHOAL_UNROLL for (int c = 0; c < C; ++c) {
          const __m256i wide = _mm256_madd_epi16(sum[c][p], factor);
          t[c][p] = g == 0 ? wide : _mm256_add_epi32(t[c][p], wide);
        }
      }
    }
  }

  template <class Source, int C>
  static void dot(const Source& source, const typename Source::Block& w, const ActivationBlock<C>& a,
                  __m256 (&t)[C][kParts]) {
    __m256i integer[C][kParts];
    integers<Source>(w, a, integer);
    constexpr int kTaken = Source::kMaxQ == 255 ? 128 : 0;
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      SHOAL_UNROLL for (int p = 0; p < kParts; ++p) {
        if constexpr (Source::template kHasOffset<kTaken>) {
          __m256i sums = broadcast_word(&a.sum[c]);
          if constexpr (has_sub(Source::kKind)) {
            sums = _mm256_madd_epi16(w.sub_scales(p), broadcast_word(a.half_sum[c]));
          }
          integer[c][p] = _mm256_sub_epi32(integer[c][p], source.template times_offset<kTaken>(sums));
        }
        t[c][p] = _mm256_cvtepi32_ps(integer[c][p]);
      }
    }
  }
};

}  // namespace

const ProductOps kProductOpsAvx2 = make_product_ops<Products256<MaddubsDot>>();

}  // namespace shoal
