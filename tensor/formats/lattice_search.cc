#include "tensor/formats/lattice_search.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace shoal {
namespace {

constexpr int kSubBlockMax = 32;
constexpr float kScaleLevels = 31;  // 2 * 15 + 1: what the largest scale becomes

// A sub-block without its signs.
struct Magnitudes {
  int n;
  float x[kSubBlockMax];  // one of eight may be negative where the signs must be even
  float weight[kSubBlockMax];
  float root[kSubBlockMax];  // of the weights: how near a point is
};

template <int kDims>
struct Points {
  uint16_t point[kSubBlockMax / kDims] = {};
  bool held[kSubBlockMax / kDims] = {};  // the levels were a point themselves
};

// Takes the signs off eight values and returns them as bits.
uint8_t take_signs(const float* x, const float* weight, bool even, float* magnitude) {
  unsigned signs = 0;
  for (int i = 0; i < 8; ++i) {
    magnitude[i] = x[i] >= 0 ? x[i] : -x[i];
    if (!(x[i] >= 0)) signs |= 1u << i;
  }
  if (even && std::popcount(signs) % 2 != 0) {
    int weakest = 0;
    float least = weight[0] * x[0] * x[0];
    for (int i = 1; i < 8; ++i) {
      const float matters = weight[i] * x[i] * x[i];
      if (matters < least) {
        least = matters;
        weakest = i;
      }
    }
    magnitude[weakest] = -magnitude[weakest];
    signs ^= 1u << weakest;
  }
  return static_cast<uint8_t>(signs);
}

template <int kDims>
class SubBlockFit {
 public:
  SubBlockFit(const MagnitudeSearch& how, const Magnitudes& values)
      : how_(how), lattice_(how.points()), values_(values), groups_(values.n / kDims) {}

  // The scale, zero where there is nothing to encode, and the points. Below zero only where errors of flipped
  // signs prevail.
  float fit() {
    const int top = 2 * lattice_.levels() - 1;  // the largest value of a point
    float largest = *std::max_element(values_.x, values_.x + values_.n);
    if (largest < how_.zero) return 0;
    float scale = largest / static_cast<float>(top);
    if (how_.fitted_start) {
      uint8_t unused[kSubBlockMax];
      const std::span<const float> x(values_.x, static_cast<size_t>(values_.n));
      scale = fit_positive(x, values_.weight, lattice_.levels() + 1, unused);
      largest = scale * static_cast<float>(lattice_.levels());
      if (largest <= 0) return 0;
    }
    std::fill(std::begin(best_.held), std::end(best_.held), how_.again != Again::kAllIfAnyOff);
    float best = 0;
    for (int trial = -how_.trials; trial <= how_.trials; ++trial) {
      const float inverse = (static_cast<float>(top) + static_cast<float>(trial) * how_.trial_step) / largest;
      Points<kDims> tried;
      for (int g = 0; g < groups_; ++g) choose(g, inverse, 1 / inverse, &tried);
      const Moments sums = moments(tried);
      if (sums.qq > 0 && sums.xq * sums.xq > best * sums.qq) {
        scale = sums.xq / sums.qq;
        best = scale * sums.xq;
        best_ = tried;
      }
    }
    return scale > 0 ? choose_again(scale) : scale;
  }

  uint16_t point(int g) const { return best_.point[g]; }

 private:
  // The point for group g with a scale and its inverse.
  void choose(int g, float inverse, float scale, Points<kDims>* out) const {
    const float* x = values_.x + kDims * g;
    size_t cell = 0;
    for (int i = kDims - 1; i >= 0; --i) {
      const int level = clamp_int(round_to_int(0.5f * (inverse * x[i] - 1)), 0, lattice_.levels() - 1);
      cell = cell * static_cast<size_t>(lattice_.levels()) + static_cast<size_t>(level);
    }
    out->held[g] = lattice_.holds(cell);
    out->point[g] =
        nearest_point<kDims>(lattice_, lattice_.near(cell), x, values_.root + kDims * g, scale, 0.0f);
  }

  float choose_again(float scale) {
    const bool all_held = std::all_of(best_.held, best_.held + groups_, [](bool held) { return held; });
    if (all_held && how_.again != Again::kAll) return scale;
    for (int g = 0; g < groups_; ++g) {
      if (how_.again == Again::kThoseOff && best_.held[g]) continue;
      choose(g, 1 / scale, scale, &best_);
    }
    const Moments sums = moments(best_);
    return sums.qq > 0 ? sums.xq / sums.qq : scale;
  }

  Moments moments(const Points<kDims>& points) const {
    Moments sums;
    for (int g = 0; g < groups_; ++g) {
      const float* q = lattice_.values(points.point[g]);
      for (int i = 0; i < kDims; ++i) {
        sums.add(values_.weight[kDims * g + i], values_.x[kDims * g + i], q[i]);
      }
    }
    return sums;
  }

  const MagnitudeSearch& how_;
  const LatticePoints& lattice_;
  const Magnitudes& values_;
  const int groups_;
  Points<kDims> best_;
};

// Sub-block s: its points, signs and the size of its scale.
template <int kDims>
float encode_sub_block(const MagnitudeSearch& how, const Magnitudes& values, int s, const uint8_t* signs,
                       MagnitudeBlock* out) {
  SubBlockFit<kDims> fit(how, values);
  const float scale = fit.fit();
  if (scale == 0) return 0;
  for (int g = 0; g < values.n / kDims; ++g) out->points[values.n / kDims * s + g] = fit.point(g);
  for (int k = 0; k < values.n / 8; ++k) {
    out->signs[values.n / 8 * s + k] = static_cast<uint8_t>(scale < 0 ? ~signs[k] : signs[k]);
  }
  return std::fabs(scale);
}

}  // namespace

void weigh_or(std::span<const float> x, const float* importance, float spread, PlainWeight plain,
              float* weight) {
  if (importance != nullptr) return weigh(x, importance, spread, weight);
  for (size_t i = 0; i < x.size(); ++i) {
    const float square = x[i] * x[i];
    switch (plain) {
      case PlainWeight::kOne:
        weight[i] = std::sqrt(spread + square);
        break;
      case PlainWeight::kSquare:
        weight[i] = square;
        break;
      case PlainWeight::kQuarterSpread:
        weight[i] = 0.25f * spread + square;
        break;
    }
  }
}

void search_magnitudes(const float* x, const float* importance, const MagnitudeSearch& how,
                       MagnitudeBlock* out) {
  *out = {};
  const int n = how.sub_block;
  const float spread = how.spread * mean_square({x, 256});
  float scale[16] = {}, largest = 0;
  for (int s = 0; s < 256 / n; ++s) {
    const float* own = x + n * s;
    Magnitudes values;
    values.n = n;
    weigh_or({own, static_cast<size_t>(n)}, importance ? importance + n * s : nullptr, spread, how.plain,
             values.weight);
    for (int i = 0; i < n; ++i) values.root[i] = std::sqrt(values.weight[i]);
    uint8_t signs[kSubBlockMax / 8];
    for (int k = 0; k < n / 8; ++k) {
      signs[k] = take_signs(own + 8 * k, values.weight + 8 * k, how.even_signs, values.x + 8 * k);
    }
    scale[s] = how.dims == 8 ? encode_sub_block<8>(how, values, s, signs, out)
                             : encode_sub_block<4>(how, values, s, signs, out);
    largest = std::max(largest, scale[s]);
  }
  if (largest == 0) {
    *out = {};
    return;
  }
  const float d = largest / kScaleLevels, inverse = 1 / d;
  out->d = d * how.correction;
  for (int s = 0; s < 256 / n; ++s) {
    out->scales[s] = static_cast<uint8_t>(clamp_int(round_to_int(0.5f * (inverse * scale[s] - 1)), 0, 15));
  }
}

}  // namespace shoal
