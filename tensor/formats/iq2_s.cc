// IQ2_S: 256 values; w = d (2s + 1) / 8 q', eight values at a time a point of a lattice of 1024 and eight
// signs; the scale s of four bits for 16 values.
// Packed: meta d; data the words of the file [20][16 rows][4].
#include "tensor/formats/lattice.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d;
  uint8_t points[32];  // low eight bits of the ten that choose a point
  uint8_t signs[32];
  uint8_t high[8];    // two bits for each of four points
  uint8_t scales[8];  // two each, the low nibble first
};
static_assert(sizeof(Block) == 82);

struct Traits {
  static constexpr int kWords = 20, kWordsAt = offsetof(Block, points), kScaleAt = offsetof(Block, d);
  static constexpr PanelKind kKind = PanelKind::kSubScale;
  static constexpr int kOffset = 43, kMaxQ = 86;
  static constexpr float kFactor = 0.125f;

  template <class Word>
  static LatticeValues read(Word word, int s) {
    const uint32_t points = word(s), signs = word(8 + s), high = byte_of(word(16 + s / 4), s % 4);
    LatticeValues out;
    for (int i = 0; i < 4; ++i) {
      const uint32_t index = byte_of(points, i) | (((high >> (2 * i)) & 3) << 8);
      out.q[i] = with_signs(kGridIQ2_S[index], byte_of(signs, i), kOffset);
    }
    const uint32_t scales = byte_of(word(18 + s / 4), s % 4);
    out.sub_scale[0] = static_cast<int>(2 * (scales & 15) + 1);
    out.sub_scale[1] = static_cast<int>(2 * (scales >> 4) + 1);
    return out;
  }
};

}  // namespace

extern const Format kIQ2_SFormat;
const Format kIQ2_SFormat = LatticeFormat<Traits>::format(TensorType::kIQ2_S, "IQ2_S");
static_assert(LatticeFormat<Traits>::kBlockBytes == sizeof(Block));

}  // namespace shoal
