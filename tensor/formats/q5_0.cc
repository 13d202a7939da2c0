// Q5_0: w = d (q - 16), q of five bits.
#include "tensor/formats/fit.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d;
  uint8_t fifth[4];     // bit k: the fifth bit of value k
  uint8_t nibbles[16];  // low: values 0-15, high: 16-31
};
static_assert(sizeof(Block) == 22);

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 32; ++b, out += 32) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    const float d = half_to_float(block.d);
    const uint32_t fifth = load_u32(block.fifth);
    for (int k = 0; k < 16; ++k) {
      const int low = (block.nibbles[k] & 15) | (((fifth >> k) & 1) << 4);
      const int high = (block.nibbles[k] >> 4) | (((fifth >> (k + 16)) & 1) << 4);
      out[k] = d * static_cast<float>(low - 16);
      out[k + 16] = d * static_cast<float>(high - 16);
    }
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 32; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    uint8_t* data = PackedQ5_0::data(group, cols, b);
    interleave_halves(block, row_bytes, PackedQ5_0::meta(group, b));
    interleave_words<4>(block + offsetof(Block, nibbles), row_bytes, data);
    interleave_bits(block + offsetof(Block, fifth), row_bytes, data + 256);
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  const uint8_t* data = PackedQ5_0::data(group, cols, b);
  unpack_halves(PackedQ5_0::meta(group, b), out->scale);
  unpack_nibbles(data, out);
  unpack_fifth_bits(data + 256, out);
}

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  const float spread = importance ? mean_square({x, static_cast<size_t>(n)}) : 0;
  for (int64_t b = 0; b < n / 32; ++b) {
    const float* weights = importance ? importance + 32 * b : nullptr;
    Block block;
    uint8_t q[32];
    store_half(&block.d, quantise_signed({x + 32 * b, 32}, weights, spread, 16, q));
    store_nibbles(q, block.nibbles);
    store_fifth_bits(q, block.fifth);
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kQ5_0Format;
const Format kQ5_0Format = {TensorType::kQ5_0,
                            "Q5_0",
                            32,
                            sizeof(Block),
                            false,
                            PanelKind::kScale,
                            16,
                            31,
                            decode,
                            pack,
                            unpack,
                            encode};

}  // namespace shoal
