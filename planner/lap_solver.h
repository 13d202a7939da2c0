// Search for the chain's segments with the shortest lap: computing and hops of one step, with entry and
// finish. Exact as far as its limits allow, beyond that the best found with a proven gap. Deterministic;
// pure; any thread.
#pragma once

#include <optional>
#include <vector>

#include "planner/chain.h"

namespace shoal {

struct LapSolution {
  std::vector<Segment> segments;
  double seconds = 0;
  double gap = 0;  // 0: proven best
};

struct LapResult {
  std::optional<LapSolution> solution;
  bool proven = true;  // the solution best, or that there is none
  size_t labels = 0;   // partial solutions looked at
};

// What a search may cost. Counts, not times: the same input gives the same plan on every machine.
struct LapLimits {
  size_t labels = 1'500'000;  // partial solutions before the search gives up proving
  size_t first_width = 24;    // partial solutions that go on at each unit, at first
};

// `known`: a feasible solution to start from, or empty.
LapResult solve_lap(const Chain& chain, const std::vector<Segment>& known = {}, const LapLimits& limits = {});

}  // namespace shoal
