// IQ2_S: 256 values; w = d (2s + 1) / 8 q', eight values at a time a point of a lattice of 1024 and eight
// signs; the scale s of four bits for 16 values.
// Packed: meta d; data the words of the file [20][16 rows][4].
#include "tensor/formats/lattice.h"
#include "tensor/formats/lattice_search.h"

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

constexpr MagnitudeSearch kSearch = {.points = lattice_points_iq2_s,
                                     .dims = 8,
                                     .sub_block = 16,
                                     .even_signs = false,
                                     .fitted_start = false,
                                     .spread = 2,
                                     .plain = PlainWeight::kQuarterSpread,
                                     .zero = 1e-8f,
                                     .trials = 9,
                                     .trial_step = 0.1f,
                                     .again = Again::kThoseOff,
                                     .correction = 0.9875f};

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  const auto write = [](const MagnitudeBlock& found, Block* block) {
    for (int g = 0; g < 32; ++g) {
      block->points[g] = static_cast<uint8_t>(found.points[g] & 255);
      block->high[g / 4] |= static_cast<uint8_t>((found.points[g] >> 8) << (2 * (g % 4)));
      block->signs[g] = found.signs[g];
    }
    store_scale_nibbles(found, block->scales, 8);
  };
  encode_magnitudes<Block>(x, n, importance, kSearch, row, write);
}

}  // namespace

extern const Format kIQ2_SFormat;
const Format kIQ2_SFormat = LatticeFormat<Traits>::format(TensorType::kIQ2_S, "IQ2_S", encode);
static_assert(LatticeFormat<Traits>::kBlockBytes == sizeof(Block));

}  // namespace shoal
