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

template <PanelKind kPanelKind, int kMax>
struct PanelSource {
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
  Block at(int b) const { return {panels + b}; }
  template <int kTaken>
  __m256i times_offset(__m256i x) const {
    return _mm256_mullo_epi32(x, _mm256_set1_epi32(offset - kTaken));
  }
  void prefetch(int) const {}
};

// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
template <class Layout, PanelKind kPanelKind, int kMax, int kOffset>
struct BlockSource : FixedOffset<kOffset> {
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
  Block at(int b) const { return {meta + b * Layout::kMeta, data + b * Layout::kData}; }
  void prefetch(int b) const { prefetch_block<Layout::kMeta + Layout::kData>(meta, b); }
};

// Q4_K, and Q5_K whose sub-blocks have a plane of fifth bits besides.
template <class Layout, bool kFive>
struct SixBitScaleSource : FixedOffset<0> {
  static constexpr PanelKind kKind = PanelKind::kScaleMin;
  static constexpr int kMaxQ = kFive ? 31 : 15;
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

struct Q6KSource : FixedOffset<32> {
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
  Block at(int b) const { return {Base::at(b)}; }
};

template <TensorType kType>
auto packed_source(const std::byte* group, int64_t cols) {
  constexpr auto kScale = PanelKind::kScale, kScaleMin = PanelKind::kScaleMin;
  if constexpr (kType == TensorType::kQ4_0) return BlockSource<PackedQ4_0, kScale, 15, 8>(group, cols);
  if constexpr (kType == TensorType::kQ4_1) return BlockSource<PackedQ4_1, kScaleMin, 15, 0>(group, cols);
  if constexpr (kType == TensorType::kQ5_0) return BlockSource<PackedQ5_0, kScale, 31, 16>(group, cols);
  if constexpr (kType == TensorType::kQ5_1) return BlockSource<PackedQ5_1, kScaleMin, 31, 0>(group, cols);
  if constexpr (kType == TensorType::kQ8_0) return BlockSource<PackedQ8_0, kScale, 255, 128>(group, cols);
  if constexpr (kType == TensorType::kQ4_K) return SixBitScaleSource<PackedQ4_K, false>(group, cols);
  if constexpr (kType == TensorType::kQ5_K) return SixBitScaleSource<PackedQ5_K, true>(group, cols);
  if constexpr (kType == TensorType::kIQ4_NL) return Iq4NlSource(group, cols);
  if constexpr (kType == TensorType::kQ6_K) return Q6KSource(group, cols);
}

}  // namespace
}  // namespace shoal
