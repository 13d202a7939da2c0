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

// A whole file. Throws SetupError that calls it a `what`: absent, larger than `bytes_max`, unreadable.
std::string read_text_file(const std::string& path, const std::string& what, size_t bytes_max);

}  // namespace shoal
