// IQ1_M: 256 values; w = d (2s + 1) (t + delta), eight values at a time a point t of the lattice of IQ1_S
// with delta = 1/8 or -1/8; for 16 values a scale s of three bits. The f16 d is spread over the top nibbles
// of the scales. Here q' = 8 (t + delta). Packed: data the words of the file [14][16 rows][4], no meta.
#include "tensor/formats/fit.h"
#include "tensor/formats/lattice.h"
#include "tensor/formats/ternary_search.h"

namespace shoal {
namespace {

struct Block {
  uint8_t points[32];  // low eight bits of the eleven that choose a point
  uint8_t high[16];    // two points each: three bits, the sign of delta
  uint16_t scales[4];  // 4 x 3 bits, and a nibble of d, the lowest first
};
static_assert(sizeof(Block) == 56);

struct Traits {
  static constexpr int kWords = 14, kWordsAt = 0, kScaleAt = -1;
  static constexpr PanelKind kKind = PanelKind::kSubScale;
  static constexpr int kOffset = 9, kMaxQ = 18;
  static constexpr float kFactor = 0.125f;

  template <class Word>
  static uint16_t scale_bits(Word word) {
    const uint32_t low = word(12), high = word(13);
    return static_cast<uint16_t>(((low >> 12) & 15) | ((low >> 28) << 4) | (((high >> 12) & 15) << 8) |
                                 ((high >> 28) << 12));
  }

  template <class Word>
  static LatticeValues read(Word word, int s) {
    const uint32_t points = word(s), high = half_of(word(8 + s / 2), s % 2);
    LatticeValues out;
    for (int i = 0; i < 4; ++i) {
      const uint32_t nibble = (high >> (4 * i)) & 15;
      out.q[i] = kGridIQ1[byte_of(points, i) | ((nibble & 7) << 8)] + (nibble & 8 ? 0 : 2 * kEveryByte);
    }
    const uint32_t scales = half_of(word(12 + s / 4), s / 2 % 2) >> (6 * (s % 2));
    out.sub_scale[0] = static_cast<int>(2 * (scales & 7) + 1);
    out.sub_scale[1] = static_cast<int>(2 * ((scales >> 3) & 7) + 1);
    return out;
  }
};

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  for (int64_t b = 0; b < n / 256; ++b) {
    TernaryBlock found;
    search_iq1_m(x + 256 * b, importance ? importance + 256 * b : nullptr, &found);
    Block block = {};
    for (int g = 0; g < 32; ++g) {
      block.points[g] = static_cast<uint8_t>(found.points[g] & 255);
      const int nibble = (found.points[g] >> 8) | (found.minus[g] ? 8 : 0);
      block.high[g / 2] |= static_cast<uint8_t>(nibble << (4 * (g % 2)));
    }
    for (int s = 0; s < 16; ++s) {
      block.scales[s / 4] |= static_cast<uint16_t>(found.scales[s] << (3 * (s % 4)));
    }
    uint16_t d;
    store_half(&d, found.d);
    for (int i = 0; i < 4; ++i) block.scales[i] |= static_cast<uint16_t>(((d >> (4 * i)) & 15) << 12);
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kIQ1_MFormat;
const Format kIQ1_MFormat = LatticeFormat<Traits>::format(TensorType::kIQ1_M, "IQ1_M", encode);
static_assert(LatticeFormat<Traits>::kBlockBytes == sizeof(Block));

}  // namespace shoal
