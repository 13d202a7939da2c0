#include "tensor/formats/encode_k.h"

#include <algorithm>
#include <cmath>

namespace shoal {
namespace {

// Six-bit levels of eight scales or minima, and their unit. Without importance the largest has level 63.
void choose_levels(const float* values, const float* total, uint16_t* unit, uint8_t* level) {
  if (total) return store_half(unit, fit_positive({values, 8}, total, 63, level));
  const float largest = std::max(0.0f, *std::max_element(values, values + 8));
  const float inverse = largest > 0 ? 63.0f / largest : 0;
  for (int s = 0; s < 8; ++s) {
    level[s] = std::min<uint8_t>(63, static_cast<uint8_t>(round_to_int(inverse * values[s])));
  }
  store_half(unit, largest / 63.0f);
}

}  // namespace

void encode_scale_min(const float* x, const float* importance, int levels, const TrialScales& trials,
                      uint16_t* d, uint16_t* dmin, uint8_t* scales, uint8_t* q) {
  float scale[8], min[8], total[8];
  const float spread = importance ? 2 * sum_of_squares({x, 256}) / 256 : 0;
  for (int s = 0; s < 8; ++s) {
    const std::span<const float> values(x + 32 * s, 32);
    float weight[32];
    if (importance) {
      weigh(values, importance + 32 * s, spread, weight);
    } else {
      const float typical = std::sqrt(sum_of_squares(values) / 32);
      for (int k = 0; k < 32; ++k) weight[k] = typical + std::fabs(values[k]);
    }
    total[s] = 0;
    for (float w : weight) total[s] += w;
    const ScaleMin fit =
        fit_with_min(values, weight, levels, importance ? kTrialsWeighted : trials, q + 32 * s);
    scale[s] = fit.scale;
    min[s] = fit.min;
  }
  uint8_t scale_level[8], min_level[8];
  choose_levels(scale, importance ? total : nullptr, d, scale_level);
  choose_levels(min, importance ? total : nullptr, dmin, min_level);
  for (int s = 0; s < 4; ++s) {  // the layout that read_six_bit_scales reads
    scales[s] = static_cast<uint8_t>(scale_level[s] | (scale_level[s + 4] >> 4 << 6));
    scales[4 + s] = static_cast<uint8_t>(min_level[s] | (min_level[s + 4] >> 4 << 6));
    scales[8 + s] = static_cast<uint8_t>((scale_level[s + 4] & 15) | ((min_level[s + 4] & 15) << 4));
  }
  for (int k = 0; k < 256; ++k) {
    const float step = half_to_float(*d) * static_cast<float>(scale_level[k / 32]);
    const float offset = half_to_float(*dmin) * static_cast<float>(min_level[k / 32]);
    if (step != 0) q[k] = static_cast<uint8_t>(clamp_int(round_to_int((x[k] + offset) / step), 0, levels));
  }
}

}  // namespace shoal
