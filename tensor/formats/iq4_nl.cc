// IQ4_NL: w = d table[q], q a nibble, the table fixed and not linear. Packed like Q4_0.
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d;
  uint8_t nibbles[16];  // low: values 0-15, high: 16-31
};
static_assert(sizeof(Block) == 18);

constexpr int8_t kTable[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 32; ++b, out += 32) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    const float d = half_to_float(block.d);
    for (int k = 0; k < 16; ++k) {
      out[k] = d * static_cast<float>(kTable[block.nibbles[k] & 15]);
      out[k + 16] = d * static_cast<float>(kTable[block.nibbles[k] >> 4]);
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
  const uint8_t* nibbles = PackedQ4_0::data(group, cols, b);
  unpack_halves(PackedQ4_0::meta(group, b), out->scale);
  uint8_t* q = &out->q[0][0][0];
  for (int n = 0; n < 256; ++n) {
    q[n] = static_cast<uint8_t>(kTable[nibbles[n] & 15] + 128);
    q[256 + n] = static_cast<uint8_t>(kTable[nibbles[n] >> 4] + 128);
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
                              unpack};

}  // namespace shoal
