// Exact search for the chain's segments with the shortest lap: computing and hops of one step, with entry and
// finish.
#pragma once

#include <optional>
#include <vector>

#include "planner/chain.h"

namespace shoal {

// Partial solutions kept before the search gives up proving and returns its best with a gap.
inline constexpr size_t kLapLabelsMax = 4'000'000;

// Partial solutions of the first search; when it needs more the bound is sharpened, and three times as many
// are allowed.
inline constexpr size_t kLapFirstBudget = 4'000;

struct LapSolution {
  std::vector<Segment> segments;
  double seconds = 0;
  double gap = 0;  // 0: proven best
};

struct LapResult {
  std::optional<LapSolution> solution;
  bool proven = true;  // no solution is always proven: feasibility is decided by itself
  size_t labels = 0;   // partial solutions looked at
};

// `known`: a feasible solution to start from, or empty. The chain's states must not exceed kSearchStatesMax.
LapResult solve_lap(const Chain& chain, const std::vector<Segment>& known = {},
                    size_t labels_max = kLapLabelsMax, size_t first_budget = kLapFirstBudget);

}  // namespace shoal
