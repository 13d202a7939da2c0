// What the lattice formats (IQ1, IQ2, IQ3) have in common: super-blocks of 256 values whose fields, read as
// words of four bytes, are interleaved by rows as they come, and values that appear eight at a time.
//
// A format's traits:
//   kWords        words of a block, beside its f16 scale d
//   kWordsAt, kScaleAt   where they begin in the block; kScaleAt < 0: d is taken apart among the words
//   kKind         kScale: one sub-scale for 32 values; kSubScale: one for 16
//   kOffset, kMaxQ   q = q' + kOffset lies in 0..kMaxQ
//   kFactor       w = d kFactor sub_scale q', each product exact
//   static LatticeValues read(word, s)   values [32s, 32s + 32) of a row whose word i is word(i)
//   static uint16_t scale_bits(word)     only where kScaleAt < 0
#pragma once

#include <bit>

#include "tensor/formats/lattice_grids.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {

struct LatticeValues {
  uint64_t q[4];     // q of eight values each, a byte a value
  int sub_scale[2];  // of the first and the last 16; equal where the format has one for 32
};

inline constexpr uint64_t kEveryByte = 0x0101010101010101u;

// Byte n (0..3) of a word, and u16 n (0..1).
inline uint32_t byte_of(uint32_t word, int n) {
  return (word >> (8 * n)) & 255;
}
inline uint32_t half_of(uint32_t word, int n) {
  return (word >> (16 * n)) & 0xffffu;
}

// offset + m for each of eight magnitudes m <= offset, offset - m where the bit of `signs` is set. No byte
// carries into the next: after the addition each is at least the offset.
inline uint64_t with_signs(uint64_t magnitudes, uint32_t signs, int offset) {
  const uint64_t chosen = (kEveryByte * signs) & 0x8040201008040201u;
  const uint64_t negative = (((chosen + 0x7f7f7f7f7f7f7f7fu) >> 7) & kEveryByte) * 255;
  return kEveryByte * static_cast<uint64_t>(offset) + (magnitudes & ~negative) - (magnitudes & negative);
}

// Seven stored signs and the eighth, which makes the number of negatives even.
inline uint32_t even_signs(uint32_t seven) {
  return seven | (static_cast<uint32_t>(std::popcount(seven) & 1) << 7);
}

template <class Traits>
struct LatticeFormat {
  static constexpr bool kHasHalf = Traits::kScaleAt >= 0;
  static constexpr int kHalfAt = kHasHalf ? Traits::kScaleAt : 0;
  static constexpr int kBlockBytes = 4 * Traits::kWords + (kHasHalf ? 2 : 0);
  using Packed = PackedLayout<256, kHasHalf ? 32 : 0, 64 * Traits::kWords>;

  static void decode(const std::byte* row, int64_t n, float* out) {
    for (int64_t b = 0; b < n / 256; ++b) {
      const std::byte* block = row + b * kBlockBytes;
      const auto word = [&](int i) { return load_u32(block + Traits::kWordsAt + 4 * i); };
      const float d = half_to_float(scale_bits(block + kHalfAt, word));
      for (int s = 0; s < 8; ++s, out += 32) {
        const LatticeValues values = Traits::read(word, s);
        for (int k = 0; k < 32; ++k) {
          const float scale = d * Traits::kFactor * static_cast<float>(values.sub_scale[k / 16]);
          const auto q = static_cast<int>((values.q[k / 8] >> (8 * (k % 8))) & 255);
          out[k] = scale * static_cast<float>(q - Traits::kOffset);
        }
      }
    }
  }

  static void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
    constexpr int kFours = Traits::kWords / 4 * 4;
    for (int64_t b = 0; b < cols / 256; ++b) {
      const std::byte* block = rows + b * kBlockBytes;
      if constexpr (kHasHalf) interleave_halves(block + kHalfAt, row_bytes, Packed::meta(group, b));
      uint8_t* data = Packed::data(group, cols, b);
      interleave_words<kFours>(block + Traits::kWordsAt, row_bytes, data);
      for (int i = kFours; i < Traits::kWords; ++i) {
        for (int r = 0; r < 16; ++r) {
          std::memcpy(data + 64 * i + 4 * r, block + r * row_bytes + Traits::kWordsAt + 4 * i, 4);
        }
      }
    }
  }

  static void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
    const uint8_t* data = Packed::data(group, cols, b / 8);
    for (int r = 0; r < 16; ++r) {
      const auto word = [&](int i) { return load_u32(data + 64 * i + 4 * r); };
      const LatticeValues values = Traits::read(word, static_cast<int>(b % 8));
      for (int i = 0; i < 4; ++i) {
        std::memcpy(out->q[2 * i][r], &values.q[i], 4);
        const auto tail = static_cast<uint32_t>(values.q[i] >> 32);
        std::memcpy(out->q[2 * i + 1][r], &tail, 4);
      }
      const float d = half_to_float(scale_bits(Packed::meta(group, b / 8) + 2 * r, word));
      out->scale[r] = d * Traits::kFactor;
      if constexpr (Traits::kKind == PanelKind::kSubScale) {
        for (int u = 0; u < 2; ++u) out->sub_scale[r][u] = static_cast<int16_t>(values.sub_scale[u]);
      } else {
        out->scale[r] *= static_cast<float>(values.sub_scale[0]);
      }
    }
  }

  static constexpr Format format(TensorType type, const char* name, decltype(Format::encode) encode) {
    return {type,          name,   256,  kBlockBytes, false, Traits::kKind, Traits::kOffset,
            Traits::kMaxQ, decode, pack, unpack,      encode};
  }

 private:
  template <class Word>
  static uint16_t scale_bits(const void* half, Word word) {
    if constexpr (kHasHalf) {
      return load_u16(half);
    } else {
      return Traits::scale_bits(word);
    }
  }
};

}  // namespace shoal
