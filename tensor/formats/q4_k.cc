// Q4_K: 256 values in 8 sub-blocks; w = d scale q - dmin min, q a nibble, scale and min of six bits.
#include "tensor/formats/encode_k.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d, dmin;
  uint8_t scales[12];    // read_six_bit_scales
  uint8_t nibbles[128];  // 4 x 32 bytes, each two sub-blocks: low nibbles, then high nibbles
};
static_assert(sizeof(Block) == 144);

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 256; ++b) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    const SixBitScales scales = read_six_bit_scales(block.scales);
    for (int sub = 0; sub < 8; ++sub, out += 32) {
      const float scale = half_to_float(block.d) * static_cast<float>(scales.scale_of(sub));
      const float min = half_to_float(block.dmin) * static_cast<float>(scales.min_of(sub));
      for (int k = 0; k < 32; ++k) {
        const int q = (block.nibbles[sub / 2 * 32 + k] >> (4 * (sub % 2))) & 15;
        out[k] = scale * static_cast<float>(q) - min;
      }
    }
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 256; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    uint8_t* meta = PackedQ4_K::meta(group, b);
    interleave_halves(block + offsetof(Block, d), row_bytes, meta);
    interleave_halves(block + offsetof(Block, dmin), row_bytes, meta + 32);
    for (int r = 0; r < 16; ++r) {
      pack_six_bit_scales(read_six_bit_scales(block + r * row_bytes + offsetof(Block, scales)), meta + 64, r);
    }
    for (int pair = 0; pair < 4; ++pair) {
      interleave_nibble_pair(block + offsetof(Block, nibbles) + 32 * pair, row_bytes,
                             PackedQ4_K::data(group, cols, b) + 512 * pair, 256);
    }
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  unpack_six_bit_scales(PackedQ4_K::meta(group, b / 8), static_cast<int>(b % 8), out);
  unpack_nibbles(PackedQ4_K::data(group, cols, b / 8) + b % 8 * 256, out);
}

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  for (int64_t b = 0; b < n / 256; ++b, x += 256) {
    Block block = {};
    uint8_t q[256];
    encode_scale_min(x, importance ? importance + 256 * b : nullptr, 15, {-1.0f, 0.1f, 20, false}, &block.d,
                     &block.dmin, block.scales, q);
    for (int k = 0; k < 256; ++k) {
      block.nibbles[k / 64 * 32 + k % 32] |= static_cast<uint8_t>((q[k] & 15) << (k / 32 % 2 * 4));
    }
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kQ4_KFormat;
const Format kQ4_KFormat = {TensorType::kQ4_K,
                            "Q4_K",
                            256,
                            sizeof(Block),
                            false,
                            PanelKind::kScaleMin,
                            0,
                            15,
                            decode,
                            pack,
                            unpack,
                            encode};

}  // namespace shoal
