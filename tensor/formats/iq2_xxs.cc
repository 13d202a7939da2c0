// IQ2_XXS: 256 values; w = d (2s + 1) / 8 q', eight values at a time a point of a lattice of 256 with its
// signs, the number of negative ones even; the scale s of four bits for 32 values.
// Packed: meta d; data the words of the file [16][16 rows][4].
#include "tensor/formats/lattice.h"
#include "tensor/formats/lattice_search.h"

namespace shoal {
namespace {

// In the file, per 32 values: four bytes that choose points, then 4 x 7 bits of signs and four bits of scale.
struct Block {
  uint16_t d;
  uint16_t fields[32];
};
static_assert(sizeof(Block) == 66);

struct Traits {
  static constexpr int kWords = 16, kWordsAt = offsetof(Block, fields), kScaleAt = offsetof(Block, d);
  static constexpr PanelKind kKind = PanelKind::kScale;
  static constexpr int kOffset = 43, kMaxQ = 86;
  static constexpr float kFactor = 0.125f;

  template <class Word>
  static LatticeValues read(Word word, int s) {
    const uint32_t points = word(2 * s), signs = word(2 * s + 1);
    LatticeValues out;
    for (int i = 0; i < 4; ++i) {
      const uint64_t point = kGridIQ2_XXS[byte_of(points, i)];
      out.q[i] = with_signs(point, even_signs((signs >> (7 * i)) & 127), kOffset);
    }
    out.sub_scale[0] = out.sub_scale[1] = static_cast<int>(2 * (signs >> 28) + 1);
    return out;
  }
};

constexpr MagnitudeSearch kSearch = {.points = lattice_points_iq2_xxs,
                                     .dims = 8,
                                     .sub_block = 32,
                                     .even_signs = true,
                                     .fitted_start = true,
                                     .spread = 1,
                                     .plain = PlainWeight::kOne,
                                     .zero = 1e-15f,
                                     .trials = 6,
                                     .trial_step = 0.1f,
                                     .again = Again::kAll,
                                     .correction = 1};

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  const auto write = [](const MagnitudeBlock& found, Block* block) {
    for (int s = 0; s < 8; ++s) {
      uint32_t points = 0;
      for (int i = 0; i < 4; ++i) points |= static_cast<uint32_t>(found.points[4 * s + i]) << (8 * i);
      store_u32(block->fields + 4 * s, points);
      store_u32(block->fields + 4 * s + 2, signs_and_scale(found, s));
    }
  };
  encode_magnitudes<Block>(x, n, importance, kSearch, row, write);
}

}  // namespace

extern const Format kIQ2_XXSFormat;
const Format kIQ2_XXSFormat = LatticeFormat<Traits>::format(TensorType::kIQ2_XXS, "IQ2_XXS", encode);
static_assert(LatticeFormat<Traits>::kBlockBytes == sizeof(Block));

}  // namespace shoal
