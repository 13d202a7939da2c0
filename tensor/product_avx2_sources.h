// Where the 256-bit tile kernels read their weights: a lane is a row, so a group of 16 rows is two registers,
// its parts. A source gives for each 32-wide block the operand of part p and columns 4j..4j+3 as unsigned
// bytes, and the scales. There is one source for panels and one per kind of packed layout, so that every
// format runs the same loop. Part of product_avx2_impl.h, which alone includes it.
#pragma once

#include <immintrin.h>

#include "tensor/formats/packed_layout.h"
#include "tensor/product_ops.h"

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

constexpr int kPrefetchBytes = 4096;  // ahead of the block being read

// Asks for `kBytes` bytes, block b's share of the packed group, at the prefetch distance.
template <int kBytes>
inline void prefetch_block(const uint8_t* group, int b) {
  const char* ahead = reinterpret_cast<const char*>(group) + int64_t{b} * kBytes + kPrefetchBytes;
  SHOAL_UNROLL for (int i = 0; i < kBytes; i += 64) _mm_prefetch(ahead + i, _MM_HINT_NTA);
}

// The offset of a packed source. kTaken is what the dot step takes off q itself: 128 where it makes bytes
// signed.
template <int kOffset>
struct FixedOffset {
  template <int kTaken>
  static constexpr bool kHasOffset = kOffset != kTaken;
  template <int kTaken>
  static __m256i times_offset(__m256i x) {
    static_assert(kTaken == 0 && kOffset > 0 && (kOffset & (kOffset - 1)) == 0);
    return _mm256_slli_epi32(x, __builtin_ctz(kOffset));
  }
};

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

// For sources whose blocks share nothing that is worth taking apart once.
struct NoSuper {};
struct SingleBlocks {
  static constexpr int kSuper = 1;  // blocks that a Super serves
  using Super = NoSuper;
  static NoSuper super(int) { return {}; }
};

template <PanelKind kPanelKind, int kMax>
struct PanelSource : SingleBlocks {
  static constexpr PanelKind kKind = kPanelKind;
  static constexpr int kMaxQ = kMax;
  template <int kTaken>
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
  int offset;
  Block at(NoSuper, int b) const { return {panels + b}; }
  template <int kTaken>
  __m256i times_offset(__m256i x) const {
    return _mm256_mullo_epi32(x, _mm256_set1_epi32(offset - kTaken));
  }
  void prefetch(int) const {}
};

// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
template <class Layout, PanelKind kPanelKind, int kMax, int kOffset>
struct BlockSource : SingleBlocks, FixedOffset<kOffset> {
  static constexpr PanelKind kKind = kPanelKind;
  static constexpr int kMaxQ = kMax;
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
  Block at(NoSuper, int b) const { return {meta + b * Layout::kMeta, data + b * Layout::kData}; }
  void prefetch(int b) const { prefetch_block<Layout::kMeta + Layout::kData>(meta, b); }
};

// Operands of vpshufb that leave byte i of each 32-bit word, in its low bits.
struct ByteOfWord {
  alignas(32) uint8_t select[4][32];
  constexpr ByteOfWord() : select() {
    for (int i = 0; i < 4; ++i) {
      for (int n = 0; n < 32; ++n) select[i][n] = static_cast<uint8_t>(n % 4 == 0 ? n % 16 + i : 0x80);
    }
  }
  constexpr const uint8_t* operator[](int i) const { return select[i]; }
};
constexpr ByteOfWord kByteOfWord;

// Q4_K, and Q5_K whose sub-blocks have a plane of fifth bits besides.
template <class Layout, bool kFive>
struct SixBitScaleSource : FixedOffset<0> {
  static constexpr PanelKind kKind = PanelKind::kScaleMin;
  static constexpr int kMaxQ = kFive ? 31 : 15;
  static constexpr int kSuper = 8;
  static constexpr int kSubBytes = Layout::kData / 8;
  // A super-block's scales and minima, taken apart once: four sub-blocks' bytes in each row's word.
  struct Super {
    __m256 d[kParts], minus_dmin[kParts];
    __m256i scales[2][kParts], mins[2][kParts];
  };
  struct Block {
    const Super* super;
    const uint8_t* data;
    int sub;
    __m256i weights(int p, int j) const {
      if constexpr (kFive) return _mm256_or_si256(nibbles(data, p, j), fifth_bits(data + 256, p, j));
      return nibbles(data, p, j);
    }
    // This sub-block's byte of each word, as a float.
    __m256 value(__m256i words) const {
      return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(words, load(kByteOfWord[sub % 4])));
    }
    __m256 scale(int p) const { return _mm256_mul_ps(super->d[p], value(super->scales[sub / 4][p])); }
    __m256 min(int p) const { return _mm256_mul_ps(super->minus_dmin[p], value(super->mins[sub / 4][p])); }
  };
  const uint8_t* meta;
  const uint8_t* data;
  SixBitScaleSource(const std::byte* group, int64_t cols)
      : meta(Layout::meta(group, 0)), data(Layout::data(group, cols, 0)) {}
  Super super(int b) const {
    const uint8_t* m = meta + b / 8 * Layout::kMeta;
    Super out;
    const __m256i low_four = _mm256_set1_epi8(15), low_six = _mm256_set1_epi8(63);
    SHOAL_UNROLL for (int p = 0; p < kParts; ++p) {
      out.d[p] = load_halves(m + 16 * p);
      out.minus_dmin[p] = _mm256_xor_ps(load_halves(m + 32 + 16 * p), _mm256_set1_ps(-0.0f));  // subtracted
      const __m256i low_bits = load(m + 192 + 32 * p);
      SHOAL_UNROLL for (int h = 0; h < 2; ++h) {
        const __m256i plane = load(m + 64 + 64 * h + 32 * p);
        const __m256i low = h == 0 ? low_bits : _mm256_srli_epi16(low_bits, 4);
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(plane, 2), _mm256_set1_epi8(48));
        out.scales[h][p] = _mm256_and_si256(plane, low_six);
        out.mins[h][p] = _mm256_or_si256(_mm256_and_si256(low, low_four), high);
      }
    }
    return out;
  }
  Block at(const Super& super, int b) const { return {&super, data + b * kSubBytes, b % 8}; }
  void prefetch(int b) const { prefetch_block<(Layout::kMeta + Layout::kData) / 8>(meta, b); }
};

// Signed or unsigned bytes of 16 columns each, [2][16 rows], as pairs for part p.
inline __m128i byte_pairs(const uint8_t* bytes, int p) {
  const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes + 8 * p));
  const __m128i second = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes + 16 + 8 * p));
  return _mm_unpacklo_epi8(first, second);
}

// x >> n, a run-time number of bits; those of a byte's neighbour come in above.
inline __m256i shift_right(__m256i x, int n) {
  return _mm256_srl_epi16(x, _mm_cvtsi32_si128(n));
}

struct Q2KSource : SingleBlocks, FixedOffset<0> {
  static constexpr PanelKind kKind = PanelKind::kSubScaleMin;
  static constexpr int kMaxQ = 15;
  struct Block {
    const uint8_t* meta;
    const uint8_t* scales;
    const uint8_t* words;
    int part;  // of the four 32-wide blocks whose bits share the words
    __m256i weights(int p, int j) const {
      return _mm256_and_si256(shift_right(load(words + 64 * j + 32 * p), 2 * part), _mm256_set1_epi8(3));
    }
    __m256 scale(int p) const { return load_halves(meta + 16 * p); }
    __m256 min(int p) const { return _mm256_xor_ps(load_halves(meta + 32 + 16 * p), _mm256_set1_ps(-0.0f)); }
    __m256i sub_scales(int p) const {
      return _mm256_and_si256(_mm256_cvtepu8_epi16(byte_pairs(scales, p)), _mm256_set1_epi16(15));
    }
    __m256i sub_mins(int p) const {
      return _mm256_srli_epi16(_mm256_cvtepu8_epi16(byte_pairs(scales, p)), 4);
    }
  };
  const uint8_t* meta;
  const uint8_t* data;
  Q2KSource(const std::byte* group, int64_t cols)
      : meta(PackedQ2_K::meta(group, 0)), data(PackedQ2_K::data(group, cols, 0)) {}
  Block at(NoSuper, int b) const {
    const uint8_t* super = data + b / 8 * PackedQ2_K::kData;
    return {meta + b / 8 * PackedQ2_K::kMeta, super + b % 8 * 32, super + 256 + b % 8 / 4 * 512, b % 4};
  }
  void prefetch(int b) const { prefetch_block<(PackedQ2_K::kMeta + PackedQ2_K::kData) / 8>(meta, b); }
};

struct Q3KSource : SingleBlocks, FixedOffset<4> {
  static constexpr PanelKind kKind = PanelKind::kSubScale;
  static constexpr int kMaxQ = 15;
  struct Block {
    const uint8_t* meta;
    const uint8_t* super;
    int s;  // 32-wide block of the super-block
    __m256i weights(int p, int j) const {
      const __m256i low = shift_right(load(super + 192 + s / 4 * 512 + 64 * j + 32 * p), 2 * (s % 4));
      const __m256i high = _mm256_slli_epi16(shift_right(load(super + 192 + 1024 + 64 * j + 32 * p), s), 2);
      return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(3)),
                             _mm256_and_si256(high, _mm256_set1_epi8(4)));
    }
    __m256 scale(int p) const { return load_halves(meta + 16 * p); }
    // Scales 2s and 2s + 1 are neighbouring bytes of a row's words: nibbles in the first or the second word,
    // two bits each in the third.
    __m256i sub_scales(int p) const {
      const int pair = 16 * (s % 2);
      const auto bytes = [&](int word, int bit) {
        return _mm256_srl_epi32(load(super + 64 * word + 32 * p), _mm_cvtsi32_si128(pair + bit));
      };
      const __m256i low = _mm256_and_si256(bytes(s % 4 / 2, s / 4 * 4), _mm256_set1_epi16(0x0f0f));
      const __m256i high = _mm256_and_si256(bytes(2, s / 2 * 2), _mm256_set1_epi16(0x0303));
      const __m256i both = _mm256_or_si256(low, _mm256_slli_epi16(high, 4));  // in the low half
      const __m256i first = _mm256_and_si256(both, _mm256_set1_epi32(0xff));
      const __m256i second = _mm256_and_si256(_mm256_slli_epi32(both, 8), _mm256_set1_epi32(0xff0000));
      return _mm256_sub_epi16(_mm256_or_si256(first, second), _mm256_set1_epi16(32));
    }
  };
  const uint8_t* meta;
  const uint8_t* data;
  Q3KSource(const std::byte* group, int64_t cols)
      : meta(PackedQ3_K::meta(group, 0)), data(PackedQ3_K::data(group, cols, 0)) {}
  Block at(NoSuper, int b) const {
    return {meta + b / 8 * PackedQ3_K::kMeta, data + b / 8 * PackedQ3_K::kData, b % 8};
  }
  void prefetch(int b) const { prefetch_block<(PackedQ3_K::kMeta + PackedQ3_K::kData) / 8>(meta, b); }
};

struct Q6KSource : SingleBlocks, FixedOffset<32> {
  static constexpr PanelKind kKind = PanelKind::kSubScale;
  static constexpr int kMaxQ = 63;
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
    __m256i sub_scales(int p) const { return _mm256_cvtepi8_epi16(byte_pairs(scales, p)); }
  };
  const uint8_t* meta;
  const uint8_t* data;
  Q6KSource(const std::byte* group, int64_t cols)
      : meta(PackedQ6_K::meta(group, 0)), data(PackedQ6_K::data(group, cols, 0)) {}
  Block at(NoSuper, int b) const {
    const uint8_t* super = data + b / 8 * PackedQ6_K::kData;
    return {meta + b / 8 * PackedQ6_K::kMeta, super + b % 8 * 32, super + 256 + b % 8 * 384};
  }
  void prefetch(int b) const { prefetch_block<(PackedQ6_K::kMeta + PackedQ6_K::kData) / 8>(meta, b); }
};

// IQ4_NL: the layout of Q4_0, whose nibbles choose one of 16 values. Values + 128, as in panels.
struct Iq4NlSource : BlockSource<PackedQ4_0, PanelKind::kScale, 255, 128> {
  using Base = BlockSource<PackedQ4_0, PanelKind::kScale, 255, 128>;
  using Base::Base;
  struct Block : Base::Block {
    __m256i weights(int p, int j) const {
      const __m128i values =
          _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103, -90, -75, -59, -39, -15);
      return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), nibbles(data, p, j));
    }
  };
  Block at(NoSuper none, int b) const { return {Base::at(none, b)}; }
};

template <TensorType kType>
auto packed_source(const std::byte* group, int64_t cols) {
  constexpr auto kScale = PanelKind::kScale, kScaleMin = PanelKind::kScaleMin;
  if constexpr (kType == TensorType::kQ4_0) return BlockSource<PackedQ4_0, kScale, 15, 8>(group, cols);
  if constexpr (kType == TensorType::kQ4_1) return BlockSource<PackedQ4_1, kScaleMin, 15, 0>(group, cols);
  if constexpr (kType == TensorType::kQ5_0) return BlockSource<PackedQ5_0, kScale, 31, 16>(group, cols);
  if constexpr (kType == TensorType::kQ5_1) return BlockSource<PackedQ5_1, kScaleMin, 31, 0>(group, cols);
  if constexpr (kType == TensorType::kQ8_0) return BlockSource<PackedQ8_0, kScale, 255, 128>(group, cols);
  if constexpr (kType == TensorType::kQ2_K) return Q2KSource(group, cols);
  if constexpr (kType == TensorType::kQ3_K) return Q3KSource(group, cols);
  if constexpr (kType == TensorType::kQ4_K) return SixBitScaleSource<PackedQ4_K, false>(group, cols);
  if constexpr (kType == TensorType::kQ5_K) return SixBitScaleSource<PackedQ5_K, true>(group, cols);
  if constexpr (kType == TensorType::kIQ4_NL) return Iq4NlSource(group, cols);
  if constexpr (kType == TensorType::kQ6_K) return Q6KSource(group, cols);
}

}  // namespace
}  // namespace shoal
