// MXFP4 (OCP Microscaling Formats 1.0, section 5): w = 2^(e - 127) v, e a byte for 32 values, v a four-bit
// float. Here w = 2^(e - 128) (2 v), and 2 v is an integer. ggml gives no e a special meaning.
// Packed, per 32 columns and 16 rows: meta e [16 rows]; data the nibble plane.
#include <algorithm>
#include <bit>
#include <cmath>

#include "tensor/formats/fit.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint8_t e;
  uint8_t nibbles[16];  // low: values 0-15, high: 16-31
};
static_assert(sizeof(Block) == 17);

using Packed = PackedLayout<32, 16, 256>;

constexpr int8_t kTwice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
constexpr int kOffset = 12;

// 2^(e - 128), of which the two smallest are subnormal.
float scale_of(int e) {
  return std::bit_cast<float>(e < 2 ? uint32_t{0x00200000} << e : static_cast<uint32_t>(e - 1) << 23);
}

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 32; ++b, out += 32) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    const float scale = scale_of(block.e);
    for (int k = 0; k < 16; ++k) {
      out[k] = scale * static_cast<float>(kTwice[block.nibbles[k] & 15]);
      out[k + 16] = scale * static_cast<float>(kTwice[block.nibbles[k] >> 4]);
    }
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 32; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    for (int r = 0; r < 16; ++r) std::memcpy(Packed::meta(group, b) + r, block + r * row_bytes, 1);
    interleave_words<4>(block + offsetof(Block, nibbles), row_bytes, Packed::data(group, cols, b));
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  for (int r = 0; r < 16; ++r) out->scale[r] = scale_of(Packed::meta(group, b)[r]);
  const uint8_t* nibbles = Packed::data(group, cols, b);
  uint8_t* q = &out->q[0][0][0];
  for (int n = 0; n < 256; ++n) {
    q[n] = static_cast<uint8_t>(kTwice[nibbles[n] & 15] + kOffset);
    q[256 + n] = static_cast<uint8_t>(kTwice[nibbles[n] >> 4] + kOffset);
  }
}

// The largest value becomes 4 to 8 times the scale, so that all are in reach; then each takes the nearest of
// the 16, of two as near the first in their order.
void encode(const float* x, int64_t n, const float*, std::byte* row) {
  for (int64_t b = 0; b < n / 32; ++b, x += 32) {
    const float largest = std::fabs(extreme_of({x, 32}));
    Block block;
    // log2 is ggml's way, which takes the next exponent for values a rounding below it.
    block.e = 0;
    if (largest > 0)
      block.e = static_cast<uint8_t>(std::clamp(std::floor(std::log2(largest)) - 2 + 127, 0.0f, 254.0f));
    const float scale = scale_of(block.e);
    const auto nearest = [&](float value) {
      int best = 0;
      for (int i = 1; i < 16; ++i) {
        if (std::fabs(static_cast<float>(kTwice[i]) * scale - value) <
            std::fabs(static_cast<float>(kTwice[best]) * scale - value))
          best = i;
      }
      return best;
    };
    for (int k = 0; k < 16; ++k)
      block.nibbles[k] = static_cast<uint8_t>(nearest(x[k]) | nearest(x[k + 16]) << 4);
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kMXFP4Format;
const Format kMXFP4Format = {
    TensorType::kMXFP4, "MXFP4", 32,   sizeof(Block), false, PanelKind::kScale, kOffset,
    2 * kOffset,        decode,  pack, unpack,        encode};

}  // namespace shoal
