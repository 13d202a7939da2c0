// Q5_K: 256 values in 8 sub-blocks; w = d scale q - dmin min, q of five bits, scale and min of six bits.
// Packed like Q4_K, each sub-block's nibbles followed by its fifth bits.
#include "tensor/formats/encode_k.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d, dmin;
  uint8_t scales[12];    // read_six_bit_scales
  uint8_t fifth[32];     // byte k, bit s: the fifth bit of value k of sub-block s
  uint8_t nibbles[128];  // 4 x 32 bytes, each two sub-blocks: low nibbles, then high nibbles
};
static_assert(sizeof(Block) == 176);

constexpr int kSubBytes = 256 + 64;  // packed bytes of one sub-block of 16 rows

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 256; ++b) {
    Block block;
    std::memcpy(&block, row + b * sizeof(Block), sizeof(Block));
    const SixBitScales scales = read_six_bit_scales(block.scales);
    for (int sub = 0; sub < 8; ++sub, out += 32) {
      const float scale = half_to_float(block.d) * static_cast<float>(scales.scale_of(sub));
      const float min = half_to_float(block.dmin) * static_cast<float>(scales.min_of(sub));
      for (int k = 0; k < 32; ++k) {
        const int nibble = (block.nibbles[sub / 2 * 32 + k] >> (4 * (sub % 2))) & 15;
        out[k] = scale * static_cast<float>(nibble | (((block.fifth[k] >> sub) & 1) << 4)) - min;
      }
    }
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 256; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    uint8_t* meta = PackedQ5_K::meta(group, b);
    uint8_t* data = PackedQ5_K::data(group, cols, b);
    interleave_halves(block + offsetof(Block, d), row_bytes, meta);
    interleave_halves(block + offsetof(Block, dmin), row_bytes, meta + 32);
    for (int r = 0; r < 16; ++r) {
      const std::byte* row = block + r * row_bytes;
      pack_six_bit_scales(read_six_bit_scales(row + offsetof(Block, scales)), meta + 64, r);
    }
    // Words of the file are planes [k / 4] of bytes with a bit for each sub-block; the packed planes are the
    // sub-blocks', with a bit for each word.
    alignas(64) uint8_t fifth[8][64];
    interleave_words<8>(block + offsetof(Block, fifth), row_bytes, fifth[0]);
    transpose_fields<8>(fifth);
    for (int sub = 0; sub < 8; ++sub) std::memcpy(data + sub * kSubBytes + 256, fifth[sub], 64);
    for (int pair = 0; pair < 4; ++pair) {
      interleave_nibble_pair(block + offsetof(Block, nibbles) + 32 * pair, row_bytes,
                             data + 2 * kSubBytes * pair, kSubBytes);
    }
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  const uint8_t* data = PackedQ5_K::data(group, cols, b / 8) + b % 8 * kSubBytes;
  unpack_six_bit_scales(PackedQ5_K::meta(group, b / 8), static_cast<int>(b % 8), out);
  unpack_nibbles(data, out);
  unpack_fifth_bits(data + 256, out);
}

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  for (int64_t b = 0; b < n / 256; ++b, x += 256) {
    Block block = {};
    uint8_t q[256];
    encode_scale_min(x, importance ? importance + 256 * b : nullptr, 31, {-0.5f, 0.1f, 15, false}, &block.d,
                     &block.dmin, block.scales, q);
    for (int k = 0; k < 256; ++k) {
      block.nibbles[k / 64 * 32 + k % 32] |= static_cast<uint8_t>((q[k] & 15) << (k / 32 % 2 * 4));
      block.fifth[k % 32] |= static_cast<uint8_t>((q[k] >> 4) << (k / 32));
    }
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kQ5_KFormat;
const Format kQ5_KFormat = {TensorType::kQ5_K,
                            "Q5_K",
                            256,
                            sizeof(Block),
                            false,
                            PanelKind::kScaleMin,
                            0,
                            31,
                            decode,
                            pack,
                            unpack,
                            encode};

}  // namespace shoal
