// Where the AVX-512 tile kernels read their weights. A source gives for each 32-wide block the operand of
// columns 4j..4j+3 of 16 rows as unsigned bytes, and the scales. There is one source for panels and one per
// kind of packed layout, so that every format runs the same loop. Part of product_avx512.cc, which alone
// includes it.
#pragma once

#include "tensor/simd/avx512_intrinsics.h"
// The intrinsics come first: they may be emulated.
#include "tensor/formats/packed_layout.h"
#include "tensor/product_ops.h"

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
  return or_and(nibbles(plane, j), j < 4 ? _mm512_slli_epi16(bits, 4 - j) : _mm512_srli_epi16(bits, j - 4),
                16);
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

}  // namespace
}  // namespace shoal
