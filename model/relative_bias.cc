#include "model/relative_bias.h"

#include <algorithm>
#include <cstdlib>

#include "base/check.h"
#include "tensor/exact_math.h"
#include "tensor/float_ops.h"

namespace shoal {
namespace {

constexpr int kDistanceMax = 128;  // from here on all are one bucket; no file says another

// All distances, and what a vector may read beyond the last.
size_t row_floats(int positions) {
  return 2 * static_cast<size_t>(positions) + kAttentionLanes;
}

}  // namespace

// The published formula is floor(exact + log(d / exact) / log(128 / exact) (n - exact)). Where the quotient
// is a whole number it must not come out a rounding error below; no other distance comes within 1e-6 of one.
int relative_bucket(int distance, int n_buckets, bool both_directions) {
  int first = 0;
  if (both_directions) {
    n_buckets /= 2;
    if (distance > 0) first = n_buckets;
    distance = std::abs(distance);
  } else {
    distance = std::max(0, -distance);
  }
  const int exact = n_buckets / 2;
  if (distance < exact) return first + distance;
  if (distance >= kDistanceMax || exact == 0) return first + n_buckets - 1;
  const double steps = exact_math::log_of(static_cast<double>(distance) / exact) /
                       exact_math::log_of(static_cast<double>(kDistanceMax) / exact) * (n_buckets - exact);
  return first + std::min(exact + static_cast<int>(steps + 1e-6), n_buckets - 1);
}

RelativeBias::RelativeBias(std::span<const float> table, int n_head, int n_buckets, bool both_directions,
                           int positions)
    : memory_(bytes(n_head, positions)), stride_(row_floats(positions)), positions_(positions) {
  SHOAL_CHECK(table.size() == static_cast<size_t>(n_head) * static_cast<size_t>(n_buckets));
  float* const by_distance = memory_.as<float>();
  for (int distance = 1 - positions; distance < positions; ++distance) {
    const int bucket = relative_bucket(distance, n_buckets, both_directions);
    for (int h = 0; h < n_head; ++h)
      by_distance[static_cast<size_t>(h) * stride_ + static_cast<size_t>(distance + positions - 1)] =
          table[static_cast<size_t>(bucket) * static_cast<size_t>(n_head) + static_cast<size_t>(h)];
  }
}

uint64_t RelativeBias::bytes(int n_head, int positions) {
  return static_cast<uint64_t>(n_head) * row_floats(positions) * sizeof(float);
}

}  // namespace shoal
