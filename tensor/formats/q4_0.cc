// Q4_0: w = d (q - 8), q a nibble.
#include "tensor/formats/fit.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d;
  uint8_t nibbles[16];  // low: values 0-15, high: 16-31
};
static_assert(sizeof(Block) == 18);

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 32; ++b, out += 32) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    const float d = half_to_float(block.d);
    for (int k = 0; k < 16; ++k) {
      out[k] = d * static_cast<float>((block.nibbles[k] & 15) - 8);
      out[k + 16] = d * static_cast<float>((block.nibbles[k] >> 4) - 8);
    }
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 32; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    interleave_halves(block, row_bytes, PackedQ4_0::meta(group, b));
    interleave_words<4>(block + offsetof(Block, nibbles), row_bytes, PackedQ4_0::data(group, cols, b));
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  unpack_halves(PackedQ4_0::meta(group, b), out->scale);
  unpack_nibbles(PackedQ4_0::data(group, cols, b), out);
}

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  const float spread = importance ? mean_square({x, static_cast<size_t>(n)}) : 0;
  for (int64_t b = 0; b < n / 32; ++b) {
    const float* weights = importance ? importance + 32 * b : nullptr;
    Block block;
    uint8_t q[32];
    store_half(&block.d, quantise_signed({x + 32 * b, 32}, weights, spread, 8, q));
    store_nibbles(q, block.nibbles);
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kQ4_0Format;
const Format kQ4_0Format = {TensorType::kQ4_0,
                            "Q4_0",
                            32,
                            sizeof(Block),
                            false,
                            PanelKind::kScale,
                            8,
                            15,
                            decode,
                            pack,
                            unpack,
                            encode};

}  // namespace shoal
