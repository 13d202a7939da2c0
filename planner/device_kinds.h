// Devices that are alike: exchanging two of them changes no plan's cost. What searches over sets of devices
// count instead of naming. Pure; any thread.
#pragma once

#include <vector>

#include "planner/types.h"

namespace shoal {

// The devices that may take a stage, by kind: the same profile but for name and type, the same links to all
// others, and not the head, which is a kind of its own. In device order.
std::vector<std::vector<int>> device_kinds(const PlanInput& input);

bool may_take_stage(const PlanInput& input, int device);

}  // namespace shoal
