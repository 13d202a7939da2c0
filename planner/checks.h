// What makes a planning input sound, and why no plan exists: the sentences of the planner's SetupErrors.
#pragma once

#include <string>

#include "planner/chain.h"
#include "planner/types.h"

namespace shoal {

// Throws SetupError naming the first number or index that makes no sense.
void check_input(const PlanInput& input);

// The manual ranges as stages in layer order. Throws SetupError: a layer missing or given twice, a device
// twice, ...
std::vector<StageAssignment> manual_stages(const PlanInput& input);

// Which memory, link or permission is missing, for an input that has no plan.
std::string explain_no_plan(const PlanInput& input, const CostModel& cost, const Chain& chain);

// "layers 0-9", "layer 4", "no layers": both ends included, as in the cluster file.
std::string layers_text(int begin, int end);

}  // namespace shoal
