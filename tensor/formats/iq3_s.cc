// IQ3_S: 256 values; w = d (2s + 1) q', four values at a time a point of a lattice of 512, with eight signs
// for two points; the scale s of four bits for 32 values.
// Packed: meta d; data the words of the file [27][16 rows][4].
#include <algorithm>
#include <limits>

#include "tensor/formats/lattice.h"
#include "tensor/formats/lattice_search.h"

namespace shoal {
namespace {

struct Block {
  uint16_t d;
  uint8_t points[64];  // low eight bits of the nine that choose a point
  uint8_t high[8];     // the ninth, of eight points each
  uint8_t signs[32];
  uint8_t scales[4];  // two each, the low nibble first
};
static_assert(sizeof(Block) == 110);

struct Traits {
  static constexpr int kWords = 27, kWordsAt = offsetof(Block, points), kScaleAt = offsetof(Block, d);
  static constexpr PanelKind kKind = PanelKind::kScale;
  static constexpr int kOffset = 15, kMaxQ = 30;
  static constexpr float kFactor = 1;

  template <class Word>
  static LatticeValues read(Word word, int s) {
    const uint32_t high = byte_of(word(16 + s / 4), s % 4), signs = word(18 + s);
    LatticeValues out;
    for (int i = 0; i < 4; ++i) {
      const uint32_t points = half_of(word(2 * s + i / 2), i % 2);
      const uint32_t first = (points & 255) | (((high >> (2 * i)) & 1) << 8);
      const uint32_t second = (points >> 8) | (((high >> (2 * i + 1)) & 1) << 8);
      const uint64_t point = kGridIQ3_S[first] | uint64_t{kGridIQ3_S[second]} << 32;
      out.q[i] = with_signs(point, byte_of(signs, i), kOffset);
    }
    const uint32_t scale = (byte_of(word(26), s / 2) >> (4 * (s % 2))) & 15;
    out.sub_scale[0] = out.sub_scale[1] = static_cast<int>(2 * scale + 1);
    return out;
  }
};

// Sub-blocks of nothing but zeros are written as such; ggml 0.25 puts what follows one in the wrong place.
constexpr MagnitudeSearch kSearch = {.points = lattice_points_iq3_s,
                                     .dims = 4,
                                     .sub_block = 32,
                                     .even_signs = false,
                                     .fitted_start = false,
                                     .spread = 2,
                                     .plain = PlainWeight::kSquare,
                                     .zero = std::numeric_limits<float>::denorm_min(),
                                     .trials = 9,
                                     .trial_step = 0.2f,
                                     .again = Again::kAllIfAnyOff,
                                     .correction = 1.033f};

void encode(const float* x, int64_t n, const float* importance, std::byte* row) {
  const auto write = [](const MagnitudeBlock& found, Block* block) {
    for (int g = 0; g < 64; ++g) {
      block->points[g] = static_cast<uint8_t>(found.points[g] & 255);
      block->high[g / 8] |= static_cast<uint8_t>((found.points[g] >> 8) << (g % 8));
    }
    std::copy_n(found.signs, 32, block->signs);
    store_scale_nibbles(found, block->scales, 4);
  };
  encode_magnitudes<Block>(x, n, importance, kSearch, row, write);
}

}  // namespace

extern const Format kIQ3_SFormat;
const Format kIQ3_SFormat = LatticeFormat<Traits>::format(TensorType::kIQ3_S, "IQ3_S", encode);
static_assert(LatticeFormat<Traits>::kBlockBytes == sizeof(Block));

}  // namespace shoal
