// Q8_0: w = d q, q a signed byte. Packed with the sign bit flipped, so that q + 128 is an unsigned operand.
#include <cmath>

#include "tensor/formats/fit.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d;
  int8_t q[32];
};
static_assert(sizeof(Block) == 34);

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 32; ++b, out += 32) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    const float d = half_to_float(block.d);
    for (int k = 0; k < 32; ++k) out[k] = d * static_cast<float>(block.q[k]);
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 32; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    interleave_halves(block, row_bytes, PackedQ8_0::meta(group, b));
    interleave_words<8>(block + offsetof(Block, q), row_bytes, PackedQ8_0::data(group, cols, b), 0x80808080u);
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  unpack_halves(PackedQ8_0::meta(group, b), out->scale);
  std::memcpy(out->q, PackedQ8_0::data(group, cols, b), sizeof(out->q));
}

void encode(const float* x, int64_t n, const float*, std::byte* row) {
  for (int64_t b = 0; b < n / 32; ++b, x += 32) {
    const float d = std::fabs(extreme_of({x, 32})) / 127, inverse = d != 0 ? 1 / d : 0;
    Block block;
    store_half(&block.d, d);
    for (int k = 0; k < 32; ++k) block.q[k] = static_cast<int8_t>(std::round(x[k] * inverse));
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kQ8_0Format;
const Format kQ8_0Format = {TensorType::kQ8_0,
                            "Q8_0",
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
