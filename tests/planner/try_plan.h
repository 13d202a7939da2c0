// What tests of plans share: a plan or none, and what its objective makes of it.
#pragma once

#include <optional>

#include "planner/planner.h"

namespace shoal {

inline double objective_of(const PlanInput& input, const Plan& plan) {
  return input.objective == Objective::kLatency ? plan.predicted.seconds_per_token
                                                : plan.predicted.bottleneck.seconds;
}

inline std::optional<Plan> try_plan(const PlanInput& input) {
  try {
    return make_plan(input);
  } catch (const SetupError&) {
    return std::nullopt;
  }
}

}  // namespace shoal
