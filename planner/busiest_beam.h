// Throughput where sets of used devices are too many for a table: the least busy time that a search of
// limited width can find, and a proven bound. Deterministic; pure; any thread.
#pragma once

#include <optional>
#include <vector>

#include "planner/chain.h"

namespace shoal {

struct BusiestResult {
  std::optional<std::vector<Segment>> segments;
  double gap = 0;      // 0: proven best
  bool proven = true;  // the segments best, or that there are none
};

// What a search may cost, in partial solutions: the same input gives the same plan on every machine.
struct BusiestLimits {
  size_t width =
      2'000;  // `types` x partial solutions that go on from each number of devices, in the first round
  size_t labels = 500'000;  // of one search, and of all before another round
  size_t width_min = 16;    // however many types there are
};

BusiestResult solve_busiest_wide(const Chain& chain, const BusiestLimits& limits = {});

}  // namespace shoal
