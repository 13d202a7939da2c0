// Products for NEON (Armv8-A), once for processors with SDOT and once for those without: a lane is a row, so
// a group of 16 rows is four registers, its parts. Included by product_neon.cc and product_neondot.cc only,
// which differ in their compile flags; the second has the dot product instruction.
//
// A tile kernel reads its weights through a source, which gives for each 32-wide block the operand of part p
// and columns 4j..4j+3 as signed bytes, and the scales. There is one source for panels and one per kind of
// packed layout, so that every format runs the same loop. How its integers stay exact:
//   SDOT adds four products i8 x i8 to 32 bits and needs no care;
//   without it, smull and smlal add products in 16 bits; with |a| <= 127: |w| <= 31: 3,937, eight of them
//     fit 16 bits; |w| <= 63: 8,001, four; |w| <= 128: 16,256, two; then pairs are widened to 32 bits.
// Bytes 0..255 are read as q - 128. An offset is taken off by letting the integer start at
// -offset * (sum of the activations) instead of 0.
#pragma once

#include <arm_neon.h>

#include "tensor/formats/packed_layout.h"
#include "tensor/product_driver.h"

#define SHOAL_UNROLL _Pragma("GCC unroll 16")

namespace shoal {
namespace {

constexpr int kParts = 4;

inline float32x4_t load_halves(const uint8_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
inline int32x4_t load_words(const void* p) {
  return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p)));
}
inline int8x16_t broadcast_word(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

constexpr bool has_sub(PanelKind kind) {
  return kind == PanelKind::kSubScale || kind == PanelKind::kSubScaleMin;
}

// ---- Sources ----

// Byte-wise shift, left if n > 0. n is known once the loops are unrolled.
inline uint8x16_t shift(uint8x16_t x, int n) {
  return n >= 0 ? x << static_cast<uint8_t>(n) : x >> static_cast<uint8_t>(-n);
}
inline uint8x16_t and_bytes(uint8x16_t x, uint8_t mask) {
  return vandq_u8(x, vdupq_n_u8(mask));
}
inline int8x16_t signed_bytes(uint8x16_t x) {  // q of 0..255 as q - 128
  return vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(128)));
}

// Columns 4j.. of part p in a plane of nibbles; the fifth bits of the same as 0 or 16.
inline uint8x16_t nibbles(const uint8_t* plane, int p, int j) {
  const uint8x16_t x = vld1q_u8(plane + 64 * (j & 3) + 16 * p);
  return j < 4 ? and_bytes(x, 15) : vshrq_n_u8(x, 4);
}
inline uint8x16_t fifth_bits(const uint8_t* bits, int p, int j) {
  return and_bytes(shift(vld1q_u8(bits + 16 * p), 4 - j), 16);
}

// The first (h = 0) or second number of four pairs.
inline int32x4_t half_of_pairs(const int16_t (*pairs)[2], int h) {
  const int32x4_t words = load_words(pairs);
  return vshrq_n_s32(h == 0 ? vshlq_n_s32(words, 16) : words, 16);
}

template <PanelKind kPanelKind, int kMax>
struct PanelSource {
  static constexpr PanelKind kKind = kPanelKind;
  static constexpr int kMaxQ = kMax;
  struct Block {
    const Panel* panel;
    int8x16_t weights(int p, int j) const {
      const uint8x16_t q = vld1q_u8(panel->q[j][4 * p]);
      return kMax == 255 ? signed_bytes(q) : vreinterpretq_s8_u8(q);
    }
    float32x4_t scale(int p) const { return vld1q_f32(panel->scale + 4 * p); }
    float32x4_t min(int p) const { return vld1q_f32(panel->min + 4 * p); }
    int32x4_t sub_scale(int p, int h) const { return half_of_pairs(panel->sub_scale + 4 * p, h); }
    int32x4_t sub_min(int p, int h) const { return half_of_pairs(panel->sub_min + 4 * p, h); }
  };
  const Panel* panels;
  int offset;
  PanelSource(const Panel* p, int format_offset)
      : panels(p), offset(format_offset - (kMax == 255 ? 128 : 0)) {}
  Block at(int b) const { return {panels + b}; }
};

// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
template <class Layout, PanelKind kPanelKind, int kMax, int kOffset>
struct BlockSource {
  static constexpr PanelKind kKind = kPanelKind;
  static constexpr int kMaxQ = kMax;
  static constexpr int offset = kOffset;
  struct Block {
    const uint8_t* meta;
    const uint8_t* data;
    int8x16_t weights(int p, int j) const {
      if constexpr (kMax == 255) return signed_bytes(vld1q_u8(data + 64 * j + 16 * p));
      uint8x16_t q = nibbles(data, p, j);
      if constexpr (kMax == 31) q = vorrq_u8(q, fifth_bits(data + 256, p, j));
      return vreinterpretq_s8_u8(q);
    }
    float32x4_t scale(int p) const { return load_halves(meta + 8 * p); }
    float32x4_t min(int p) const { return load_halves(meta + 32 + 8 * p); }
  };
  const uint8_t* meta;
  const uint8_t* data;
  BlockSource(const std::byte* group, int64_t cols)
      : meta(Layout::meta(group, 0)), data(Layout::data(group, cols, 0)) {}
  Block at(int b) const { return {meta + b * Layout::kMeta, data + b * Layout::kData}; }
};

// Q4_K, and Q5_K whose sub-blocks have a plane of fifth bits besides.
template <class Layout, bool kFive>
struct SixBitScaleSource {
  static constexpr PanelKind kKind = PanelKind::kScaleMin;
  static constexpr int kMaxQ = kFive ? 31 : 15;
  static constexpr int offset = 0;
  static constexpr int kSubBytes = kFive ? 256 + 64 : 256;
  struct Block {
    const uint8_t* meta;
    const uint8_t* data;
    int sub;
    int8x16_t weights(int p, int j) const {
      uint8x16_t q = nibbles(data, p, j);
      if constexpr (kFive) q = vorrq_u8(q, fifth_bits(data + 256, p, j));
      return vreinterpretq_s8_u8(q);
    }
    static uint32x4_t shift_right(const uint8_t* words, int bits) {
      return vshlq_u32(vreinterpretq_u32_u8(vld1q_u8(words)), vdupq_n_s32(-bits));
    }
    // The byte of this sub-block in each row's word of plane 0 or 1: scale, and above it two bits of the min.
    uint32x4_t plane(int p) const { return shift_right(meta + 64 + 64 * (sub / 4) + 16 * p, 8 * (sub % 4)); }
    float32x4_t scale(int p) const {
      return vmulq_f32(load_halves(meta + 8 * p), vcvtq_f32_u32(vandq_u32(plane(p), vdupq_n_u32(63))));
    }
    float32x4_t min(int p) const {
      const uint32x4_t low = shift_right(meta + 192 + 16 * p, 8 * (sub % 4) + 4 * (sub / 4));
      const uint32x4_t high = vshrq_n_u32(plane(p), 2);
      const uint32x4_t min = vorrq_u32(vandq_u32(low, vdupq_n_u32(15)), vandq_u32(high, vdupq_n_u32(48)));
      return vnegq_f32(vmulq_f32(load_halves(meta + 32 + 8 * p), vcvtq_f32_u32(min)));  // subtracted
    }
  };
  const uint8_t* meta;
  const uint8_t* data;
  SixBitScaleSource(const std::byte* group, int64_t cols)
      : meta(Layout::meta(group, 0)), data(Layout::data(group, cols, 0)) {}
  Block at(int b) const { return {meta + b / 8 * Layout::kMeta, data + b * kSubBytes, b % 8}; }
};

struct Q6KSource {
  static constexpr PanelKind kKind = PanelKind::kSubScale;
  static constexpr int kMaxQ = 63;
  static constexpr int offset = 32;
  struct Block {
    const uint8_t* meta;
    const uint8_t* scales;
    const uint8_t* data;
    int8x16_t weights(int p, int j) const {
      const uint8x16_t fields = vld1q_u8(data + 256 + 64 * (j / 4) + 16 * p);
      const uint8x16_t high = and_bytes(shift(fields, 4 - 2 * (j % 4)), 48);  // from bits 2j to bits 4 and 5
      return vreinterpretq_s8_u8(vorrq_u8(nibbles(data, p, j), high));
    }
    float32x4_t scale(int p) const { return load_halves(meta + 8 * p); }
    int32x4_t sub_scale(int p, int h) const {
      int32_t word;
      __builtin_memcpy(&word, scales + 16 * h + 4 * p, 4);
      const int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(word));
      return vmovl_s16(vget_low_s16(vmovl_s8(bytes)));
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
};

// IQ4_NL: the layout of Q4_0, whose nibbles choose one of 16 values.
struct Iq4NlSource : BlockSource<PackedQ4_0, PanelKind::kScale, 255, 0> {
  using Base = BlockSource<PackedQ4_0, PanelKind::kScale, 255, 0>;
  using Base::Base;
  struct Block : Base::Block {
    int8x16_t weights(int p, int j) const {
      constexpr int8_t kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};
      return vqtbl1q_s8(vld1q_s8(kValues), nibbles(data, p, j));
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

// ---- Integers ----

// The order of the eight 4-column steps: nibble planes give columns j and j + 4 from one load; sub-scales
// want the first 16 columns first.
template <class Source>
constexpr int step(int i) {
  return has_sub(Source::kKind) ? i : i / 2 + 4 * (i % 2);
}

// acc[c][p] += the products of steps [kFirst, kLast) of parts first_part.. of the block `w` and row c.
#if defined(__ARM_FEATURE_DOTPROD)

template <class Source, int kFirst, int kLast, int C, int P>
inline void add_products(const typename Source::Block& w, int first_part, const ActivationBlock<C>& a,
                         int32x4_t (&acc)[C][P]) {
  SHOAL_UNROLL for (int i = kFirst; i < kLast; ++i) {
    const int j = step<Source>(i);
    int8x16_t q[P];
    SHOAL_UNROLL for (int p = 0; p < P; ++p) q[p] = w.weights(first_part + p, j);
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      const int8x16_t x = broadcast_word(a.q[c] + 4 * j);
      SHOAL_UNROLL for (int p = 0; p < P; ++p) acc[c][p] = vdotq_s32(acc[c][p], q[p], x);
    }
  }
}

#else

// How many products of a byte may be added in 16 bits.
template <class Source>
constexpr int kSteps = Source::kMaxQ <= 31   ? 8
                       : Source::kMaxQ <= 63 ? 4
                                             : 2;

template <class Source, int kFirst, int kLast, int C, int P>
inline void add_products(const typename Source::Block& w, int first_part, const ActivationBlock<C>& a,
                         int32x4_t (&acc)[C][P]) {
  constexpr int kGroup = kSteps<Source> < kLast - kFirst ? kSteps<Source> : kLast - kFirst;
  SHOAL_UNROLL for (int first = kFirst; first < kLast; first += kGroup) {
    int16x8_t low[C][P], high[C][P];  // rows 0 and 1 of each part, rows 2 and 3
    SHOAL_UNROLL for (int i = first; i < first + kGroup; ++i) {
      const int j = step<Source>(i);
      int8x16_t q[P];
      SHOAL_UNROLL for (int p = 0; p < P; ++p) q[p] = w.weights(first_part + p, j);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const int8x16_t x = broadcast_word(a.q[c] + 4 * j);
        SHOAL_UNROLL for (int p = 0; p < P; ++p) {
          if (i == first) {
            low[c][p] = vmull_s8(vget_low_s8(q[p]), vget_low_s8(x));
            high[c][p] = vmull_high_s8(q[p], x);
          } else {
            low[c][p] = vmlal_s8(low[c][p], vget_low_s8(q[p]), vget_low_s8(x));
            high[c][p] = vmlal_high_s8(high[c][p], q[p], x);
          }
        }
      }
    }
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      SHOAL_UNROLL for (int p = 0; p < P; ++p) {
        const int32x4_t sums = vpaddq_s32(vpaddlq_s16(low[c][p]), vpaddlq_s16(high[c][p]));
        acc[c][p] = vaddq_s32(acc[c][p], sums);
      }
    }
  }
}

#endif

// t[c][p] = the exact integer of the block, parts first_part.. and row c.
template <class Source, int C, int P>
inline void dot(const Source& source, const typename Source::Block& w, int first_part,
                const ActivationBlock<C>& a, int32x4_t (&t)[C][P]) {
  if constexpr (!has_sub(Source::kKind)) {
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      SHOAL_UNROLL for (int p = 0; p < P; ++p) t[c][p] = vdupq_n_s32(-source.offset * a.sum[c]);
    }
    add_products<Source, 0, 8>(w, first_part, a, t);
  } else {
    SHOAL_UNROLL for (int h = 0; h < 2; ++h) {
      int32x4_t acc[C][P];
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        SHOAL_UNROLL for (int p = 0; p < P; ++p) acc[c][p] = vdupq_n_s32(-source.offset * a.half_sum[c][h]);
      }
      if (h == 0) {
        add_products<Source, 0, 4>(w, first_part, a, acc);
      } else {
        add_products<Source, 4, 8>(w, first_part, a, acc);
      }
      SHOAL_UNROLL for (int p = 0; p < P; ++p) {
        const int32x4_t scale = w.sub_scale(first_part + p, h);
        SHOAL_UNROLL for (int c = 0; c < C; ++c) {
          t[c][p] = h == 0 ? vmulq_s32(acc[c][p], scale) : vmlaq_s32(t[c][p], acc[c][p], scale);
        }
      }
    }
  }
}

// ---- The tile kernel ----

// sums += rows of `a` times parts [first_part, first_part + P) of the source, `blocks` blocks in order.
template <int P, class Source, int C>
void run_parts(const Source& source, int blocks, int first_part, const ActivationBlock<C>* a,
               float (*sums)[16]) {
  float32x4_t sum[C][P];
  SHOAL_UNROLL for (int c = 0; c < C; ++c) {
    SHOAL_UNROLL for (int p = 0; p < P; ++p) sum[c][p] = vld1q_f32(sums[c] + 4 * (first_part + p));
  }
  for (int b = 0; b < blocks; ++b, ++a) {
    const typename Source::Block w = source.at(b);
    int32x4_t t[C][P];
    dot(source, w, first_part, *a, t);
    SHOAL_UNROLL for (int p = 0; p < P; ++p) {
      const int part = first_part + p;
      const float32x4_t scale = w.scale(part);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        sum[c][p] = vfmaq_f32(sum[c][p], vcvtq_f32_s32(t[c][p]), vmulq_n_f32(scale, a->scale[c]));
      }
      if constexpr (Source::kKind == PanelKind::kScaleMin) {
        const float32x4_t min = w.min(part);
        SHOAL_UNROLL for (int c = 0; c < C; ++c) {
          sum[c][p] = vfmaq_f32(sum[c][p], min, vdupq_n_f32(a->scaled_sum[c]));
        }
      }
      if constexpr (Source::kKind == PanelKind::kSubScaleMin) {
        const float32x4_t min = w.min(part);
        SHOAL_UNROLL for (int c = 0; c < C; ++c) {
          const int32x4_t u = vmlaq_n_s32(vmulq_n_s32(w.sub_min(part, 0), a->half_sum[c][0]),
                                          w.sub_min(part, 1), a->half_sum[c][1]);
          sum[c][p] = vfmaq_f32(sum[c][p], vcvtq_f32_s32(u), vmulq_n_f32(min, a->scale[c]));
        }
      }
    }
  }
  SHOAL_UNROLL for (int c = 0; c < C; ++c) {
    SHOAL_UNROLL for (int p = 0; p < P; ++p) vst1q_f32(sums[c] + 4 * (first_part + p), sum[c][p]);
  }
}

// One row takes the four parts together, one stream from memory; several take two at a time, whose integers
// and sums fit the 32 registers.
template <class Source, int C>
void run(const Source& source, int blocks, const ActivationBlock<C>* a, float (*sums)[16]) {
  constexpr int kTogether = C == 1 ? kParts : 2;
  for (int p = 0; p < kParts; p += kTogether) run_parts<kTogether>(source, blocks, p, a, sums);
}

// ---- Float weights ----

template <TensorType kType>
inline float32x4_t load_weights(const std::byte* group, int64_t index) {
  if constexpr (kType == TensorType::kF32) return vld1q_f32(reinterpret_cast<const float*>(group) + index);
  const auto* p = reinterpret_cast<const uint8_t*>(group) + 2 * index;
  if constexpr (kType == TensorType::kF16) return load_halves(p);
  return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}

struct Neon {
  static constexpr int kTileRows = 4;

  template <PanelKind kKind, int kMaxQ, int C>
  static void panel_tile(const Panel* panels, int blocks, int offset, const ActivationBlock<C>* a,
                         float (*sums)[16]) {
    run(PanelSource<kKind, kMaxQ>(panels, offset), blocks, a, sums);
  }

  static constexpr int direct_rows_max(TensorType type) { return usual_direct_rows_max(type); }
  template <TensorType>
  static constexpr int kGroupsAbreast = 1;

  template <TensorType kType, int C>
  static void direct_tile(const std::byte* group, int64_t cols, bool, const ActivationBlock<C>* a,
                          float (*sums)[16]) {
    run(packed_source<kType>(group, cols), static_cast<int>(cols / 32), a, sums);
  }

  template <TensorType kType, int C>
  static void float_tile(const std::byte* group, int64_t cols, const float* x, int64_t ld_x,
                         float (*sums)[16]) {
    float32x4_t sum[C][kParts];
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      SHOAL_UNROLL for (int p = 0; p < kParts; ++p) sum[c][p] = vdupq_n_f32(0.0f);
    }
    for (int64_t k = 0; k < cols; ++k) {
      float32x4_t w[kParts];
      SHOAL_UNROLL for (int p = 0; p < kParts; ++p) w[p] = load_weights<kType>(group, 16 * k + 4 * p);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const float32x4_t a = vdupq_n_f32(x[c * ld_x + k]);
        SHOAL_UNROLL for (int p = 0; p < kParts; ++p) sum[c][p] = vfmaq_f32(sum[c][p], w[p], a);
      }
    }
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      SHOAL_UNROLL for (int p = 0; p < kParts; ++p) vst1q_f32(sums[c] + 4 * p, sum[c][p]);
    }
  }
};

}  // namespace
}  // namespace shoal
