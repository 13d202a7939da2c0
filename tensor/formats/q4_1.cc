// Q4_1: w = d q + m, q a nibble.
#include "tensor/formats/fit.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d, m;
  uint8_t nibbles[16];  // low: values 0-15, high: 16-31
};
static_assert(sizeof(Block) == 20);

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 32; ++b, out += 32) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    const float d = half_to_float(block.d), m = half_to_float(block.m);
    for (int k = 0; k < 16; ++k) {
      out[k] = d * static_cast<float>(block.nibbles[k] & 15) + m;
      out[k + 16] = d * static_cast<float>(block.nibbles[k] >> 4) + m;
    }
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 32; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    uint8_t* meta = PackedQ4_1::meta(group, b);
    interleave_halves(block + offsetof(Block, d), row_bytes, meta);
    interleave_halves(block + offsetof(Block, m), row_bytes, meta + 32);
    interleave_words<4>(block + offsetof(Block, nibbles), row_bytes, PackedQ4_1::data(group, cols, b));
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  const uint8_t* meta = PackedQ4_1::meta(group, b);
  unpack_halves(meta, out->scale);
  unpack_halves(meta + 32, out->min);
  unpack_nibbles(PackedQ4_1::data(group, cols, b), out);
}

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  const float spread = importance ? mean_square({x, static_cast<size_t>(n)}) : 0;
  for (int64_t b = 0; b < n / 32; ++b) {
    const float* weights = importance ? importance + 32 * b : nullptr;
    Block block;
    uint8_t q[32];
    const ScaleMin fit = quantise_with_min({x + 32 * b, 32}, weights, spread, 15, q);
    store_half(&block.d, fit.scale);
    store_half(&block.m, -fit.min);
    store_nibbles(q, block.nibbles);
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kQ4_1Format;
const Format kQ4_1Format = {TensorType::kQ4_1,
                            "Q4_1",
                            32,
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
