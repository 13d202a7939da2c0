// Q5_1: w = d q + m, q of five bits.
#include "tensor/formats/fit.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d, m;
  uint8_t fifth[4];     // bit k: the fifth bit of value k
  uint8_t nibbles[16];  // low: values 0-15, high: 16-31
};
static_assert(sizeof(Block) == 24);

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 32; ++b, out += 32) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    const float d = half_to_float(block.d), m = half_to_float(block.m);
    const uint32_t fifth = load_u32(block.fifth);
    for (int k = 0; k < 16; ++k) {
      const int low = (block.nibbles[k] & 15) | (((fifth >> k) & 1) << 4);
      const int high = (block.nibbles[k] >> 4) | (((fifth >> (k + 16)) & 1) << 4);
      out[k] = d * static_cast<float>(low) + m;
      out[k + 16] = d * static_cast<float>(high) + m;
    }
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 32; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    uint8_t* meta = PackedQ5_1::meta(group, b);
    uint8_t* data = PackedQ5_1::data(group, cols, b);
    interleave_halves(block + offsetof(Block, d), row_bytes, meta);
    interleave_halves(block + offsetof(Block, m), row_bytes, meta + 32);
    interleave_words<4>(block + offsetof(Block, nibbles), row_bytes, data);
    interleave_bits(block + offsetof(Block, fifth), row_bytes, data + 256);
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  const uint8_t* meta = PackedQ5_1::meta(group, b);
  const uint8_t* data = PackedQ5_1::data(group, cols, b);
  unpack_halves(meta, out->scale);
  unpack_halves(meta + 32, out->min);
  unpack_nibbles(data, out);
  unpack_fifth_bits(data + 256, out);
}

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  const float spread = importance ? mean_square({x, static_cast<size_t>(n)}) : 0;
  for (int64_t b = 0; b < n / 32; ++b) {
    const float* weights = importance ? importance + 32 * b : nullptr;
    Block block;
    uint8_t q[32];
    const ScaleMin fit = quantise_with_min({x + 32 * b, 32}, weights, spread, 31, q);
    store_half(&block.d, fit.scale);
    store_half(&block.m, -fit.min);
    store_nibbles(q, block.nibbles);
    store_fifth_bits(q, block.fifth);
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kQ5_1Format;
const Format kQ5_1Format = {TensorType::kQ5_1,
                            "Q5_1",
                            32,
                            sizeof(Block),
                            false,
                            PanelKind::kScaleMin,
                            0,
                            31,
                            decode,
                            pack,
                            unpack,
                            encode};

}  // namespace shoal
