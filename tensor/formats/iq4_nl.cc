// IQ4_NL: w = d table[q], q a nibble, the table fixed and not linear. Packed like Q4_0.
#include "tensor/formats/fit.h"
#include "tensor/formats/fit_iq4.h"
#include "tensor/formats/iq4_values.h"
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
      out[k] = d * static_cast<float>(kIq4Values[block.nibbles[k] & 15]);
      out[k + 16] = d * static_cast<float>(kIq4Values[block.nibbles[k] >> 4]);
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
  unpack_iq4_values(PackedQ4_0::data(group, cols, b), out);
}

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  for (int64_t b = 0; b < n / 32; ++b, x += 32) {
    Block block = {};
    uint8_t q[32] = {};
    const float spread = sum_of_squares({x, 32}) * (2.0f / 32);
    const float scale = fit_iq4(x, importance ? importance + 32 * b : nullptr, spread);
    store_half(&block.d, scale);
    choose_iq4(x, scale, q);
    store_nibbles(q, block.nibbles);
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kIQ4_NLFormat;
const Format kIQ4_NLFormat = {TensorType::kIQ4_NL,
                              "IQ4_NL",
                              32,
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
