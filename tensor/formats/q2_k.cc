// Q2_K: 256 values in 16 sub-blocks of 16; w = d scale q - dmin min, q of two bits, scale and min of four.
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
                            unpack};

}  // namespace shoal
