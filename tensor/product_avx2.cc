// Products for AVX2 with FMA and F16C: a lane is a row, so a group of 16 rows is two registers, its parts.
//
// A tile kernel reads its weights through a source, which gives for each 32-wide block the operand of part p
// and columns 4j..4j+3 as unsigned bytes, and the scales. There is one source for panels and one per kind of
// packed layout, so that every format runs the same loop. How its integers stay exact:
//   vpmaddubsw adds two products u8 x i8 in 16 bits; with |a| <= 127 a result is at most 2 max_q 127:
//     q <= 15: 3,810, eight of them fit 16 bits; q <= 31: 7,874, four; q <= 63: 16,002, two; q <= 255 does
//     not fit, so q - 128 is used as |w| x sign(a, w), at most 32,512, each widened at once;
//   vpmaddwd widens to 32 bits while multiplying by 1, or by the scale of the 16 columns.
#include <immintrin.h>

#include <iterator>

#include "tensor/formats/packed_layout.h"
#include "tensor/product_driver.h"

#define SHOAL_UNROLL _Pragma("GCC unroll 16")

namespace shoal {
namespace {

inline __m256i load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline __m256 load_halves(const void* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
inline __m256i broadcast_word(const void* p) {
  int word;
  __builtin_memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}

constexpr int kParts = 2;

constexpr bool has_sub(PanelKind kind) {
  return kind == PanelKind::kSubScale || kind == PanelKind::kSubScaleMin;
}

// ---- Sources
// ----------------------------------------------------------------------------------------------------

constexpr int kPrefetchBytes = 4096;  // ahead of the block being read

// Asks for `kBytes` bytes, block b's share of the packed group, at the prefetch distance.
template <int kBytes>
inline void prefetch_block(const uint8_t* group, int b) {
  const char* ahead = reinterpret_cast<const char*>(group) + int64_t{b} * kBytes + kPrefetchBytes;
  SHOAL_UNROLL for (int i = 0; i < kBytes; i += 64) _mm_prefetch(ahead + i, _MM_HINT_NTA);
}

// x times kOffset, a power of two.
template <int kOffset>
inline __m256i times(__m256i x) {
  static_assert(kOffset > 0 && (kOffset & (kOffset - 1)) == 0);
  return _mm256_slli_epi32(x, __builtin_ctz(kOffset));
}

// Columns 4j.. of part p in a plane of nibbles, and the fifth bits of the same as 0 or 16.
inline __m256i nibbles(const uint8_t* plane, int p, int j) {
  const __m256i x = load(plane + 64 * (j & 3) + 32 * p);
  return _mm256_and_si256(j < 4 ? x : _mm256_srli_epi16(x, 4), _mm256_set1_epi8(15));
}
inline __m256i fifth_bits(const uint8_t* bits, int p, int j) {
  const __m256i x = load(bits + 32 * p);
  return _mm256_and_si256(j < 4 ? _mm256_slli_epi16(x, 4 - j) : _mm256_srli_epi16(x, j - 4),
                          _mm256_set1_epi8(16));
}

template <PanelKind kPanelKind, int kMax>
struct PanelSource {
  static constexpr PanelKind kKind = kPanelKind;
  static constexpr int kMaxQ = kMax;
  static constexpr bool kHasOffset = true;
  struct Block {
    const Panel* panel;
    __m256i weights(int p, int j) const { return load(panel->q[j][8 * p]); }
    __m256 scale(int p) const { return _mm256_loadu_ps(panel->scale + 8 * p); }
    __m256 min(int p) const { return _mm256_loadu_ps(panel->min + 8 * p); }
    __m256i sub_scales(int p) const { return load(panel->sub_scale[8 * p]); }
    __m256i sub_mins(int p) const { return load(panel->sub_min[8 * p]); }
  };
  const Panel* panels;
  __m256i offset;
  PanelSource(const Panel* p, int format_offset)
      : panels(p), offset(_mm256_set1_epi32(format_offset - (kMax == 255 ? 128 : 0))) {}
  Block at(int b) const { return {panels + b}; }
  __m256i times_offset(__m256i x) const { return _mm256_mullo_epi32(x, offset); }
  void prefetch(int) const {}
};

// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
template <class Layout, PanelKind kPanelKind, int kMax, int kOffset>
struct BlockSource {
  static constexpr PanelKind kKind = kPanelKind;
  static constexpr int kMaxQ = kMax;
  static constexpr bool kHasOffset = kOffset != 0;
  struct Block {
    const uint8_t* meta;
    const uint8_t* data;
    __m256i weights(int p, int j) const {
      if constexpr (kMax == 255) return load(data + 64 * j + 32 * p);
      if constexpr (kMax == 31) return _mm256_or_si256(nibbles(data, p, j), fifth_bits(data + 256, p, j));
      return nibbles(data, p, j);
    }
    __m256 scale(int p) const { return load_halves(meta + 16 * p); }
    __m256 min(int p) const { return load_halves(meta + 32 + 16 * p); }
  };
  const uint8_t* meta;
  const uint8_t* data;
  BlockSource(const std::byte* group, int64_t cols)
      : meta(Layout::meta(group, 0)), data(Layout::data(group, cols, 0)) {}
  Block at(int b) const { return {meta + b * Layout::kMeta, data + b * Layout::kData}; }
  __m256i times_offset(__m256i x) const { return times<kOffset>(x); }
  void prefetch(int b) const { prefetch_block<Layout::kMeta + Layout::kData>(meta, b); }
};

// Q4_K, and Q5_K whose sub-blocks have a plane of fifth bits besides.
template <class Layout, bool kFive>
struct SixBitScaleSource {
  static constexpr PanelKind kKind = PanelKind::kScaleMin;
  static constexpr int kMaxQ = kFive ? 31 : 15;
  static constexpr bool kHasOffset = false;
  static constexpr int kSubBytes = Layout::kData / 8;
  struct Block {
    const uint8_t* meta;
    const uint8_t* data;
    int sub;
    __m256i weights(int p, int j) const {
      if constexpr (kFive) return _mm256_or_si256(nibbles(data, p, j), fifth_bits(data + 256, p, j));
      return nibbles(data, p, j);
    }
    // The byte of this sub-block in each row's word of plane 0 or 1: scale, and above it two bits of the min.
    __m256i plane(int p) const {
      const __m256i words = load(meta + 64 + 64 * (sub / 4) + 32 * p);
      return _mm256_srl_epi32(words, _mm_cvtsi32_si128(8 * (sub % 4)));
    }
    __m256 scale(int p) const {
      const __m256i scale = _mm256_and_si256(plane(p), _mm256_set1_epi32(63));
      return _mm256_mul_ps(load_halves(meta + 16 * p), _mm256_cvtepi32_ps(scale));
    }
    __m256 min(int p) const {
      const __m256i words = load(meta + 192 + 32 * p);
      const __m256i low = _mm256_srl_epi32(words, _mm_cvtsi32_si128(8 * (sub % 4) + 4 * (sub / 4)));
      const __m256i high = _mm256_srli_epi32(plane(p), 2);
      const __m256i min = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)),
                                          _mm256_and_si256(high, _mm256_set1_epi32(48)));
      const __m256 product = _mm256_mul_ps(load_halves(meta + 32 + 16 * p), _mm256_cvtepi32_ps(min));
      return _mm256_xor_ps(product, _mm256_set1_ps(-0.0f));  // subtracted
    }
  };
  const uint8_t* meta;
  const uint8_t* data;
  SixBitScaleSource(const std::byte* group, int64_t cols)
      : meta(Layout::meta(group, 0)), data(Layout::data(group, cols, 0)) {}
  Block at(int b) const { return {meta + b / 8 * Layout::kMeta, data + b * kSubBytes, b % 8}; }
  void prefetch(int b) const { prefetch_block<(Layout::kMeta + Layout::kData) / 8>(meta, b); }
};

struct Q6KSource {
  static constexpr PanelKind kKind = PanelKind::kSubScale;
  static constexpr int kMaxQ = 63;
  static constexpr bool kHasOffset = true;
  struct Block {
    const uint8_t* meta;
    const uint8_t* scales;
    const uint8_t* data;
    __m256i weights(int p, int j) const {
      const __m256i fields =
          load(data + 256 + 64 * (j / 4) + 32 * p);  // bits 2j of each byte, to bits 4 and 5
      const __m256i high =
          j % 4 < 2 ? _mm256_slli_epi16(fields, 4 - 2 * (j % 4)) : _mm256_srli_epi16(fields, 2 * (j % 4) - 4);
      return _mm256_or_si256(nibbles(data, p, j), _mm256_and_si256(high, _mm256_set1_epi8(48)));
    }
    __m256 scale(int p) const { return load_halves(meta + 16 * p); }
    __m256i sub_scales(int p) const {
      const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales + 8 * p));
      const __m128i second = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales + 16 + 8 * p));
      return _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(first, second));
    }
  };
  const uint8_t* meta;
  const uint8_t* data;
  Q6KSource(const std::byte* group, int64_t cols)
      : meta(PackedQ6_K::meta(group, 0)), data(PackedQ6_K::data(group, cols, 0)) {}
  Block at(int b) const {
    const uint8_t* super = data + b / 8 * PackedQ6_K::kData;
    return {meta + b / 8 * PackedQ6_K::kMeta, super + b % 8 * 32, super + 256 + b % 8 * 384};
  }
  __m256i times_offset(__m256i x) const { return times<32>(x); }
  void prefetch(int b) const { prefetch_block<(PackedQ6_K::kMeta + PackedQ6_K::kData) / 8>(meta, b); }
};

// IQ4_NL: the layout of Q4_0, whose nibbles choose one of 16 values. Values + 128, as in panels.
struct Iq4NlSource : BlockSource<PackedQ4_0, PanelKind::kScale, 255, 0> {
  using Base = BlockSource<PackedQ4_0, PanelKind::kScale, 255, 0>;
  using Base::Base;
  struct Block : Base::Block {
    __m256i weights(int p, int j) const {
      const __m128i values =
          _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103, -90, -75, -59, -39, -15);
      return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), nibbles(data, p, j));
    }
  };
  Block at(int b) const { return {Base::at(b)}; }
};

template <TensorType kType>
auto packed_source(const std::byte* group, int64_t cols) {
  constexpr auto kScale = PanelKind::kScale, kScaleMin = PanelKind::kScaleMin;
  if constexpr (kType == TensorType::kQ4_0) return BlockSource<PackedQ4_0, kScale, 15, 8>(group, cols);
  if constexpr (kType == TensorType::kQ4_1) return BlockSource<PackedQ4_1, kScaleMin, 15, 0>(group, cols);
  if constexpr (kType == TensorType::kQ5_0) return BlockSource<PackedQ5_0, kScale, 31, 16>(group, cols);
  if constexpr (kType == TensorType::kQ5_1) return BlockSource<PackedQ5_1, kScaleMin, 31, 0>(group, cols);
  if constexpr (kType == TensorType::kQ8_0) return BlockSource<PackedQ8_0, kScale, 255, 0>(group, cols);
  if constexpr (kType == TensorType::kQ4_K) return SixBitScaleSource<PackedQ4_K, false>(group, cols);
  if constexpr (kType == TensorType::kQ5_K) return SixBitScaleSource<PackedQ5_K, true>(group, cols);
  if constexpr (kType == TensorType::kIQ4_NL) return Iq4NlSource(group, cols);
  if constexpr (kType == TensorType::kQ6_K) return Q6KSource(group, cols);
}

// ---- The tile kernel
// --------------------------------------------------------------------------------------------

// How many products of vpmaddubsw may be added in 16 bits. With sub-scales at most the four of 16 columns.
template <class Source>
constexpr int kSteps = Source::kMaxQ <= 15   ? (has_sub(Source::kKind) ? 4 : 8)
                       : Source::kMaxQ <= 31 ? 4
                       : Source::kMaxQ <= 63 ? 2
                                             : 1;

// The order of the eight 4-column steps: nibble planes give columns j and j + 4 from one load; sub-scales
// want the first 16 columns first.
template <class Source>
constexpr int step(int i) {
  return has_sub(Source::kKind) || Source::kMaxQ == 255 ? i : i / 2 + 4 * (i % 2);
}

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

// t[c][p] = the exact integer of block `w`, part p, and activation row c.
template <class Source, int C>
inline void dot(const Source& source, const typename Source::Block& w, const ActivationBlock<C>& a,
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
  if constexpr (Source::kHasOffset) {
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      SHOAL_UNROLL for (int p = 0; p < kParts; ++p) {
        __m256i sums = broadcast_word(&a.sum[c]);
        if constexpr (has_sub(Source::kKind)) {
          sums = _mm256_madd_epi16(w.sub_scales(p), broadcast_word(a.half_sum[c]));
        }
        t[c][p] = _mm256_sub_epi32(t[c][p], source.times_offset(sums));
      }
    }
  }
}

// sum += rows of `a` times the 16 rows of one block.
template <class Source, int C>
inline void add_block(const Source& source, const typename Source::Block& w, const ActivationBlock<C>& a,
                      __m256 (&sum)[C][kParts]) {
  __m256i t[C][kParts];
  dot(source, w, a, t);
  SHOAL_UNROLL for (int p = 0; p < kParts; ++p) {
    const __m256 scale = w.scale(p);
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      const __m256 factor = _mm256_mul_ps(scale, _mm256_broadcast_ss(&a.scale[c]));
      sum[c][p] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(t[c][p]), factor, sum[c][p]);
    }
    if constexpr (Source::kKind == PanelKind::kScaleMin) {
      const __m256 min = w.min(p);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        sum[c][p] = _mm256_fmadd_ps(min, _mm256_broadcast_ss(&a.scaled_sum[c]), sum[c][p]);
      }
    }
    if constexpr (Source::kKind == PanelKind::kSubScaleMin) {
      const __m256 min = w.min(p);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const __m256i u = _mm256_madd_epi16(w.sub_mins(p), broadcast_word(a.half_sum[c]));
        const __m256 factor = _mm256_mul_ps(min, _mm256_broadcast_ss(&a.scale[c]));
        sum[c][p] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(u), factor, sum[c][p]);
      }
    }
  }
}
// sums[g * C + c] += row c of `a` times the 16 rows of source g, `blocks` blocks in order.
template <int C, int kGroups, class Source>
void run(const Source (&sources)[kGroups], int blocks, bool prefetch, const ActivationBlock<C>* a,
         float (*sums)[16]) {
  __m256 sum[kGroups][C][kParts];
  const auto for_each_sum = [&](auto&& body) {
    SHOAL_UNROLL for (int g = 0; g < kGroups; ++g) {
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        SHOAL_UNROLL for (int p = 0; p < kParts; ++p) body(sum[g][c][p], sums[g * C + c] + 8 * p);
      }
    }
  };
  for_each_sum([](__m256& register_, const float* memory) { register_ = _mm256_loadu_ps(memory); });
  for (int b = 0; b < blocks; ++b) {
    SHOAL_UNROLL for (int g = 0; g < kGroups; ++g) {
      if (prefetch) sources[g].prefetch(b);
      add_block(sources[g], sources[g].at(b), a[b], sum[g]);
    }
  }
  for_each_sum([](__m256& register_, float* memory) { _mm256_storeu_ps(memory, register_); });
}

// ---- Float weights
// ----------------------------------------------------------------------------------------------

template <TensorType kType>
inline __m256 load_weights(const std::byte* group, int64_t index) {
  if constexpr (kType == TensorType::kF32)
    return _mm256_loadu_ps(reinterpret_cast<const float*>(group) + index);
  const std::byte* p = group + 2 * index;
  if constexpr (kType == TensorType::kF16) return load_halves(p);
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

struct Avx2 {
  // 2 to 6 rows, and one part at a time instead of both, were within 5 % of each other for many rows (Zen 3);
  // 4 serves small batches best.
  static constexpr int kTileRows = 4;

  template <PanelKind kKind, int kMaxQ, int C>
  static void panel_tile(const Panel* panels, int blocks, int offset, const ActivationBlock<C>* a,
                         float (*sums)[16]) {
    const PanelSource<kKind, kMaxQ> sources[] = {{panels, offset}};
    run<C>(sources, blocks, false, a, sums);
  }

  // Many rows pay for a panel where taking the operands apart costs more than a mask and a shift.
  static bool direct_from_packed(TensorType type, int rows) {
    switch (type) {
      case TensorType::kQ4_0:
      case TensorType::kQ4_1:
      case TensorType::kQ8_0:
      case TensorType::kQ4_K:
      case TensorType::kIQ4_NL:
        return true;
      case TensorType::kQ5_0:
      case TensorType::kQ5_1:
      case TensorType::kQ5_K:
      case TensorType::kQ6_K:
        return rows <= 64;
      default:
        return false;
    }
  }

  template <TensorType kType, int C>
  static void direct_tile(const std::byte* group, int64_t cols, bool prefetch, const ActivationBlock<C>* a,
                          float (*sums)[16]) {
    const decltype(packed_source<kType>(group, cols)) sources[] = {packed_source<kType>(group, cols)};
    run<C>(sources, static_cast<int>(cols / 32), prefetch, a, sums);
  }

  // One row waits for memory, which gives more to four streams than to one (Zen 3: 26 and 22 GB/s), and best
  // when the processor's own prefetching is left alone with them. A super-block's many scales fill the window
  // of a second stream: those formats keep to one, with prefetching.
  template <TensorType kType>
  static constexpr int kGroupsAbreast =
      kType == TensorType::kQ4_K || kType == TensorType::kQ5_K || kType == TensorType::kQ6_K ? 1 : 4;

  template <TensorType kType>
  static void direct_groups(const std::byte* group, size_t group_bytes, int64_t cols,
                            const ActivationBlock<1>* a, float (*sums)[16]) {
    const auto source = [&](int g) { return packed_source<kType>(group + g * group_bytes, cols); };
    const decltype(source(0)) sources[] = {source(0), source(1), source(2), source(3)};
    static_assert(std::size(sources) == kGroupsAbreast<kType>);
    run<1>(sources, static_cast<int>(cols / 32), false, a, sums);
  }

  template <TensorType kType, int C>
  static void float_tile(const std::byte* group, int64_t cols, const float* x, int64_t ld_x,
                         float (*sums)[16]) {
    __m256 sum[C][2] = {};
    for (int64_t k = 0; k < cols; ++k) {
      const __m256 w0 = load_weights<kType>(group, 16 * k), w1 = load_weights<kType>(group, 16 * k + 8);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const __m256 a = _mm256_broadcast_ss(x + c * ld_x + k);
        sum[c][0] = _mm256_fmadd_ps(w0, a, sum[c][0]);
        sum[c][1] = _mm256_fmadd_ps(w1, a, sum[c][1]);
      }
    }
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      _mm256_storeu_ps(sums[c], sum[c][0]);
      _mm256_storeu_ps(sums[c] + 8, sum[c][1]);
    }
  }
};

}  // namespace

const ProductOps kProductOpsAvx2 = make_product_ops<Avx2>();

}  // namespace shoal
