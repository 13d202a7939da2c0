// What `shoal plan` prints once its inputs are known: the plan, and the answers to what was asked of it.
#pragma once

#include <vector>

#include "node/commands.h"
#include "planner/types.h"

namespace shoal {

// `offers`: one input, or several that differ in their model, the best first. Prints to stdout. Throws
// SetupError.
void answer_plan_questions(std::vector<PlanInput> offers, const PlanFlags& flags);

}  // namespace shoal
