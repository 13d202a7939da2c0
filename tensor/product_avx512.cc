// Products for AVX-512 with VNNI: a lane is a row, so a group of 16 rows is one register.
//
// A tile kernel reads its weights through a source, which gives for each 32-wide block the operand of columns
// 4j..4j+3 as unsigned bytes, and the scales. There is one source for panels and one per kind of packed
// layout, so that every format runs the same loop. vpdpbusd adds four products u8 x i8 to 32 bits without
// saturating, so no format needs care; an offset is taken off by letting the integer start at
// -offset * (sum of the activations) instead of 0.
//
// With sub-scales the two integers of 16 columns are scaled as floats: scale0 t0 and scale0 t0 + scale1 t1 are
// integers below 2^24 (docs/numerics.md), so the product and the fma are exact and the bits are those of the
// integer form. A -0 that this may give where an integer would give 0 does not show: a sum that starts at +0
// and gains multiples of the smallest float stays +0 or not zero.
//
// Many rows are multiplied 32 weight rows at a time, two groups, which halves the reading of activations; few
// rows 16 at a time, one stream from memory.
#include "tensor/simd/avx512_intrinsics.h"
// The intrinsics come first: they may be emulated.
#include "tensor/formats/packed_layout.h"
#include "tensor/product_driver.h"

#if defined(SHOAL_EMULATE_AVX512)
#define SHOAL_UNROLL  // minutes of compiling
#else
#define SHOAL_UNROLL _Pragma("GCC unroll 16")
#endif

namespace shoal {
namespace {

inline __m512i load(const void* p) {
  return _mm512_loadu_si512(p);
}
inline __m512 load_halves(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
inline __m512i broadcast_word(const void* p) {
  int word;
  __builtin_memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}

constexpr bool has_sub(PanelKind kind) {
  return kind == PanelKind::kSubScale || kind == PanelKind::kSubScaleMin;
}

// ---- Sources
// ----------------------------------------------------------------------------------------------------

// Asks for `kBytes` bytes, block b's share of the packed group, kAhead bytes ahead of the block being read.
template <int kBytes, int kAhead>
inline void prefetch_block(const uint8_t* group, int b) {
  const char* ahead = reinterpret_cast<const char*>(group) + int64_t{b} * kBytes + kAhead;
  SHOAL_UNROLL for (int i = 0; i < kBytes; i += 64) _mm_prefetch(ahead + i, _MM_HINT_NTA);
}

inline __m512i and_bytes(__m512i x, char mask) {
  return _mm512_and_si512(x, _mm512_set1_epi8(mask));
}
// a | (b & mask)
inline __m512i or_and(__m512i a, __m512i b, char mask) {
  return _mm512_ternarylogic_epi32(a, b, _mm512_set1_epi8(mask), 0xf8);
}

// Columns 4j.. in a plane of nibbles; the same with fifth bits.
inline __m512i nibbles(const uint8_t* plane, int j) {
  const __m512i x = load(plane + 64 * (j & 3));
  return and_bytes(j < 4 ? x : _mm512_srli_epi16(x, 4), 15);
}
inline __m512i nibbles_and_fifth(const uint8_t* plane, const uint8_t* fifth, int j) {
  const __m512i bits = load(fifth);
  return or_and(nibbles(plane, j), j < 4 ? _mm512_slli_epi16(bits, 4 - j) : _mm512_srli_epi16(bits, j - 4), 16);
}

template <PanelKind kPanelKind>
struct PanelSource {
  static constexpr PanelKind kKind = kPanelKind;
  struct Block {
    const Panel* panel;
    __m512i weights(int j) const { return load(panel->q[j]); }
    __m512 scale() const { return _mm512_loadu_ps(panel->scale); }
    __m512 min() const { return _mm512_loadu_ps(panel->min); }
    __m512 sub_scale(int h) const {
      const __m512i pairs = load(panel->sub_scale);
      return _mm512_cvtepi32_ps(_mm512_srai_epi32(h == 0 ? _mm512_slli_epi32(pairs, 16) : pairs, 16));
    }
    __m512i sub_mins() const { return load(panel->sub_min); }
  };
  const Panel* panels;
  int offset;
  Block at(int b) const { return {panels + b}; }
  __m512i minus_offset_times(const void* sum) const {
    return _mm512_mullo_epi32(broadcast_word(sum), _mm512_set1_epi32(-offset));
  }
  __m512i minus_offset_times_half(const int16_t* half_sum) const {
    return _mm512_set1_epi32(-offset * *half_sum);
  }
  void prefetch(int) const {}
};

// The offset of a packed source, a power of two or 0.
template <int kOffset>
struct FixedOffset {
  static_assert((kOffset & (kOffset - 1)) == 0);
  static __m512i minus_offset_times(const void* sum) {
    if constexpr (kOffset == 0) return _mm512_setzero_si512();
    return _mm512_sub_epi32(_mm512_setzero_si512(),
                            _mm512_slli_epi32(broadcast_word(sum), __builtin_ctz(kOffset | 256)));
  }
  static __m512i minus_offset_times_half(const int16_t* half_sum) {
    return _mm512_set1_epi32(-kOffset * *half_sum);
  }
};

// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
template <class Layout, PanelKind kPanelKind, int kBits, int kOffset>
struct BlockSource : FixedOffset<kOffset> {
  static constexpr PanelKind kKind = kPanelKind;
  struct Block {
    const uint8_t* meta;
    const uint8_t* data;
    __m512i weights(int j) const {
      if constexpr (kBits == 8) return load(data + 64 * j);
      if constexpr (kBits == 5) return nibbles_and_fifth(data, data + 256, j);
      return nibbles(data, j);
    }
    __m512 scale() const { return load_halves(meta); }
    __m512 min() const { return load_halves(meta + 32); }
  };
  const uint8_t* meta;
  const uint8_t* data;
  BlockSource(const std::byte* group, int64_t cols)
      : meta(Layout::meta(group, 0)), data(Layout::data(group, cols, 0)) {}
  Block at(int b) const { return {meta + b * Layout::kMeta, data + b * Layout::kData}; }
  void prefetch(int b) const { prefetch_block<Layout::kMeta + Layout::kData, 4096>(meta, b); }
};

// Q4_K, and Q5_K whose sub-blocks have a plane of fifth bits besides.
template <class Layout, bool kFive>
struct SixBitScaleSource : FixedOffset<0> {
  static constexpr PanelKind kKind = PanelKind::kScaleMin;
  static constexpr int kSubBytes = kFive ? 256 + 64 : 256;
  struct Block {
    const uint8_t* meta;
    const uint8_t* data;
    int sub;
    __m512i weights(int j) const {
      if constexpr (kFive) return nibbles_and_fifth(data, data + 256, j);
      return nibbles(data, j);
    }
    // The byte of this sub-block in each row's word of plane 0 or 1: scale, and above it two bits of the min.
    __m512i plane() const {
      return _mm512_srl_epi32(load(meta + 64 + 64 * (sub / 4)), _mm_cvtsi32_si128(8 * (sub % 4)));
    }
    __m512 scale() const {
      const __m512i scale = _mm512_and_si512(plane(), _mm512_set1_epi32(63));
      return _mm512_mul_ps(load_halves(meta), _mm512_cvtepi32_ps(scale));
    }
    __m512 min() const {
      const __m512i low =
          _mm512_srl_epi32(load(meta + 192), _mm_cvtsi32_si128(8 * (sub % 4) + 4 * (sub / 4)));
      const __m512i high = _mm512_and_si512(_mm512_srli_epi32(plane(), 2), _mm512_set1_epi32(48));
      const __m512i min = _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi32(15)), high);
      const __m512 product = _mm512_mul_ps(load_halves(meta + 32), _mm512_cvtepi32_ps(min));
      return _mm512_castsi512_ps(  // subtracted
          _mm512_xor_si512(_mm512_castps_si512(product), _mm512_set1_epi32(INT32_MIN)));
    }
  };
  const uint8_t* meta;
  const uint8_t* data;
  SixBitScaleSource(const std::byte* group, int64_t cols)
      : meta(Layout::meta(group, 0)), data(Layout::data(group, cols, 0)) {}
  Block at(int b) const { return {meta + b / 8 * Layout::kMeta, data + b * kSubBytes, b % 8}; }
  void prefetch(int b) const { prefetch_block<(Layout::kMeta + Layout::kData) / 8, 9216>(meta, b); }
};

struct Q6KSource : FixedOffset<32> {
  static constexpr PanelKind kKind = PanelKind::kSubScale;
  struct Block {
    const uint8_t* meta;
    const uint8_t* scales;
    const uint8_t* data;
    __m512i weights(int j) const {
      const __m512i fields = load(data + 256 + 64 * (j / 4));  // bits 2j of each byte, to bits 4 and 5
      const __m512i high =
          j % 4 < 2 ? _mm512_slli_epi16(fields, 4 - 2 * (j % 4)) : _mm512_srli_epi16(fields, 2 * (j % 4) - 4);
      return or_and(nibbles(data, j), high, 48);
    }
    __m512 scale() const { return load_halves(meta); }
    __m512 sub_scale(int h) const {
      const auto* bytes = reinterpret_cast<const __m128i*>(scales + 16 * h);
      return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes)));
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
  void prefetch(int b) const { prefetch_block<(PackedQ6_K::kMeta + PackedQ6_K::kData) / 8, 6656>(meta, b); }
};

// IQ4_NL: the layout of Q4_0, whose nibbles choose one of 16 values. Values + 128, as in panels.
struct Iq4NlSource : BlockSource<PackedQ4_0, PanelKind::kScale, 4, 128> {
  using Base = BlockSource<PackedQ4_0, PanelKind::kScale, 4, 128>;
  using Base::Base;
  struct Block : Base::Block {
    __m512i weights(int j) const {
      const __m128i values =
          _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103, -90, -75, -59, -39, -15);
      return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), nibbles(data, j));
    }
  };
  Block at(int b) const { return {Base::at(b)}; }
};

template <TensorType kType>
auto packed_source(const std::byte* group, int64_t cols) {
  constexpr auto kScale = PanelKind::kScale, kScaleMin = PanelKind::kScaleMin;
  if constexpr (kType == TensorType::kQ4_0) return BlockSource<PackedQ4_0, kScale, 4, 8>(group, cols);
  if constexpr (kType == TensorType::kQ4_1) return BlockSource<PackedQ4_1, kScaleMin, 4, 0>(group, cols);
  if constexpr (kType == TensorType::kQ5_0) return BlockSource<PackedQ5_0, kScale, 5, 16>(group, cols);
  if constexpr (kType == TensorType::kQ5_1) return BlockSource<PackedQ5_1, kScaleMin, 5, 0>(group, cols);
  if constexpr (kType == TensorType::kQ8_0) return BlockSource<PackedQ8_0, kScale, 8, 128>(group, cols);
  if constexpr (kType == TensorType::kQ4_K) return SixBitScaleSource<PackedQ4_K, false>(group, cols);
  if constexpr (kType == TensorType::kQ5_K) return SixBitScaleSource<PackedQ5_K, true>(group, cols);
  if constexpr (kType == TensorType::kIQ4_NL) return Iq4NlSource(group, cols);
  if constexpr (kType == TensorType::kQ6_K) return Q6KSource(group, cols);
}

// ---- The tile kernel, G groups wide
// -----------------------------------------------------------------------------

// The order of the eight 4-column steps: nibble planes give columns j and j + 4 from one load; sub-scales
// want the first 16 columns first.
template <class Source>
constexpr int step(int i) {
  return has_sub(Source::kKind) ? i : i / 2 + 4 * (i % 2);
}

// acc[g][c] += the products of steps [kFirst, kLast) of the blocks w[g] and activation row c.
template <class Source, int kFirst, int kLast, int G, int C>
inline void add_products(const typename Source::Block (&w)[G], const ActivationBlock<C>& a,
                         __m512i (&acc)[G][C]) {
  SHOAL_UNROLL for (int i = kFirst; i < kLast; ++i) {
    const int j = step<Source>(i);
    __m512i q[G];
    SHOAL_UNROLL for (int g = 0; g < G; ++g) q[g] = w[g].weights(j);
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      const __m512i x = broadcast_word(a.q[c] + 4 * j);
      SHOAL_UNROLL for (int g = 0; g < G; ++g) acc[g][c] = _mm512_dpbusd_epi32(acc[g][c], q[g], x);
    }
  }
}

// t[g][c] = the exact integer of the block, as a float.
template <class Source, int G, int C>
inline void dot(const Source* sources, const typename Source::Block (&w)[G], const ActivationBlock<C>& a,
                __m512 (&t)[G][C]) {
  __m512i acc[G][C];
  if constexpr (!has_sub(Source::kKind)) {
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      const __m512i start = sources[0].minus_offset_times(&a.sum[c]);
      SHOAL_UNROLL for (int g = 0; g < G; ++g) acc[g][c] = start;
    }
    add_products<Source, 0, 8>(w, a, acc);
    SHOAL_UNROLL for (int g = 0; g < G; ++g) {
      SHOAL_UNROLL for (int c = 0; c < C; ++c) t[g][c] = _mm512_cvtepi32_ps(acc[g][c]);
    }
  } else {
    SHOAL_UNROLL for (int h = 0; h < 2; ++h) {
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const __m512i start = sources[0].minus_offset_times_half(&a.half_sum[c][h]);
        SHOAL_UNROLL for (int g = 0; g < G; ++g) acc[g][c] = start;
      }
      if (h == 0) {
        add_products<Source, 0, 4>(w, a, acc);
      } else {
        add_products<Source, 4, 8>(w, a, acc);
      }
      SHOAL_UNROLL for (int g = 0; g < G; ++g) {
        const __m512 scale = w[g].sub_scale(h);
        SHOAL_UNROLL for (int c = 0; c < C; ++c) {
          const __m512 part = _mm512_cvtepi32_ps(acc[g][c]);
          t[g][c] = h == 0 ? _mm512_mul_ps(part, scale) : _mm512_fmadd_ps(part, scale, t[g][c]);
        }
      }
    }
  }
}

// sums[g C + c][r] += row c of `a` times row r of source g, `blocks` blocks in order.
template <class Source, int G, int C>
void run(const Source (&sources)[G], int blocks, bool prefetch, const ActivationBlock<C>* a,
         float (*sums)[16]) {
  __m512 sum[G][C];
  SHOAL_UNROLL for (int g = 0; g < G; ++g) {
    SHOAL_UNROLL for (int c = 0; c < C; ++c) sum[g][c] = _mm512_loadu_ps(sums[g * C + c]);
  }
  for (int b = 0; b < blocks; ++b, ++a) {
    typename Source::Block w[G];
    SHOAL_UNROLL for (int g = 0; g < G; ++g) {
      if (prefetch) sources[g].prefetch(b);
      w[g] = sources[g].at(b);
    }
    __m512 t[G][C];
    dot(sources, w, *a, t);
    SHOAL_UNROLL for (int g = 0; g < G; ++g) {
      const __m512 scale = w[g].scale();
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(a->scale[c]));
        sum[g][c] = _mm512_fmadd_ps(t[g][c], factor, sum[g][c]);
      }
      if constexpr (Source::kKind == PanelKind::kScaleMin) {
        const __m512 min = w[g].min();
        SHOAL_UNROLL for (int c = 0; c < C; ++c) {
          sum[g][c] = _mm512_fmadd_ps(min, _mm512_set1_ps(a->scaled_sum[c]), sum[g][c]);
        }
      }
      if constexpr (Source::kKind == PanelKind::kSubScaleMin) {
        const __m512 min = w[g].min();
        SHOAL_UNROLL for (int c = 0; c < C; ++c) {
          const __m512i u = _mm512_madd_epi16(w[g].sub_mins(), broadcast_word(a->half_sum[c]));
          const __m512 factor = _mm512_mul_ps(min, _mm512_set1_ps(a->scale[c]));
          sum[g][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(u), factor, sum[g][c]);
        }
      }
    }
  }
  SHOAL_UNROLL for (int g = 0; g < G; ++g) {
    SHOAL_UNROLL for (int c = 0; c < C; ++c) _mm512_storeu_ps(sums[g * C + c], sum[g][c]);
  }
}

// ---- Float weights
// ----------------------------------------------------------------------------------------------

template <TensorType kType>
inline __m512 load_weights(const std::byte* group, int64_t index) {
  if constexpr (kType == TensorType::kF32)
    return _mm512_loadu_ps(reinterpret_cast<const float*>(group) + index);
  const std::byte* p = group + 2 * index;
  if constexpr (kType == TensorType::kF16) return load_halves(p);
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

template <TensorType kType, int G, int C>
void run_floats(const std::byte* group, size_t group_bytes, int64_t cols, const float* x, int64_t ld_x,
                float (*sums)[16]) {
  __m512 sum[G][C];
  SHOAL_UNROLL for (int g = 0; g < G; ++g) {
    SHOAL_UNROLL for (int c = 0; c < C; ++c) sum[g][c] = _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < cols; ++k) {
    __m512 w[G];
    SHOAL_UNROLL for (int g = 0; g < G; ++g) w[g] = load_weights<kType>(group + g * group_bytes, 16 * k);
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      const __m512 a = _mm512_set1_ps(x[c * ld_x + k]);
      SHOAL_UNROLL for (int g = 0; g < G; ++g) sum[g][c] = _mm512_fmadd_ps(w[g], a, sum[g][c]);
    }
  }
  SHOAL_UNROLL for (int g = 0; g < G; ++g) {
    SHOAL_UNROLL for (int c = 0; c < C; ++c) _mm512_storeu_ps(sums[g * C + c], sum[g][c]);
  }
}

// ---- 16 weight rows at a time
// -----------------------------------------------------------------------------------

struct Avx512 {
  // With 32 weight rows: 10 integers, 10 sums, 2 weights and 1 activation in 32 registers.
  static constexpr int kTileRows = 5;

  template <PanelKind kKind, int, int C>
  static void panel_tile(const Panel* panels, int blocks, int offset, const ActivationBlock<C>* a,
                         float (*sums)[16]) {
    const PanelSource<kKind> source[1] = {{panels, offset}};
    run(source, blocks, false, a, sums);
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
    const decltype(packed_source<kType>(group, cols)) source[1] = {packed_source<kType>(group, cols)};
    run(source, static_cast<int>(cols / 32), prefetch, a, sums);
  }

  template <TensorType kType, int C>
  static void float_tile(const std::byte* group, int64_t cols, const float* x, int64_t ld_x,
                         float (*sums)[16]) {
    run_floats<kType, 1, C>(group, 0, cols, x, ld_x, sums);
  }
};

// ---- 32 weight rows at a time
// -----------------------------------------------------------------------------------

using Driver = ProductDriver<Avx512>;

constexpr int kRowsForPairs = 2 * Avx512::kTileRows;  // fewer wait for memory, which one stream reads best

// The groups g and g + 1 in all tiles: tile.template operator()<C>(row, sums) fills sums[2 * C].
template <class Tile>
void for_each_pair_tile(const ProductArgs& a, int64_t g, bool resume, Tile&& tile) {
  Driver::for_each_tile(a.rows, [&]<int C>(int row) {
    alignas(64) float sums[2 * C][16] = {};
    if (resume) {
      Driver::load_sums<C>(a, g, row, sums);
      Driver::load_sums<C>(a, g + 1, row, sums + C);
    }
    tile.template operator()<C>(row, sums);
    Driver::store_sums<C>(a, g, row, sums);
    Driver::store_sums<C>(a, g + 1, row, sums + C);
  });
}

template <TensorType kType>
void pairs_direct(const ProductArgs& a) {
  const int blocks = static_cast<int>(a.cols / 32);
  for (int64_t g = 0; g < a.groups; g += 2) {
    const std::byte* group = a.weights + g * a.group_bytes;
    const decltype(packed_source<kType>(group, 0)) sources[2] = {
        packed_source<kType>(group, a.cols), packed_source<kType>(group + a.group_bytes, a.cols)};
    for_each_pair_tile(a, g, false, [&]<int C>(int row, float (*sums)[16]) {
      run(sources, blocks, row == 0, Driver::tile<C>(a, row), sums);
    });
  }
}

template <PanelKind kKind>
void pairs_of_panels(const Format& format, const ProductArgs& a) {
  constexpr int kChunk = kPanelChunk / 2;
  Panel panels[2][kChunk];
  const PanelSource<kKind> sources[2] = {{panels[0], format.offset}, {panels[1], format.offset}};
  const int64_t blocks = a.cols / 32;
  for (int64_t g = 0; g < a.groups; g += 2) {
    for (int64_t b0 = 0; b0 < blocks; b0 += kChunk) {
      const int n = static_cast<int>(blocks - b0 < kChunk ? blocks - b0 : kChunk);
      for (int i = 0; i < 2; ++i) {
        const std::byte* group = a.weights + (g + i) * a.group_bytes;
        for (int b = 0; b < n; ++b) format.unpack(group, a.cols, b0 + b, &panels[i][b]);
      }
      for_each_pair_tile(a, g, b0 > 0, [&]<int C>(int row, float (*sums)[16]) {
        run(sources, n, false, Driver::tile<C>(a, row) + b0, sums);
      });
    }
  }
}

template <TensorType kType>
void pairs_of_floats(const ProductArgs& a) {
  for (int64_t g = 0; g < a.groups; g += 2) {
    for_each_pair_tile(a, g, false, [&]<int C>(int row, float (*sums)[16]) {
      run_floats<kType, 2, C>(a.weights + g * a.group_bytes, a.group_bytes, a.cols, a.x + row * a.ld_x, a.ld_x,
                              sums);
    });
  }
}

void multiply_pairs(const Format& format, const ProductArgs& a) {
  if (Avx512::direct_from_packed(format.type, a.rows)) {
    switch (format.type) {
      case TensorType::kQ4_0:
        return pairs_direct<TensorType::kQ4_0>(a);
      case TensorType::kQ4_1:
        return pairs_direct<TensorType::kQ4_1>(a);
      case TensorType::kQ5_0:
        return pairs_direct<TensorType::kQ5_0>(a);
      case TensorType::kQ5_1:
        return pairs_direct<TensorType::kQ5_1>(a);
      case TensorType::kQ8_0:
        return pairs_direct<TensorType::kQ8_0>(a);
      case TensorType::kQ4_K:
        return pairs_direct<TensorType::kQ4_K>(a);
      case TensorType::kQ5_K:
        return pairs_direct<TensorType::kQ5_K>(a);
      case TensorType::kQ6_K:
        return pairs_direct<TensorType::kQ6_K>(a);
      case TensorType::kIQ4_NL:
        return pairs_direct<TensorType::kIQ4_NL>(a);
      default:
        break;
    }
  }
  switch (format.type) {
    case TensorType::kF32:
      return pairs_of_floats<TensorType::kF32>(a);
    case TensorType::kF16:
      return pairs_of_floats<TensorType::kF16>(a);
    case TensorType::kBF16:
      return pairs_of_floats<TensorType::kBF16>(a);
    default:
      break;
  }
  switch (format.kind) {
    case PanelKind::kScale:
      return pairs_of_panels<PanelKind::kScale>(format, a);
    case PanelKind::kScaleMin:
      return pairs_of_panels<PanelKind::kScaleMin>(format, a);
    case PanelKind::kSubScale:
      return pairs_of_panels<PanelKind::kSubScale>(format, a);
    case PanelKind::kSubScaleMin:
      return pairs_of_panels<PanelKind::kSubScaleMin>(format, a);
  }
}

void multiply(const Format& format, const ProductArgs& a) {
  if (a.rows < kRowsForPairs) return Driver::multiply(format, a);
  ProductArgs pairs = a;
  pairs.groups = a.groups / 2 * 2;
  multiply_pairs(format, pairs);
  if (pairs.groups == a.groups) return;
  ProductArgs last = a;  // an odd group
  last.weights += pairs.groups * a.group_bytes;
  last.groups = 1;
  last.y += 16 * pairs.groups;
  last.outputs -= 16 * pairs.groups;
  Driver::multiply(format, last);
}

}  // namespace

const ProductOps kProductOpsAvx512 = {Avx512::kTileRows, multiply};

}  // namespace shoal
