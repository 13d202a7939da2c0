// IQ4_XS: 256 values in 8 sub-blocks; w = d (s - 32) table[q], q a nibble, the table of IQ4_NL, s of six
// bits. Packed, per 256 columns and 16 rows: meta d, high scale bits [16 rows], low scale bits [16 rows][4];
// data 8 nibble planes.
#include "tensor/formats/fit.h"
#include "tensor/formats/fit_iq4.h"
#include "tensor/formats/iq4_values.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d;
  uint16_t scales_high;   // bits 2s, 2s + 1: the top of scale s
  uint8_t scales_low[4];  // two each, the low nibble first
  uint8_t nibbles[128];   // 16 bytes a sub-block: low: values 0-15, high: 16-31
};
static_assert(sizeof(Block) == 136);

using Packed = PackedLayout<256, 128, 8 * 256>;

int scale_of(int s, uint32_t high, uint32_t low) {
  return static_cast<int>(((low >> (4 * s)) & 15) | (((high >> (2 * s)) & 3) << 4)) - 32;
}

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 256; ++b) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    for (int s = 0; s < 8; ++s, out += 32) {
      const int sub = scale_of(s, block.scales_high, load_u32(block.scales_low));
      const float scale = half_to_float(block.d) * static_cast<float>(sub);
      for (int k = 0; k < 16; ++k) {
        const int byte = block.nibbles[16 * s + k];
        out[k] = scale * static_cast<float>(kIq4Values[byte & 15]);
        out[k + 16] = scale * static_cast<float>(kIq4Values[byte >> 4]);
      }
    }
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 256; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    uint8_t* meta = Packed::meta(group, b);
    interleave_halves(block + offsetof(Block, d), row_bytes, meta);
    interleave_halves(block + offsetof(Block, scales_high), row_bytes, meta + 32);
    for (int r = 0; r < 16; ++r) {
      std::memcpy(meta + 64 + 4 * r, block + r * row_bytes + offsetof(Block, scales_low), 4);
    }
    for (int s = 0; s < 8; ++s) {
      interleave_words<4>(block + offsetof(Block, nibbles) + 16 * s, row_bytes,
                          Packed::data(group, cols, b) + 256 * s);
    }
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  const int s = static_cast<int>(b % 8);
  const uint8_t* meta = Packed::meta(group, b / 8);
  unpack_halves(meta, out->scale);
  for (int r = 0; r < 16; ++r) {
    const int sub = scale_of(s, load_u16(meta + 32 + 2 * r), load_u32(meta + 64 + 4 * r));
    out->scale[r] *= static_cast<float>(sub);
  }
  unpack_iq4_values(Packed::data(group, cols, b / 8) + 256 * s, out);
}

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  for (int64_t b = 0; b < n / 256; ++b, x += 256) {
    Block block = {};
    const float spread = sum_of_squares({x, 256}) * (2.0f / 256);
    float scale[8];
    for (int s = 0; s < 8; ++s) {
      scale[s] = fit_iq4(x + 32 * s, importance ? importance + 256 * b + 32 * s : nullptr, spread);
    }
    const float d = -extreme_of(scale) / 32, inverse = d != 0 ? 1 / d : 0;
    store_half(&block.d, d);
    for (int s = 0; s < 8; ++s) {
      const int level = clamp_int(round_to_int(inverse * scale[s]), -32, 31);
      uint8_t q[32];
      choose_iq4(x + 32 * s, d * static_cast<float>(level), q);
      store_nibbles(q, block.nibbles + 16 * s);
      block.scales_low[s / 2] |= static_cast<uint8_t>(((level + 32) & 15) << (4 * (s % 2)));
      block.scales_high |= static_cast<uint16_t>(((level + 32) >> 4) << (2 * s));
    }
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kIQ4_XSFormat;
const Format kIQ4_XSFormat = {TensorType::kIQ4_XS,
                              "IQ4_XS",
                              256,
                              sizeof(Block),
                              false,
                              PanelKind::kScale,
                              128,
                              255,
                              decode,
                              pack,
                              unpack,
                              encode};

}  // namespace shoal
