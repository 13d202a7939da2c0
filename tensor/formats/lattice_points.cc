#include "tensor/formats/lattice_points.h"

#include <algorithm>

#include "tensor/formats/lattice_codes.h"

namespace shoal {
namespace {

constexpr int kDistances = 256;  // squared, in levels: at most 4 x 7^2

// How many shells of near points a search looks at, as ggml does.
constexpr LatticePoints::Shape kOctet2 = {8, 2, 3, 2, 1, 2};
constexpr LatticePoints::Shape kOctet1 = {8, 2, 3, 1, 1, 2};
constexpr LatticePoints::Shape kQuartet2 = {4, 3, 8, 2, 1, 2};
constexpr LatticePoints::Shape kQuartet3 = {4, 3, 8, 3, 1, 2};
constexpr LatticePoints::Shape kTernary = {8, 2, 3, 3, -1, 1};

}  // namespace

LatticePoints::LatticePoints(std::span<const uint16_t> codes, const Shape& shape)
    : dims_(static_cast<size_t>(shape.dims)), levels_(shape.levels) {
  const size_t n = codes.size();
  std::vector<uint8_t> level(dims_ * n);  // [dim][point]
  values_.resize(n * dims_);
  for (size_t p = 0; p < n; ++p) {
    for (size_t i = 0; i < dims_; ++i) {
      const int l = (codes[p] >> (static_cast<size_t>(shape.bits) * i)) & ((1 << shape.bits) - 1);
      level[i * n + p] = static_cast<uint8_t>(l);
      values_[p * dims_ + i] = static_cast<float>(shape.first + shape.step * l);
    }
  }
  size_t cells = 1;
  for (size_t i = 0; i < dims_; ++i) cells *= static_cast<size_t>(shape.levels);
  begin_.push_back(0);
  std::vector<uint16_t> distances(n);
  for (size_t cell = 0; cell < cells; ++cell) {
    std::fill(distances.begin(), distances.end(), uint16_t{0});
    size_t rest = cell;
    for (size_t i = 0; i < dims_; ++i) {
      const int own = static_cast<int>(rest % static_cast<size_t>(shape.levels));
      rest /= static_cast<size_t>(shape.levels);
      for (size_t p = 0; p < n; ++p) {
        const int apart = level[i * n + p] - own;
        distances[p] = static_cast<uint16_t>(distances[p] + apart * apart);
      }
    }
    add_nearest(distances, shape.shells);
  }
}

// The candidates of the next cell, from its distance to every point.
void LatticePoints::add_nearest(std::span<const uint16_t> distances, int shells) {
  uint32_t at[kDistances + 1] = {};  // counts, then where the points of a distance begin
  for (uint16_t d : distances) ++at[d];
  const bool held = at[0] > 0;
  if (held) shells = 1;
  uint32_t total = static_cast<uint32_t>(near_.size());
  int last = 0;
  for (int d = 0; shells > 0 && d < kDistances; ++d) {
    const uint32_t count = at[d];
    at[d] = total;
    total += count;
    if (count > 0) --shells;
    last = d;
  }
  near_.resize(total);
  for (size_t p = 0; p < distances.size(); ++p) {
    if (distances[p] <= last) near_[at[distances[p]]++] = static_cast<uint16_t>(p);
  }
  holds_.push_back(held);
  begin_.push_back(total);
}

const LatticePoints& lattice_points_iq2_xxs() {
  static const LatticePoints points(kCodes2Xxs, kOctet2);
  return points;
}

const LatticePoints& lattice_points_iq2_xs() {
  static const LatticePoints points(kCodes2Xs, kOctet2);
  return points;
}

const LatticePoints& lattice_points_iq2_s() {
  static const LatticePoints points(kCodes2S, kOctet1);
  return points;
}

const LatticePoints& lattice_points_iq3_xxs() {
  static const LatticePoints points(kCodes3Xxs, kQuartet2);
  return points;
}

const LatticePoints& lattice_points_iq3_s() {
  static const LatticePoints points(kCodes3S, kQuartet3);
  return points;
}

const LatticePoints& lattice_points_iq1() {
  static const LatticePoints points(kCodes1, kTernary);
  return points;
}

}  // namespace shoal
