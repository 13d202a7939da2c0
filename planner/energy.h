// The plan that takes the fewest joules a token, for one stream.
//
// Model: while a token goes round, every device with a stage draws its idle watts for the whole lap, and the
// difference to its busy watts while it computes; devices without a stage draw nothing (they may sleep or do
// something else). So with the set S of devices used and I = the sum of their idle watts,
//   joules = sum over d of compute_d * (I + busy_d - idle_d) + I * (time on links):
// for a given I this is a latency problem with weighted times, which make_plan() solves exactly. The search
// branches on how many devices of each kind are used: with at least so many, I is at least so large, which
// gives a lower bound over all plans of the branch, and the plan found gives an upper one. Exact (gap 0)
// unless it meets kEnergyBranchesMax; then the gap is the proven one. Pure; any thread.
#pragma once

#include "planner/types.h"

namespace shoal {

inline constexpr int kEnergyBranchesMax = 400;  // latency problems solved for one plan

// Called by make_plan(). Throws SetupError: a device without busy-watts, no feasible plan.
Plan least_energy_plan(const PlanInput& input, int branches_max = kEnergyBranchesMax);

}  // namespace shoal
