// What `shoal plan` prints once its inputs are known: the plan, and the answers to what was asked of it.
#pragma once

#include <string>
#include <vector>

#include "node/commands.h"
#include "planner/types.h"

namespace shoal {

// `offers`: one input, or several that differ in their model, the best first; `config`: the cluster file's
// targets. Prints to stdout. Throws SetupError.
void answer_plan_questions(std::vector<PlanInput> offers, const PlanConfig& config, const PlanFlags& flags);

}  // namespace shoal
