// IQ2_XS: 256 values; w = d (2s + 1) / 8 q', eight values at a time a point of a lattice of 512 with its
// signs, the number of negative ones even; the scale s of four bits for 16 values.
// Packed: meta d; data the words of the file [18][16 rows][4].
#include "tensor/formats/lattice.h"
#include "tensor/formats/lattice_search.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d;
  uint16_t points[32];  // nine bits that choose a point, seven of signs
  uint8_t scales[8];    // two each, the low nibble first
};
static_assert(sizeof(Block) == 74);

struct Traits {
  static constexpr int kWords = 18, kWordsAt = offsetof(Block, points), kScaleAt = offsetof(Block, d);
  static constexpr PanelKind kKind = PanelKind::kSubScale;
  static constexpr int kOffset = 43, kMaxQ = 86;
  static constexpr float kFactor = 0.125f;

  template <class Word>
  static LatticeValues read(Word word, int s) {
    LatticeValues out;
    for (int i = 0; i < 4; ++i) {
      const uint32_t field = half_of(word(2 * s + i / 2), i % 2);
      out.q[i] = with_signs(kGridIQ2_XS[field & 511], even_signs(field >> 9), kOffset);
    }
    const uint32_t scales = byte_of(word(16 + s / 4), s % 4);
    out.sub_scale[0] = static_cast<int>(2 * (scales & 15) + 1);
    out.sub_scale[1] = static_cast<int>(2 * (scales >> 4) + 1);
    return out;
  }
};

constexpr MagnitudeSearch kSearch = {.points = lattice_points_iq2_xs,
                                     .dims = 8,
                                     .sub_block = 16,
                                     .even_signs = true,
                                     .fitted_start = false,
                                     .spread = 1,
                                     .plain = PlainWeight::kOne,
                                     .zero = 1e-15f,
                                     .trials = 9,
                                     .trial_step = 0.1f,
                                     .again = Again::kThoseOff,
                                     .correction = 1};

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  const auto write = [](const MagnitudeBlock& found, Block* block) {
    for (int g = 0; g < 32; ++g) {
      block->points[g] = static_cast<uint16_t>(found.points[g] | ((found.signs[g] & 127) << 9));
    }
    store_scale_nibbles(found, block->scales, 8);
  };
  encode_magnitudes<Block>(x, n, importance, kSearch, row, write);
}

}  // namespace

extern const Format kIQ2_XSFormat;
const Format kIQ2_XSFormat = LatticeFormat<Traits>::format(TensorType::kIQ2_XS, "IQ2_XS", encode);
static_assert(LatticeFormat<Traits>::kBlockBytes == sizeof(Block));

}  // namespace shoal
