// TQ1_0: 256 values; w = d (q - 1), q a base-3 digit, five to a byte, for models trained with weights of -1,
// 0 and 1. A byte is the digits' number scaled from 3^5 to 256 and rounded up, so that digit n is the whole
// part of three times the fraction that 3^n bytes / 256 leaves.
// Packed, per 256 columns and 16 rows: meta d; data the words of the file [13][16 rows][4].
#include <cmath>
#include <iterator>

#include "tensor/formats/fit.h"
#include "tensor/formats/pack_helpers.h"
#include "tensor/formats/packed_layout.h"

namespace shoal {
namespace {

struct Block {
  uint8_t five[48];  // digit n of byte k < 32: value 32n + k; of byte 32 + k: value 160 + 16n + k
  uint8_t four[4];   // digit n of byte k: value 240 + 4n + k
  uint16_t d;
};
static_assert(sizeof(Block) == 54);

using Packed = PackedLayout<256, 32, 13 * 64>;

// Where the four values 4 word, 4 word + 1, ... (word 0..63 of the super-block) are: digit and word of the
// file.
struct Place {
  int word, digit;
};
Place place_of(int word) {
  if (word < 40) return {word % 8, word / 8};
  if (word < 60) return {8 + (word - 40) % 4, (word - 40) / 4};
  return {12, word - 60};
}

constexpr uint8_t kPowers[5] = {1, 3, 9, 27, 81};

uint8_t digit_of(uint8_t byte, uint8_t power) {
  return static_cast<uint8_t>((static_cast<uint8_t>(byte * power) * 3) >> 8);
}

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t b = 0; b < n / 256; ++b, out += 256) {
    const std::byte* block = row + b * sizeof(Block);
    const float d = load_half(block + offsetof(Block, d));
    for (int k = 0; k < 256; ++k) {
      const Place place = place_of(k / 4);
      const auto byte = static_cast<uint8_t>(block[4 * place.word + k % 4]);
      out[k] = d * static_cast<float>(digit_of(byte, kPowers[place.digit]) - 1);
    }
  }
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  for (int64_t b = 0; b < cols / 256; ++b) {
    const std::byte* block = rows + b * sizeof(Block);
    uint8_t* data = Packed::data(group, cols, b);
    interleave_halves(block + offsetof(Block, d), row_bytes, Packed::meta(group, b));
    interleave_words<12>(block, row_bytes, data);
    for (int r = 0; r < 16; ++r) {
      std::memcpy(data + 64 * 12 + 4 * r, block + r * row_bytes + offsetof(Block, four), 4);
    }
  }
}

void unpack(const std::byte* group, int64_t cols, int64_t b, Panel* out) {
  const uint8_t* data = Packed::data(group, cols, b / 8);
  unpack_halves(Packed::meta(group, b / 8), out->scale);
  for (int j = 0; j < 8; ++j) {
    const Place place = place_of(static_cast<int>(b % 8 * 8) + j);
    const uint8_t* bytes = data + 64 * place.word;
    const uint8_t power = kPowers[place.digit];
    uint8_t* q = &out->q[j][0][0];
    for (int n = 0; n < 64; ++n) q[n] = digit_of(bytes[n], power);
  }
}

void encode(const float* x, int64_t n, const float*, std::byte* row) {
  for (int64_t b = 0; b < n / 256; ++b, x += 256) {
    const float d = std::fabs(extreme_of({x, 256})), inverse = d != 0 ? 1 / d : 0;
    int number[sizeof(Block::five) + sizeof(Block::four)] = {};  // the first digit counts 81
    for (int k = 0; k < 256; ++k) {
      const Place place = place_of(k / 4);
      const int digit = static_cast<int>(std::lround(x[k] * inverse)) + 1;
      number[4 * place.word + k % 4] += digit * kPowers[4 - place.digit];
    }
    Block block;
    store_half(&block.d, d);
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
    for (size_t i = 0; i < std::size(number); ++i) {
      row[b * sizeof(Block) + i] = static_cast<std::byte>((number[i] * 256 + 242) / 243);
    }
  }
}

}  // namespace

extern const Format kTQ1_0Format;
const Format kTQ1_0Format = {TensorType::kTQ1_0,
                             "TQ1_0",
                             256,
                             sizeof(Block),
                             false,
                             PanelKind::kScale,
                             1,
                             2,
                             decode,
                             pack,
                             unpack,
                             encode};

}  // namespace shoal
