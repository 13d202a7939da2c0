// Buckets of the relative position bias against the published formula in its plain form, and the layout.
#include "model/relative_bias.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

namespace shoal {
namespace {

// As in the paper's implementation (mesh_tensorflow's _relative_position_bucket), in double; whole quotients
// are hit from above.
int published_bucket(int relative, int n_buckets, bool both_directions) {
  int result = 0, n = -relative;
  if (both_directions) {
    n_buckets /= 2;
    result += n < 0 ? n_buckets : 0;
    n = std::abs(n);
  } else {
    n = std::max(n, 0);
  }
  const int max_exact = n_buckets / 2;
  if (n < max_exact) return result + n;
  const double large =
      std::log(n / double(max_exact)) / std::log(128.0 / max_exact) * (n_buckets - max_exact);
  return result + std::min(max_exact + static_cast<int>(large + 1e-9), n_buckets - 1);
}

TEST_CASE("distances fall into the published buckets") {
  for (const int n_buckets : {32, 16, 64, 8}) {
    for (const bool both : {true, false}) {
      for (int distance = -1000; distance <= 1000; ++distance) {
        CAPTURE(n_buckets);
        CAPTURE(both);
        CAPTURE(distance);
        REQUIRE(relative_bucket(distance, n_buckets, both) == published_bucket(distance, n_buckets, both));
      }
    }
  }
  CHECK(relative_bucket(-16, 32, true) == 10);  // log(2) / log(16) * 8 is exactly 2
  CHECK(relative_bucket(64, 32, true) == 16 + 14);
  CHECK(relative_bucket(5, 32, false) == 0);
  CHECK(relative_bucket(-127, 32, false) == 31);
}

TEST_CASE("the bias of a query is a run over the keys") {
  constexpr int kHeads = 3, kBuckets = 32, kPositions = 70;
  std::vector<float> table;
  for (int i = 0; i < kHeads * kBuckets; ++i) table.push_back(static_cast<float>(i));
  for (const bool both : {true, false}) {
    const RelativeBias bias(table, kHeads, kBuckets, both, kPositions);
    for (const int query : {0, 1, 33, kPositions - 1}) {
      for (int key = 0; key < kPositions; ++key) {
        for (int h = 0; h < kHeads; ++h)
          REQUIRE(bias.of_query(query)[static_cast<size_t>(h) * bias.stride() + static_cast<size_t>(key)] ==
                  static_cast<float>(relative_bucket(key - query, kBuckets, both) * kHeads + h));
      }
    }
  }
}

}  // namespace
}  // namespace shoal
