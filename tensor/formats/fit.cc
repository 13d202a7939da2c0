#include "tensor/formats/fit.h"

#include <algorithm>
#include <cmath>

#include "tensor/formats/pack_helpers.h"

namespace shoal {
namespace {

constexpr float kZero = 1e-15f;  // magnitudes below count as zero
constexpr int kRefinements = 5;
constexpr size_t kValuesMax = 32;

// Weighted error of scale q + min against x.
float error_of(std::span<const float> x, const float* weight, const uint8_t* q, ScaleMin fit, bool absolute) {
  float error = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const float difference = fit.scale * static_cast<float>(q[i]) + fit.min - x[i];
    error += weight[i] * (absolute ? std::fabs(difference) : difference * difference);
  }
  return error;
}

}  // namespace

float sum_of_squares(std::span<const float> x) {
  float sum = 0;
  for (float v : x) sum += v * v;
  return sum;
}

void weigh(std::span<const float> x, const float* importance, float spread, float* weight) {
  for (size_t i = 0; i < x.size(); ++i) weight[i] = importance[i] * std::sqrt(spread + x[i] * x[i]);
}

float extreme_of(std::span<const float> x) {
  float extreme = 0, magnitude = 0;
  for (float v : x) {
    if (std::fabs(v) > magnitude) {
      magnitude = std::fabs(v);
      extreme = v;
    }
  }
  return extreme;
}

float fit_signed(std::span<const float> x, const float* weight, int half, uint8_t* q) {
  const float extreme = extreme_of(x);
  if (std::fabs(extreme) < kZero) {
    std::fill_n(q, x.size(), uint8_t{0});
    return 0;
  }
  const auto quantize = [&](float inverse, size_t i) {
    return clamp_int(round_to_int(inverse * x[i]), -half, half - 1);
  };
  const auto moments_with = [&](float inverse) {
    Moments sums;
    for (size_t i = 0; i < x.size(); ++i) {
      sums.add(weight ? weight[i] : x[i] * x[i], x[i], static_cast<float>(quantize(inverse, i)));
    }
    return sums;
  };
  float chosen = -static_cast<float>(half) / extreme;
  Moments sums = moments_with(chosen);
  float scale = sums.qq != 0 ? sums.xq / sums.qq : 0.0f;
  float best = scale * sums.xq;
  for (int trial = -9; trial <= 9; ++trial) {
    if (trial == 0) continue;
    const float inverse = -(static_cast<float>(half) + 0.1f * static_cast<float>(trial)) / extreme;
    sums = moments_with(inverse);
    if (sums.qq > 0 && sums.xq * sums.xq > best * sums.qq) {
      chosen = inverse;
      scale = sums.xq / sums.qq;
      best = scale * sums.xq;
    }
  }
  for (size_t i = 0; i < x.size(); ++i) q[i] = static_cast<uint8_t>(half + quantize(chosen, i));
  return scale;
}

float fit_signed_stepwise(std::span<const float> x, int half, uint8_t* q) {
  const float extreme = extreme_of(x);
  if (std::fabs(extreme) < kZero) {
    std::fill_n(q, x.size(), uint8_t{0});
    return 0;
  }
  const float inverse = -static_cast<float>(half) / extreme;
  int level[kValuesMax];
  Moments sums;
  for (size_t i = 0; i < x.size(); ++i) {
    level[i] = clamp_int(round_to_int(inverse * x[i]), -half, half - 1);
    sums.add(x[i] * x[i], x[i], static_cast<float>(level[i]));
  }
  bool changed = true;
  for (int round = 0; round < kRefinements && changed; ++round) {
    changed = false;
    for (size_t i = 0; i < x.size(); ++i) {
      const float w = x[i] * x[i];
      Moments other = sums;
      other.remove(w, x[i], static_cast<float>(level[i]));
      if (other.xq <= 0) continue;
      const int moved = clamp_int(round_to_int(x[i] * other.qq / other.xq), -half, half - 1);
      if (moved == level[i]) continue;
      other.add(w, x[i], static_cast<float>(moved));
      if (other.qq > 0 && other.better_than(sums)) {
        level[i] = moved;
        sums = other;
        changed = true;
      }
    }
  }
  for (size_t i = 0; i < x.size(); ++i) q[i] = static_cast<uint8_t>(level[i] + half);
  return sums.scale();
}

ScaleMin fit_with_min(std::span<const float> x, const float* weight, int levels, const TrialScales& trials,
                      uint8_t* q) {
  float min = x[0], max = x[0], sum_w = weight[0], sum_x = sum_w * x[0];
  for (size_t i = 1; i < x.size(); ++i) {
    min = std::min(min, x[i]);
    max = std::max(max, x[i]);
    sum_w += weight[i];
    sum_x += weight[i] * x[i];
  }
  min = std::min(min, 0.0f);
  if (max == min) {
    std::fill_n(q, x.size(), uint8_t{0});
    return {0, -min};
  }
  const auto quantize = [&](float inverse, float low, size_t i) {
    return static_cast<uint8_t>(clamp_int(round_to_int(inverse * (x[i] - low)), 0, levels));
  };
  const auto top = static_cast<float>(levels);
  const float first = top / (max - min);
  for (size_t i = 0; i < x.size(); ++i) q[i] = quantize(first, min, i);
  ScaleMin best = {1 / first, min};
  float best_error = error_of(x, weight, q, best, trials.absolute);
  for (int trial = 0; trial <= trials.steps; ++trial) {  // each from the minimum of the best so far
    const float inverse = (trials.first + trials.step * static_cast<float>(trial) + top) / (max - best.min);
    float sum_q = 0, sum_qq = 0, sum_xq = 0;
    uint8_t tried[kValuesMax];
    for (size_t i = 0; i < x.size(); ++i) {
      tried[i] = quantize(inverse, best.min, i);
      const float value = tried[i], weighted = weight[i] * value;
      sum_q += weighted;
      sum_qq += weighted * value;
      sum_xq += weighted * x[i];
    }
    const float determinant = sum_w * sum_qq - sum_q * sum_q;
    if (!(determinant > 0)) continue;
    ScaleMin fit = {(sum_w * sum_xq - sum_x * sum_q) / determinant,
                    (sum_qq * sum_x - sum_q * sum_xq) / determinant};
    if (fit.min > 0) fit = {sum_xq / sum_qq, 0};
    const float error = error_of(x, weight, tried, fit, trials.absolute);
    if (error < best_error) {
      std::copy_n(tried, x.size(), q);
      best_error = error;
      best = fit;
    }
  }
  return {best.scale, -best.min};
}

float fit_positive(std::span<const float> x, const float* weight, int levels, uint8_t* q) {
  const float max = std::max(0.0f, *std::max_element(x.begin(), x.end()));
  if (max < kZero) {
    std::fill_n(q, x.size(), uint8_t{0});
    return 0;
  }
  const auto quantize = [&](float inverse, size_t i) {
    return std::min(levels, round_to_int(inverse * x[i]));
  };
  const auto error_with = [&](float inverse, bool wraps) {
    const float scale = 1 / inverse;
    float error = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const int level = quantize(inverse, i);
      const float difference = x[i] - scale * static_cast<float>(wraps ? static_cast<uint8_t>(level) : level);
      error += weight[i] * difference * difference;
    }
    return error;
  };
  const auto top = static_cast<float>(levels);
  float chosen = top / max, best = error_with(chosen, true);
  for (int trial = -4; trial <= 4; ++trial) {
    if (trial == 0) continue;
    const float inverse = (0.1f * static_cast<float>(trial) + top) / max, error = error_with(inverse, false);
    if (error < best) {
      best = error;
      chosen = inverse;
    }
  }
  Moments sums;
  for (size_t i = 0; i < x.size(); ++i) {
    const int level = quantize(chosen, i);
    q[i] = static_cast<uint8_t>(level);
    sums.add(weight[i], x[i], static_cast<float>(level));
  }
  bool changed = true;
  for (int round = 0; round < kRefinements && changed; ++round) {
    changed = false;
    for (size_t i = 0; i < x.size(); ++i) {
      Moments other = sums;
      other.remove(weight[i], x[i], static_cast<float>(q[i]));
      if (other.xq <= 0 || other.qq <= 0) continue;
      const int moved = std::min(levels, round_to_int(x[i] * other.qq / other.xq));
      if (moved == q[i]) continue;
      other.add(weight[i], x[i], static_cast<float>(moved));
      if (other.better_than(sums)) {
        q[i] = static_cast<uint8_t>(moved);
        sums = other;
        changed = true;
      }
    }
  }
  return sums.scale();
}

float mean_square(std::span<const float> x) {
  return sum_of_squares(x) / static_cast<float>(x.size());
}

float quantise_signed(std::span<const float> x, const float* importance, float spread, int half, uint8_t* q) {
  if (importance) {
    float weight[kValuesMax];
    weigh(x, importance, spread, weight);
    return fit_signed(x, weight, half, q);
  }
  const float d = extreme_of(x) / static_cast<float>(-half), inverse = d != 0 ? 1 / d : 0;
  const float middle = static_cast<float>(half) + 0.5f;
  for (size_t k = 0; k < x.size(); ++k)
    q[k] = static_cast<uint8_t>(std::min(2 * half - 1, static_cast<int>(x[k] * inverse + middle)));
  return d;
}

ScaleMin quantise_with_min(std::span<const float> x, const float* importance, float spread, int levels,
                           uint8_t* q) {
  if (importance) {
    float weight[kValuesMax];
    weigh(x, importance, spread, weight);
    return fit_with_min(x, weight, levels, kTrialsWeighted, q);
  }
  const auto [min, max] = std::minmax_element(x.begin(), x.end());
  const float d = (*max - *min) / static_cast<float>(levels), inverse = d != 0 ? 1 / d : 0;
  for (size_t k = 0; k < x.size(); ++k)
    q[k] = static_cast<uint8_t>(std::min(levels, static_cast<int>((x[k] - *min) * inverse + 0.5f)));
  return {d, -*min};
}

void store_nibbles(const uint8_t* q, uint8_t* out) {
  for (int k = 0; k < 16; ++k) out[k] = static_cast<uint8_t>((q[k] & 15) | (q[k + 16] << 4));
}

void store_fifth_bits(const uint8_t* q, uint8_t* out) {
  uint32_t bits = 0;
  for (int k = 0; k < 32; ++k) bits |= static_cast<uint32_t>(q[k] >> 4) << k;
  store_u32(out, bits);
}

}  // namespace shoal
