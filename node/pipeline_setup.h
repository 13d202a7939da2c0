// From a plan to what runs it: the layout that all nodes follow, and what the scheduler believes of it at
// first. Pure functions.
#pragma once

#include <map>
#include <string>

#include "model/model_config.h"
#include "node/cluster_config.h"
#include "node/pipeline_layout.h"
#include "node/scheduler.h"
#include "planner/types.h"

namespace shoal {

// What of a layout does not depend on the plan: sizes, the head, its deadline where the cluster file says
// one. `adapters_hash`: of those of the cluster file.
PipelineLayout layout_base(const ClusterConfig& config, const ModelConfig& model,
                           const std::string& adapters_hash = {});

// The layout of a plan. `base`: everything but the stages. `stall_timeout_s`: 0: chosen from the plan.
PipelineLayout lay_out(const PipelineLayout& base, const Plan& plan,
                       const std::map<std::string, Endpoint>& endpoints, double stall_timeout_s);

// The plan that a layout came from, as far as it can be told: who computes what.
Plan plan_of(const PipelineLayout& layout);

SchedulerLimits scheduler_limits(const PipelineLayout& layout);

// What the plan expects of the pipeline. Where nothing was measured (no devices in `input`): a guess, which
// its first steps correct.
PipelineModel pipeline_model(const PlanInput& input, const Plan& plan, int sequences);

// The longest that one step should take a stage: one of as many rows as there may be.
double longest_step_s(const PlanInput& input, const StageAssignment& stage);

}  // namespace shoal
