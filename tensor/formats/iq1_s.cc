// IQ1_S: 256 values; w = d (2s + 1) (t + delta), eight values at a time a point t of a lattice of 2048 in
// {-1, 0, 1}^8; for 32 values a scale s of three bits and delta = 1/8 or -1/8. Here q' = 8 (t + delta).
// Packed: meta d; data the words of the file [12][16 rows][4].
#include "tensor/formats/lattice.h"

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

}  // namespace

extern const Format kIQ1_SFormat;
const Format kIQ1_SFormat = LatticeFormat<Traits>::format(TensorType::kIQ1_S, "IQ1_S");
static_assert(LatticeFormat<Traits>::kBlockBytes == sizeof(Block));

}  // namespace shoal
