// IQ3_XXS: 256 values; w = d (2s + 1) / 4 q', four values at a time a point of a lattice of 256, signs for
// eight, the number of negative ones even; the scale s of four bits for 32 values.
// Packed: meta d; data the words of the file [24][16 rows][4].
#include "tensor/formats/lattice.h"
#include "tensor/formats/lattice_search.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d;
  uint8_t points[64];
  uint8_t signs[32];  // per 32 values a word: 4 x 7 bits of signs, four of scale
};
static_assert(sizeof(Block) == 98);

struct Traits {
  static constexpr int kWords = 24, kWordsAt = offsetof(Block, points), kScaleAt = offsetof(Block, d);
  static constexpr PanelKind kKind = PanelKind::kScale;
  static constexpr int kOffset = 62, kMaxQ = 124;
  static constexpr float kFactor = 0.25f;

  template <class Word>
  static LatticeValues read(Word word, int s) {
    const uint32_t signs = word(16 + s);
    LatticeValues out;
    for (int i = 0; i < 4; ++i) {
      const uint32_t points = half_of(word(2 * s + i / 2), i % 2);
      const uint64_t point = kGridIQ3_XXS[points & 255] | uint64_t{kGridIQ3_XXS[points >> 8]} << 32;
      out.q[i] = with_signs(point, even_signs((signs >> (7 * i)) & 127), kOffset);
    }
    out.sub_scale[0] = out.sub_scale[1] = static_cast<int>(2 * (signs >> 28) + 1);
    return out;
  }
};

constexpr MagnitudeSearch kSearch = {.points = lattice_points_iq3_xxs,
                                     .dims = 4,
                                     .sub_block = 32,
                                     .even_signs = true,
                                     .fitted_start = false,
                                     .spread = 2,
                                     .plain = PlainWeight::kSquare,
                                     .zero = 1e-8f,
                                     .trials = 15,
                                     .trial_step = 0.2f,
                                     .again = Again::kThoseOff,
                                     .correction = 1.0125f};

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  const auto write = [](const MagnitudeBlock& found, Block* block) {
    for (int g = 0; g < 64; ++g) block->points[g] = static_cast<uint8_t>(found.points[g]);
    for (int s = 0; s < 8; ++s) store_u32(block->signs + 4 * s, signs_and_scale(found, s));
  };
  encode_magnitudes<Block>(x, n, importance, kSearch, row, write);
}

}  // namespace

extern const Format kIQ3_XXSFormat;
const Format kIQ3_XXSFormat = LatticeFormat<Traits>::format(TensorType::kIQ3_XXS, "IQ3_XXS", encode);
static_assert(LatticeFormat<Traits>::kBlockBytes == sizeof(Block));

}  // namespace shoal
