// Q6_K: 256 values in 16 sub-blocks of 16; w = d scale (q - 32), q of six bits, scale a signed byte.
#include <algorithm>
#include <cmath>

#include "tensor/formats/fit.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint8_t low[128];  // low four bits, 2 x 64 bytes for 128 values each
  uint8_t high[64];  // high two bits, 2 x 32 bytes
  int8_t scales[16];
  uint16_t d;
};
static_assert(sizeof(Block) == 210);

constexpr int kSubBytes = 256 + 128;  // packed bytes of 32 columns

// Value k (0..31) of the 32-wide block s (0..7): four blocks share 32 bytes of `high`, two bits each; blocks
// s and s + 2 of a half share 32 bytes of `low`, a nibble each.
int value(const Block& block, int s, int k) {
  const int half = s / 4, part = s % 4;
  const int low = (block.low[64 * half + 32 * (part % 2) + k] >> (4 * (part / 2))) & 15;
  const int high = (block.high[32 * half + k] >> (2 * part)) & 3;
  return low | (high << 4);
}

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 256; ++b, out += 256) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    const float d = half_to_float(block.d);
    for (int k = 0; k < 256; ++k) {
      const float scale = d * static_cast<float>(block.scales[k / 16]);
      out[k] = scale * static_cast<float>(value(block, k / 32, k % 32) - 32);
    }
  }
}

// 128 values of 16 rows, four 32-wide blocks: blocks s and s + 2 share 32 bytes of nibbles, all four share 32
// bytes of 2-bit fields, whose words are planes with a field for each block and become the blocks' planes
// with a field for each word.
void pack_half(const std::byte* low, const std::byte* high, size_t row_bytes, uint8_t* out) {
  for (int s = 0; s < 2; ++s) {
    interleave_nibble_pair(low + 32 * s, row_bytes, out + s * kSubBytes, 2 * kSubBytes);
  }
  for (int h = 0; h < 2; ++h) {
    alignas(64) uint8_t fields[4][64];
    interleave_words<4>(high + 16 * h, row_bytes, fields[0]);
    transpose_fields<4>(fields);
    for (int s = 0; s < 4; ++s) std::memcpy(out + s * kSubBytes + 256 + 64 * h, fields[s], 64);
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 256; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    uint8_t* data = PackedQ6_K::data(group, cols, b);
    interleave_halves(block + offsetof(Block, d), row_bytes, PackedQ6_K::meta(group, b));
    interleave_bytes(block + offsetof(Block, scales), row_bytes, data);
    for (int half = 0; half < 2; ++half) {
      pack_half(block + offsetof(Block, low) + 64 * half, block + offsetof(Block, high) + 32 * half,
                row_bytes, data + 256 + 4 * half * kSubBytes);
    }
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  const uint8_t* data = PackedQ6_K::data(group, cols, b / 8);
  const auto* scales = reinterpret_cast<const int8_t*>(data) + b % 8 * 32;
  const uint8_t* bytes = data + 256 + b % 8 * kSubBytes;
  unpack_halves(PackedQ6_K::meta(group, b / 8), out->scale);
  for (int r = 0; r < 16; ++r) {
    out->sub_scale[r][0] = scales[r];
    out->sub_scale[r][1] = scales[16 + r];
  }
  unpack_nibbles(bytes, out);
  for (int j = 0; j < 8; ++j) {
    const uint8_t* plane = bytes + 256 + 64 * (j / 4);
    uint8_t* q = &out->q[j][0][0];
    for (int n = 0; n < 64; ++n) q[n] |= static_cast<uint8_t>(((plane[n] >> (2 * (j % 4))) & 3) << 4);
  }
}

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  for (int64_t b = 0; b < n / 256; ++b, x += 256) {
    Block block = {};
    uint8_t q[256];
    float scale[16];
    for (int u = 0; u < 16; ++u) {
      const float* weight = importance ? importance + 256 * b + 16 * u : nullptr;
      scale[u] = fit_signed({x + 16 * u, 16}, weight, 32, q + 16 * u);
    }
    const float extreme = extreme_of(scale);
    if (std::fabs(extreme) >= 1e-15f) {
      const float inverse = -128.0f / extreme;
      store_half(&block.d, 1 / inverse);
      for (int u = 0; u < 16; ++u) {
        block.scales[u] = static_cast<int8_t>(std::min(127, round_to_int(inverse * scale[u])));
      }
      for (int k = 0; k < 256; ++k) {
        const float d = half_to_float(block.d) * static_cast<float>(block.scales[k / 16]);
        if (d != 0) q[k] = static_cast<uint8_t>(clamp_int(round_to_int(x[k] / d), -32, 31) + 32);
        const int half = k / 128, part = k / 32 % 4;
        block.low[64 * half + 32 * (part % 2) + k % 32] |=
            static_cast<uint8_t>((q[k] & 15) << (4 * (part / 2)));
        block.high[32 * half + k % 32] |= static_cast<uint8_t>((q[k] >> 4) << (2 * part));
      }
    }
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kQ6_KFormat;
const Format kQ6_KFormat = {TensorType::kQ6_K,
                            "Q6_K",
                            256,
                            sizeof(Block),
                            false,
                            PanelKind::kSubScale,
                            32,
                            63,
                            decode,
                            pack,
                            unpack,
                            encode};

}  // namespace shoal
