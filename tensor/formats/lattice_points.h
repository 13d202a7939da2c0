// The points of a lattice by their levels, as encoders look for them: the point that has given levels, or
// those nearest to levels that no point has. (lattice_grids.h has the same points by their index, for
// decoding.)
//
// A level is a coordinate's index among the format's few values; eight or four of them in a given order, as a
// number in base `levels` with the first lowest, are a cell. Immutable once made; the tables are made at the
// first use, which takes some milliseconds, and kept. Reading from several threads is safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace shoal {

class LatticePoints {
 public:
  struct Shape {
    int dims;         // of a point: 8 or 4
    int bits;         // of one level in a code
    int levels;       // 0..levels - 1 occur
    int shells;       // near points lie at the so many least distances
    int first, step;  // level l stands for first + step l
  };
  LatticePoints(std::span<const uint16_t> codes, const Shape& shape);

  int levels() const { return levels_; }
  bool holds(size_t cell) const { return holds_[cell]; }
  // The cell's own point, or else the near ones by distance, the lower index first; never empty.
  std::span<const uint16_t> near(size_t cell) const {
    return std::span(near_).subspan(begin_[cell], begin_[cell + 1] - begin_[cell]);
  }
  // What the levels of a point stand for, [dims].
  const float* values(uint16_t point) const { return &values_[size_t{point} * dims_]; }

 private:
  void add_nearest(std::span<const uint16_t> distances, int shells);

  size_t dims_;
  int levels_;
  std::vector<uint8_t> holds_;   // [cells]
  std::vector<uint32_t> begin_;  // [cells + 1] into near_
  std::vector<uint16_t> near_;
  std::vector<float> values_;  // [points][dims]
};

// Magnitudes 2 l + 1.
const LatticePoints& lattice_points_iq2_xxs();
const LatticePoints& lattice_points_iq2_xs();
const LatticePoints& lattice_points_iq2_s();
const LatticePoints& lattice_points_iq3_xxs();
const LatticePoints& lattice_points_iq3_s();
// -1, 0, 1.
const LatticePoints& lattice_points_iq1();

// Of the candidates (not empty) the point whose values q, moved by `shift`, leave the least
// sum of weight (scale (q + shift) - x)^2; of equal ones the first. x and weight: [kDims].
template <int kDims>
uint16_t nearest_point(const LatticePoints& lattice, std::span<const uint16_t> candidates, const float* x,
                       const float* weight, float scale, float shift) {
  uint16_t best = candidates.front();
  if (candidates.size() == 1) return best;
  float least = 3.402823466e38f;
  for (const uint16_t point : candidates) {
    const float* q = lattice.values(point);
    float error[kDims], sum = 0;
    for (int i = 0; i < kDims; ++i) {
      const float difference = scale * (q[i] + shift) - x[i];
      error[i] = weight[i] * difference * difference;
    }
    for (int i = 0; i < kDims; ++i) sum += error[i];
    if (sum < least) {
      least = sum;
      best = point;
    }
  }
  return best;
}

}  // namespace shoal
