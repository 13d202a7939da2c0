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

// ---- Bytes times many rows, in 16 bits ----
//
// |w| x sign(a, w) costs four instructions for 32 products beside making |w|. Widened beforehand, weights
// once for many rows and activations once for many groups, two vpmaddwd and two vpaddd do, a sixth faster
// (Zen 3). The even bytes of a word are widened to one word, the odd ones to another, in both operands.

using Driver = ProductDriver<Products256<MaddubsDot>>;

constexpr int kWideBlocks = 24;  // a chunk of columns: 26 KiB of weights in the first-level cache
constexpr int kWideRows = 64;    // whose chunk of activations, 102 KiB, stays in the second-level cache
static_assert(kWideRows % MaddubsDot::kTileRows == 0);
constexpr int kRowsForWide = 32;  // so many are in tiles of full width
static_assert(kRowsForWide > MaddubsDot::kTileRows * MaddubsDot::kTileRows);

struct WidePanel {
  int16_t q[16][16][2];  // [j][row]: columns 4j, 4j + 2; [8 + j][row]: columns 4j + 1, 4j + 3
  float scale[16];
};

template <int C>
struct WideActivations {
  int16_t q[C][16][2];  // as in WidePanel
  float scale[C];
};
constexpr int kWideBytes = sizeof(WideActivations<1>);
static_assert(sizeof(WideActivations<4>) == 4 * kWideBytes);

inline void store_widened(__m256i bytes, void* even, void* odd) {
  _mm256_storeu_si256(static_cast<__m256i*>(even), _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8));
  _mm256_storeu_si256(static_cast<__m256i*>(odd), _mm256_srai_epi16(bytes, 8));
}

template <class Block>
void widen_weights(const Block& w, WidePanel& out) {
  for (int p = 0; p < kParts; ++p) {
    SHOAL_UNROLL for (int j = 0; j < 8; ++j) {
      const __m256i q = _mm256_xor_si256(w.weights(p, j), _mm256_set1_epi8(-128));
      store_widened(q, out.q[j][8 * p], out.q[8 + j][8 * p]);
    }
    _mm256_storeu_ps(out.scale + 8 * p, w.scale(p));
  }
}

template <int C>
void widen_activations(const ActivationBlock<C>* a, int blocks, WideActivations<C>* out) {
  for (int b = 0; b < blocks; ++b) {
    for (int c = 0; c < C; ++c) {
      store_widened(load(a[b].q[c]), out[b].q[c][0], out[b].q[c][8]);
      out[b].scale[c] = a[b].scale[c];
    }
  }
}

template <int C>
void wide_tile(const WidePanel* w, int blocks, const WideActivations<C>* a, float (*sums)[16]) {
  __m256 sum[C][kParts];
  SHOAL_UNROLL for (int c = 0; c < C; ++c) {
    SHOAL_UNROLL for (int p = 0; p < kParts; ++p) sum[c][p] = _mm256_loadu_ps(sums[c] + 8 * p);
  }
  for (int b = 0; b < blocks; ++b) {
    __m256i t[C][kParts];
    SHOAL_UNROLL for (int j = 0; j < 16; ++j) {
      __m256i q[kParts];
      SHOAL_UNROLL for (int p = 0; p < kParts; ++p) q[p] = load(w[b].q[j][8 * p]);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const __m256i x = broadcast_word(a[b].q[c][j]);
        SHOAL_UNROLL for (int p = 0; p < kParts; ++p) {
          const __m256i product = _mm256_madd_epi16(q[p], x);
          t[c][p] = j == 0 ? product : _mm256_add_epi32(t[c][p], product);
        }
      }
    }
    SHOAL_UNROLL for (int p = 0; p < kParts; ++p) {
      const __m256 scale = _mm256_loadu_ps(w[b].scale + 8 * p);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const __m256 factor = _mm256_mul_ps(scale, _mm256_broadcast_ss(&a[b].scale[c]));
        sum[c][p] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(t[c][p]), factor, sum[c][p]);
      }
    }
  }
  SHOAL_UNROLL for (int c = 0; c < C; ++c) {
    SHOAL_UNROLL for (int p = 0; p < kParts; ++p) _mm256_storeu_ps(sums[c] + 8 * p, sum[c][p]);
  }
}

// At most kWideRows rows. Between chunks of columns the sums wait in y.
template <TensorType kType>
void multiply_wide_rows(const ProductArgs& a) {
  alignas(64) WidePanel panels[kWideBlocks];
  alignas(64) std::byte wide[kWideRows * kWideBlocks * kWideBytes];
  const auto wide_rows = [&]<int C>(int row) {
    return reinterpret_cast<WideActivations<C>*>(wide + row * kWideBlocks * kWideBytes);
  };
  const int64_t blocks = a.cols / 32;
  for (int64_t b0 = 0; b0 < blocks; b0 += kWideBlocks) {
    const int n = static_cast<int>(blocks - b0 < kWideBlocks ? blocks - b0 : kWideBlocks);
    Driver::for_each_tile(a, [&]<int C>(int row) {
      widen_activations<C>(Driver::tile<C>(a, row) + b0, n, wide_rows.template operator()<C>(row));
    });
    for (int64_t g = 0; g < a.groups; ++g) {
      const auto source = packed_source<kType>(a.weights + g * a.group_bytes, a.cols);
      for (int b = 0; b < n; ++b) widen_weights(source.at({}, static_cast<int>(b0) + b), panels[b]);
      Driver::for_each_tile(a, [&]<int C>(int row) {
        alignas(64) float sums[C][16] = {};
        if (b0 > 0) Driver::load_sums<C>(a, g, row, sums);
        wide_tile<C>(panels, n, wide_rows.template operator()<C>(row), sums);
        Driver::store_sums<C>(a, g, row, sums);
      });
    }
  }
}

template <TensorType kType>
void multiply_wide(ProductArgs a) {
  const int rows = a.rows;
  for (int row = 0; row < rows; row += kWideRows) {
    a.rows = rows - row < kWideRows ? rows - row : kWideRows;
    multiply_wide_rows<kType>(a);
    a.tiles += kWideRows * (a.cols / 32) * kActivationBlockBytes;
    a.y += kWideRows * a.ld_y;
  }
}

void multiply(const Format& format, const ProductArgs& a) {
  if (a.rows >= kRowsForWide && format.type == TensorType::kQ8_0) return multiply_wide<TensorType::kQ8_0>(a);
  if (a.rows >= kRowsForWide && format.type == TensorType::kIQ4_NL)
    return multiply_wide<TensorType::kIQ4_NL>(a);
  Driver::multiply(format, a);
}

}  // namespace

const ProductOps kProductOpsAvx2 = {MaddubsDot::kTileRows, multiply};

}  // namespace shoal
