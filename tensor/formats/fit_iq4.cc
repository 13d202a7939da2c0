#include "tensor/formats/fit_iq4.h"

#include <algorithm>
#include <cmath>

#include "tensor/formats/fit.h"
#include "tensor/formats/iq4_values.h"

namespace shoal {
namespace {

constexpr int kTrials = 7;

// Index of the nearest value; of two equally near the larger.
int nearest(float x) {
  const int8_t* above = std::upper_bound(std::begin(kIq4Values), std::end(kIq4Values), x,
                                         [](float v, int8_t value) { return v < value; });
  const auto i = static_cast<int>(above - kIq4Values);
  if (i == 0) return 0;
  if (i == 16) return 15;
  return x - static_cast<float>(kIq4Values[i - 1]) < static_cast<float>(kIq4Values[i]) - x ? i - 1 : i;
}

}  // namespace

float fit_iq4(const float* x, const float* importance, float spread) {
  const std::span<const float> values(x, 32);
  const float extreme = extreme_of(values);
  if (std::fabs(extreme) < 1e-15f) return 0;
  float weight[32];
  if (importance) {
    weigh(values, importance, spread, weight);
  } else {
    for (int k = 0; k < 32; ++k) weight[k] = x[k] * x[k];
  }
  float scale = 0, best = 0;
  const auto try_inverse = [&](float inverse, bool first) {
    float xq = 0, qq = 0;
    for (int k = 0; k < 32; ++k) {
      const float value = kIq4Values[nearest(inverse * x[k])];
      xq += weight[k] * value * x[k];
      qq += weight[k] * value * value;
    }
    if (!first && !(qq > 0 && xq * xq > best * qq)) return;
    scale = xq / qq;
    best = scale * xq;
  };
  try_inverse(1 / (-extreme / static_cast<float>(kIq4Values[0])), true);
  for (int trial = -kTrials; trial <= kTrials; ++trial) {
    try_inverse(static_cast<float>(trial + kIq4Values[0]) / extreme, false);
  }
  return scale;
}

void choose_iq4(const float* x, float scale, uint8_t* q) {
  const float inverse = scale != 0 ? 1 / scale : 0;
  for (int k = 0; k < 32; ++k) q[k] = static_cast<uint8_t>(nearest(inverse * x[k]));
}

}  // namespace shoal
