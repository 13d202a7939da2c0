#include "tensor/formats/ternary_search.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "tensor/formats/fit.h"
#include "tensor/formats/lattice_points.h"
#include "tensor/formats/lattice_search.h"

namespace shoal {
namespace {

constexpr int kSubBlockMax = 32;
constexpr float kScaleLevels = 15;  // 2 * 7 + 1: what the largest scale becomes
constexpr float kDelta = 0.125f;
// What -1, 0 and 1 are with the delta 1/8 and -1/8.
constexpr float kMoved[2][3] = {{-1 + kDelta, kDelta, 1 + kDelta}, {-1 - kDelta, -kDelta, 1 - kDelta}};

// A sub-block of n values, and the same in ascending order.
struct Values {
  int n;
  const float* x;
  float weight[kSubBlockMax];
  int order[kSubBlockMax];  // of equal values the first comes first

  void sort() {
    for (int i = 0; i < n; ++i) order[i] = i;
    std::sort(order, order + n, [this](int a, int b) { return x[a] < x[b] || (x[a] == x[b] && a < b); });
  }
};

// The first `low` values in ascending order become -1, those before `high` 0, the rest 1. Bit g of `minus`:
// the delta of the g-th eight is -1/8. low < 0: nothing was found.
struct Split {
  int low = -1, high = -1;
  unsigned minus = 0;
  float scale = 0;
};

// Keeps the split that leaves the least squares.
class BestSplit {
 public:
  void offer(float xq, float qq, int low, int high, unsigned minus) {
    if (!(qq > 0 && xq * xq > score_ * qq)) return;
    const float scale = xq / qq;
    score_ = scale * xq;
    best_ = {low, high, minus, scale};
  }
  const Split& get() const { return best_; }

 private:
  float score_ = -FLT_MAX;
  Split best_;
};

// One delta for all of it.
Split split_whole(const Values& v) {
  float sum_x[kSubBlockMax + 1] = {}, sum_w[kSubBlockMax + 1] = {};
  for (int j = 0; j < v.n; ++j) {
    const int i = v.order[j];
    sum_x[j + 1] = sum_x[j] + v.weight[i] * v.x[i];
    sum_w[j + 1] = sum_w[j] + v.weight[i];
  }
  const unsigned all = (1u << (v.n / 8)) - 1;
  BestSplit best;
  for (int low = 0; low <= v.n; ++low) {
    for (int high = low; high <= v.n; ++high) {
      for (int m = 0; m < 2; ++m) {
        const float* q = kMoved[m];
        const float xq =
            sum_x[low] * q[0] + (sum_x[high] - sum_x[low]) * q[1] + (sum_x[v.n] - sum_x[high]) * q[2];
        const float qq = sum_w[low] * q[0] * q[0] + (sum_w[high] - sum_w[low]) * q[1] * q[1] +
                         (sum_w[v.n] - sum_w[high]) * q[2] * q[2];
        best.offer(xq, qq, low, high, m == 0 ? 0 : all);
      }
    }
  }
  return best.get();
}

// A delta for each half of sixteen values. The values are one apart, so that the sums over three groups are
// total q[2] - below(low) - below(high), and those of squares likewise.
Split split_halves(const Values& v) {
  constexpr int kN = 16;
  float below_x[2][kN + 1] = {}, below_w[2][kN + 1] = {};
  for (int j = 0; j < kN; ++j) {
    const int i = v.order[j];
    for (int h = 0; h < 2; ++h) {
      const bool own = i / 8 == h;
      below_x[h][j + 1] = own ? below_x[h][j] + v.weight[i] * v.x[i] : below_x[h][j];
      below_w[h][j + 1] = own ? below_w[h][j] + v.weight[i] : below_w[h][j];
    }
  }
  BestSplit best;
  for (int low = 0; low <= kN; ++low) {
    for (int high = low; high <= kN; ++high) {
      float xq[2][2], qq[2][2];  // [half][delta]
      for (int h = 0; h < 2; ++h) {
        const float below = below_x[h][low] + below_x[h][high];
        for (int m = 0; m < 2; ++m) {
          const float* q = kMoved[m];
          xq[h][m] = below_x[h][kN] * q[2] - below;
          qq[h][m] = below_w[h][kN] * q[2] * q[2] + below_w[h][low] * (q[0] * q[0] - q[1] * q[1]) +
                     below_w[h][high] * (q[1] * q[1] - q[2] * q[2]);
        }
      }
      for (int first = 0; first < 2; ++first) {
        for (int second = 0; second < 2; ++second) {
          best.offer(xq[0][first] + xq[1][second], qq[0][first] + qq[1][second], low, high,
                     static_cast<unsigned>(first | (second << 1)));
        }
      }
    }
  }
  return best.get();
}

// Turns a split into points and deltas of sub-block s; returns its scale.
float place(const Values& v, Split split, int s, TernaryBlock* out) {
  int level[kSubBlockMax];
  for (int j = 0; j < v.n; ++j) level[v.order[j]] = j < split.low ? 0 : j < split.high ? 1 : 2;
  if (split.scale < 0) {
    for (int i = 0; i < v.n; ++i) level[i] = 2 - level[i];
    split.scale = -split.scale;
    split.minus = ~split.minus;
  }
  const LatticePoints& lattice = lattice_points_iq1();
  bool all_held = true;
  float xq = 0, qq = 0;
  for (int g = 0; g < v.n / 8; ++g) {
    const bool minus = (split.minus >> g & 1) != 0;
    const float delta = minus ? -kDelta : kDelta;
    const float *x = v.x + 8 * g, *weight = v.weight + 8 * g;
    size_t cell = 0;
    for (int i = 7; i >= 0; --i) cell = 3 * cell + static_cast<size_t>(level[8 * g + i]);
    all_held = all_held && lattice.holds(cell);
    const uint16_t point = nearest_point<8>(lattice, lattice.near(cell), x, weight, split.scale, delta);
    for (int i = 0; i < 8; ++i) {
      const float q = lattice.values(point)[i] + delta;
      xq += weight[i] * q * x[i];
      qq += weight[i] * q * q;
    }
    out->points[v.n / 8 * s + g] = point;
    out->minus[v.n / 8 * s + g] = minus;
  }
  return !all_held && xq > 0 && qq > 0 ? xq / qq : split.scale;
}

// Points, deltas and levels of scales; returns what one level counts, zero where there is nothing to encode.
float search(const float* x, const float* importance, int n, PlainWeight plain, float zero,
             Split (*find)(const Values&), TernaryBlock* out) {
  *out = {};
  const float spread = 2 * mean_square({x, 256});
  float scale[16] = {}, largest = 0;
  for (int s = 0; s < 256 / n; ++s) {
    Values v;
    v.n = n;
    v.x = x + n * s;
    const std::span<const float> values(v.x, static_cast<size_t>(n));
    weigh_or(values, importance ? importance + n * s : nullptr, spread, plain, v.weight);
    if (std::fabs(extreme_of(values)) < zero) continue;
    v.sort();
    const Split split = find(v);
    if (split.low >= 0) scale[s] = place(v, split, s, out);
    largest = std::max(largest, scale[s]);
  }
  if (largest == 0) {
    *out = {};
    return 0;
  }
  const float d = largest / kScaleLevels, inverse = 1 / d;
  for (int s = 0; s < 256 / n; ++s) {
    out->scales[s] = static_cast<uint8_t>(clamp_int(round_to_int(0.5f * (inverse * scale[s] - 1)), 0, 7));
  }
  return d;
}

}  // namespace

void search_iq1_s(const float* x, const float* importance, TernaryBlock* out) {
  out->d = 1.125f * search(x, importance, 32, PlainWeight::kOne, 1e-12f, split_whole, out);
}

void search_iq1_m(const float* x, const float* importance, TernaryBlock* out) {
  float d = search(x, importance, 16, PlainWeight::kSquare, 1e-7f, split_halves, out);
  if (d == 0) return;
  const float spread = 2 * mean_square({x, 256});
  float weight[256], xq = 0, qq = 0;
  weigh_or({x, 256}, importance, spread, PlainWeight::kSquare, weight);
  for (int k = 0; k < 256; ++k) {
    const float delta = out->minus[k / 8] ? -kDelta : kDelta;
    const float value = lattice_points_iq1().values(out->points[k / 8])[k % 8] + delta;
    const float q = value * static_cast<float>(2 * out->scales[k / 16] + 1);
    xq += weight[k] * q * x[k];
    qq += weight[k] * q * q;
  }
  if (qq > 0) d = xq / qq;
  out->d = 1.1125f * d;
}

}  // namespace shoal
