// Q2_K: 256 values in 16 sub-blocks of 16; w = d scale q - dmin min, q of two bits, scale and min of four.
#include <algorithm>
#include <cmath>

#include "tensor/formats/fit.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint8_t scales[16];  // low nibble: scale, high nibble: min
  uint8_t q[64];       // 2 x 32 bytes for 128 values each: bits 2p of byte k are value 32p + k
  uint16_t d, dmin;
};
static_assert(sizeof(Block) == 84);

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 256; ++b, out += 256) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    for (int k = 0; k < 256; ++k) {
      const float scale = half_to_float(block.d) * static_cast<float>(block.scales[k / 16] & 15);
      const float min = half_to_float(block.dmin) * static_cast<float>(block.scales[k / 16] >> 4);
      const int q = (block.q[k / 128 * 32 + k % 32] >> (2 * (k / 32 % 4))) & 3;
      out[k] = scale * static_cast<float>(q) - min;
    }
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 256; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    uint8_t* data = PackedQ2_K::data(group, cols, b);
    interleave_halves(block + offsetof(Block, d), row_bytes, PackedQ2_K::meta(group, b));
    interleave_halves(block + offsetof(Block, dmin), row_bytes, PackedQ2_K::meta(group, b) + 32);
    interleave_bytes(block + offsetof(Block, scales), row_bytes, data);
    interleave_words<16>(block + offsetof(Block, q), row_bytes, data + 256);
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  const int s = static_cast<int>(b % 8);
  const uint8_t* meta = PackedQ2_K::meta(group, b / 8);
  const uint8_t* data = PackedQ2_K::data(group, cols, b / 8);
  unpack_halves(meta, out->scale);
  unpack_halves(meta + 32, out->min);
  for (int r = 0; r < 16; ++r) {
    out->min[r] = -out->min[r];
    for (int u = 0; u < 2; ++u) {
      const uint8_t byte = data[16 * (2 * s + u) + r];
      out->sub_scale[r][u] = byte & 15;
      out->sub_min[r][u] = byte >> 4;
    }
  }
  const uint8_t* words = data + 256 + 512 * (s / 4);
  uint8_t* q = &out->q[0][0][0];
  for (int n = 0; n < 512; ++n) q[n] = (words[n] >> (2 * (s % 4))) & 3;
}

// Scales and minima of 16 sub-blocks, and the values for them. Without importance the largest scale has the
// largest of the 16 levels.
void choose_scales(const float* x, const float* importance, Block* block, uint8_t* q) {
  float scale[16], min[16], total[16];
  const float spread = importance ? sum_of_squares({x, 256}) / 256 : 0;
  for (int u = 0; u < 16; ++u) {
    const std::span<const float> values(x + 16 * u, 16);
    float weight[16];
    if (importance) {
      weigh(values, importance + 16 * u, spread, weight);
    } else {
      for (int k = 0; k < 16; ++k) weight[k] = std::fabs(values[k]);
    }
    total[u] = 0;
    for (float w : weight) total[u] += w;
    const ScaleMin fit = fit_with_min(
        values, weight, 3, importance ? kTrialsWeighted : TrialScales{-0.5f, 0.1f, 15, true}, q + 16 * u);
    scale[u] = fit.scale;
    min[u] = fit.min;
  }
  const auto levels = [&](const float* values, uint16_t* unit, uint8_t* level) {
    if (importance) return store_half(unit, fit_positive({values, 16}, total, 15, level));
    const float largest = std::max(0.0f, *std::max_element(values, values + 16));
    for (int u = 0; u < 16; ++u)
      level[u] = largest > 0 ? static_cast<uint8_t>(round_to_int(15.0f / largest * values[u])) : 0;
    store_half(unit, largest / 15.0f);
  };
  uint8_t scale_level[16], min_level[16];
  levels(scale, &block->d, scale_level);
  levels(min, &block->dmin, min_level);
  for (int u = 0; u < 16; ++u) {
    block->scales[u] = static_cast<uint8_t>((scale_level[u] & 15) | (min_level[u] << 4));
  }
}

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  for (int64_t b = 0; b < n / 256; ++b, x += 256) {
    Block block = {};
    uint8_t q[256];
    choose_scales(x, importance ? importance + 256 * b : nullptr, &block, q);
    for (int k = 0; k < 256; ++k) {
      const float d = half_to_float(block.d) * static_cast<float>(block.scales[k / 16] & 15);
      const float min = half_to_float(block.dmin) * static_cast<float>(block.scales[k / 16] >> 4);
      if (d != 0) q[k] = static_cast<uint8_t>(clamp_int(round_to_int((x[k] + min) / d), 0, 3));
      block.q[k / 128 * 32 + k % 32] |= static_cast<uint8_t>(q[k] << (2 * (k / 32 % 4)));
    }
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kQ2_KFormat;
const Format kQ2_KFormat = {TensorType::kQ2_K,
                            "Q2_K",
                            256,
                            sizeof(Block),
                            false,
                            PanelKind::kSubScaleMin,
                            0,
                            3,
                            decode,
                            pack,
                            unpack,
                            encode};

}  // namespace shoal
