// Q3_K: 256 values in 16 sub-blocks of 16; w = d (scale - 32) (q - 4), q of three bits, scale of six.
#include "tensor/formats/fit.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint8_t high[32];    // bit s of byte k: the third bit of value 32s + k
  uint8_t low[64];     // 2 x 32 bytes for 128 values each: bits 2p of byte k are value 32p + k
  uint8_t scales[12];  // low nibbles in bytes 0-7 (scale u and u + 8), two high bits in bytes 8-11
  uint16_t d;
};
static_assert(sizeof(Block) == 110);

// Scale u (0..15), given byte n of the twelve by byte(n).
template <class Byte>
int scale_of(int u, Byte byte) {
  const int low = (byte(u % 8) >> (4 * (u / 8))) & 15;
  const int high = (byte(8 + u % 4) >> (2 * (u / 4))) & 3;
  return (low | (high << 4)) - 32;
}

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 256; ++b, out += 256) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    const float d = half_to_float(block.d);
    for (int k = 0; k < 256; ++k) {
      const int low = (block.low[k / 128 * 32 + k % 32] >> (2 * (k / 32 % 4))) & 3;
      const int high = (block.high[k % 32] >> (k / 32)) & 1;
      const float scale = d * static_cast<float>(scale_of(k / 16, [&](int i) { return block.scales[i]; }));
      out[k] = scale * static_cast<float>((low | (high << 2)) - 4);
    }
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 256; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    uint8_t* data = PackedQ3_K::data(group, cols, b);
    interleave_halves(block + offsetof(Block, d), row_bytes, PackedQ3_K::meta(group, b));
    for (int j = 0; j < 3; ++j) {
      interleave_word(block + offsetof(Block, scales) + 4 * j, row_bytes, data + 64 * j);
    }
    interleave_words<16>(block + offsetof(Block, low), row_bytes, data + 192);
    interleave_words<8>(block + offsetof(Block, high), row_bytes, data + 192 + 1024);
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  const int s = static_cast<int>(b % 8);
  const uint8_t* data = PackedQ3_K::data(group, cols, b / 8);
  unpack_halves(PackedQ3_K::meta(group, b / 8), out->scale);
  for (int r = 0; r < 16; ++r) {
    const auto byte = [&](int i) { return data[64 * (i / 4) + 4 * r + i % 4]; };
    for (int u = 0; u < 2; ++u) out->sub_scale[r][u] = static_cast<int16_t>(scale_of(2 * s + u, byte));
  }
  const uint8_t* low = data + 192 + 512 * (s / 4);
  const uint8_t* high = data + 192 + 1024;
  uint8_t* q = &out->q[0][0][0];
  for (int n = 0; n < 512; ++n) {
    q[n] = static_cast<uint8_t>(((low[n] >> (2 * (s % 4))) & 3) | (((high[n] >> s) & 1) << 2));
  }
}

// Scales of 16 sub-blocks as levels -32..31 plus 32, and the values for them.
void choose_scales(const float* x, const float* importance, uint16_t* d, uint8_t* level, uint8_t* q) {
  float scale[16], total[16];
  const float spread = importance ? 2 * sum_of_squares({x, 256}) / 256 : 0;
  for (int u = 0; u < 16; ++u) {
    const std::span<const float> values(x + 16 * u, 16);
    if (!importance) {
      scale[u] = fit_signed_stepwise(values, 4, q + 16 * u);
      continue;
    }
    float weight[16];
    weigh(values, importance + 16 * u, spread, weight);
    total[u] = 0;
    for (float w : weight) total[u] += w;
    scale[u] = fit_signed(values, weight, 4, q + 16 * u);
  }
  if (importance) return store_half(d, fit_signed(scale, total, 32, level));
  const float extreme = extreme_of(scale), inverse = extreme != 0 ? -32.0f / extreme : 0;
  for (int u = 0; u < 16; ++u) {
    level[u] =
        extreme != 0 ? static_cast<uint8_t>(clamp_int(round_to_int(inverse * scale[u]), -32, 31) + 32) : 0;
  }
  store_half(d, extreme != 0 ? 1 / inverse : 0);
}

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  for (int64_t b = 0; b < n / 256; ++b, x += 256) {
    Block block = {};
    uint8_t level[16], q[256];
    choose_scales(x, importance ? importance + 256 * b : nullptr, &block.d, level, q);
    for (int u = 0; u < 16; ++u) {
      block.scales[u % 8] |= static_cast<uint8_t>((level[u] & 15) << (4 * (u / 8)));
      block.scales[8 + u % 4] |= static_cast<uint8_t>((level[u] >> 4) << (2 * (u / 4)));
    }
    for (int k = 0; k < 256; ++k) {
      const float d = half_to_float(block.d) * static_cast<float>(level[k / 16] - 32);
      if (d != 0) q[k] = static_cast<uint8_t>(clamp_int(round_to_int(x[k] / d), -4, 3) + 4);
      block.low[k / 128 * 32 + k % 32] |= static_cast<uint8_t>((q[k] & 3) << (2 * (k / 32 % 4)));
      block.high[k % 32] |= static_cast<uint8_t>((q[k] >> 2) << (k / 32));
    }
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kQ3_KFormat;
const Format kQ3_KFormat = {TensorType::kQ3_K,
                            "Q3_K",
                            256,
                            sizeof(Block),
                            false,
                            PanelKind::kSubScale,
                            4,
                            7,
                            decode,
                            pack,
                            unpack,
                            encode};

}  // namespace shoal
