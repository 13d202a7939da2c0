// Local search over the order of a solution's devices, each order cut exactly. It proves nothing: it gives
// the exact solvers a good solution to begin with, so that they have less to rule out. Pure; any thread.
#pragma once

#include <vector>

#include "planner/chain.h"

namespace shoal {

// `start` (feasible, not empty) or better for the objective: two devices exchanged, one moved, put in, left
// out, or put in another's place, until nothing of that helps or a fixed number of improvements is made.
std::vector<Segment> improve_order(const Chain& chain, std::vector<Segment> start, Objective objective);

}  // namespace shoal
