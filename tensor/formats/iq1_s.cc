// IQ1_S: 256 values; w = d (2s + 1) (t + delta), eight values at a time a point t of a lattice of 2048 in
// {-1, 0, 1}^8; for 32 values a scale s of three bits and delta = 1/8 or -1/8. Here q' = 8 (t + delta).
// Packed: meta d; data the words of the file [12][16 rows][4].
#include "tensor/formats/fit.h"
#include "tensor/formats/lattice.h"
#include "tensor/formats/ternary_search.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d;
  uint8_t points[32];  // low eight bits of the eleven that choose a point
  uint16_t high[8];    // per 32 values: 4 x 3 bits of points, three of scale, the sign of delta
};
static_assert(sizeof(Block) == 50);

struct Traits {
  static constexpr int kWords = 12, kWordsAt = offsetof(Block, points), kScaleAt = offsetof(Block, d);
  static constexpr PanelKind kKind = PanelKind::kScale;
  static constexpr int kOffset = 9, kMaxQ = 18;
  static constexpr float kFactor = 0.125f;

  template <class Word>
  static LatticeValues read(Word word, int s) {
    const uint32_t points = word(s), high = half_of(word(8 + s / 2), s % 2);
    const uint64_t delta = high & 0x8000u ? 0 : 2 * kEveryByte;
    LatticeValues out;
    for (int i = 0; i < 4; ++i) {
      out.q[i] = kGridIQ1[byte_of(points, i) | (((high >> (3 * i)) & 7) << 8)] + delta;
    }
    out.sub_scale[0] = out.sub_scale[1] = static_cast<int>(2 * ((high >> 12) & 7) + 1);
    return out;
  }
};

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  for (int64_t b = 0; b < n / 256; ++b) {
    TernaryBlock found;
    search_iq1_s(x + 256 * b, importance ? importance + 256 * b : nullptr, &found);
    Block block = {};
    store_half(&block.d, found.d);
    for (int g = 0; g < 32; ++g) {
      block.points[g] = static_cast<uint8_t>(found.points[g] & 255);
      block.high[g / 4] |= static_cast<uint16_t>((found.points[g] >> 8) << (3 * (g % 4)));
    }
    for (int s = 0; s < 8; ++s) {
      block.high[s] |= static_cast<uint16_t>((found.scales[s] | (found.minus[4 * s] ? 8 : 0)) << 12);
    }
    std::memcpy(row + b * sizeof(Block), &block, sizeof(Block));
  }
}

}  // namespace

extern const Format kIQ1_SFormat;
const Format kIQ1_SFormat = LatticeFormat<Traits>::format(TensorType::kIQ1_S, "IQ1_S", encode);
static_assert(LatticeFormat<Traits>::kBlockBytes == sizeof(Block));

}  // namespace shoal
