// TQ2_0: 256 values; w = d (q - 1), q of two bits, for models trained with weights of -1, 0 and 1.
// Packed, per 256 columns and 16 rows: meta d; data the words of the file [16][16 rows][4].
#include <cmath>

#include "tensor/formats/fit.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint8_t q[64];  // 2 x 32 bytes for 128 values each: bits 2p of byte k are value 32p + k
  uint16_t d;
};
static_assert(sizeof(Block) == 66);

using Packed = PackedLayout<256, 32, 1024>;

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 256; ++b, out += 256) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    const float d = half_to_float(block.d);
    for (int k = 0; k < 256; ++k) {
      const int q = (block.q[k / 128 * 32 + k % 32] >> (2 * (k / 32 % 4))) & 3;
      out[k] = d * static_cast<float>(q - 1);
    }
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 256; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    interleave_halves(block + offsetof(Block, d), row_bytes, Packed::meta(group, b));
    interleave_words<16>(block + offsetof(Block, q), row_bytes, Packed::data(group, cols, b));
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  const int s = static_cast<int>(b % 8);
  unpack_halves(Packed::meta(group, b / 8), out->scale);
  const uint8_t* words = Packed::data(group, cols, b / 8) + 512 * (s / 4);
  uint8_t* q = &out->q[0][0][0];
  for (int n = 0; n < 512; ++n) q[n] = (words[n] >> (2 * (s % 4))) & 3;
}

void encode(const float* x, int64_t n, const float*, std::byte* row) {
  for (int64_t b = 0; b < n / 256; ++b, x += 256) {
    const float d = std::fabs(extreme_of({x, 256})), inverse = d != 0 ? 1 / d : 0;
    Block block = {};
    store_half(&block.d, d);
    for (int k = 0; k < 256; ++k) {
      const long q = std::lround(x[k] * inverse) + 1;
      block.q[k / 128 * 32 + k % 32] |= static_cast<uint8_t>(q << (2 * (k / 32 % 4)));
    }
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kTQ2_0Format;
const Format kTQ2_0Format = {TensorType::kTQ2_0,
                             "TQ2_0",
                             256,
                             sizeof(Block),
                             false,
                             PanelKind::kScale,
                             1,
                             3,
                             decode,
                             pack,
                             unpack,
                             encode};

}  // namespace shoal
