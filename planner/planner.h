// The planner: profiles in, plan out. Pure functions without I/O or shared state; callable from any thread.
// What cannot be planned throws SetupError with what is missing; text from outside (JSON) gives Result.
//
// One cost model (evaluate) predicts for the planner, for manual ranges and for whoever asks "what if".
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "planner/picture.h"
#include "planner/types.h"

namespace shoal {

// The best plan for input.objective, or the manual one checked and evaluated. Exact (Plan::gap is 0) unless
// the search meets its named limit, then the best plan found with its proven gap. Throws SetupError: an
// inconsistent input, no feasible plan (which memory is missing and how much), none found within the limits.
// Latency: least Prediction::seconds_per_token. Energy: least Prediction::joules_per_token
// (planner/energy.h). Throughput: least bottleneck; among plans of
// equal bottleneck the one with the shortest lap of a full step that a short search finds (the bottleneck is
// exact, this tie-break need not be).
Plan make_plan(const PlanInput& input);

// Fills the predicted fields of `stages` and returns the whole prediction. The stages must be a complete
// assignment (SHOAL_CHECK: indices in range, a pipeline that starts with the embedding and ends with the
// output head).
Prediction evaluate(const PlanInput& input, std::vector<StageAssignment>& stages);

// Checks that `stages` is a plan for `input`: complete, contiguous, memory, constraints, links. Empty: it is;
// else why not.
std::string why_infeasible(const PlanInput& input, const std::vector<StageAssignment>& stages);

// A device's memory over all its stages.
MemoryUse device_memory(const std::vector<StageAssignment>& stages, int device);

// The plan in words: a picture of the pipeline, a table of stages, the bottleneck, the prediction, reasons.
std::string render_explanation(const PlanInput& input, const Plan& plan,
                               PictureStyle style = PictureStyle::kAscii);

// JSON for machines and for the wire; plan_from_json checks everything that a Plan promises of itself
// (indices, ranges, every layer once, finite numbers) and accepts only text of kPlanJsonBytesMax.
inline constexpr size_t kPlanJsonBytesMax = 4u << 20;
std::string plan_to_json(const Plan& plan);
Result<Plan> plan_from_json(std::string_view text);
std::string device_profile_to_json(const DeviceProfile& device);
Result<DeviceProfile> device_profile_from_json(std::string_view text);

// What every node must agree on: the decision without the predictions, as one line of JSON with fixed key
// order. Hash it.
std::string canonical_plan_text(const Plan& plan);

inline constexpr Objective kObjectives[] = {Objective::kLatency, Objective::kThroughput, Objective::kEnergy};
std::string_view to_string(Objective objective);       // "latency", "throughput", "energy"
std::string to_string(const KeepOnHead& keep);         // "none", "first-layer", "ends", "first:2,last:1"
Objective parse_objective(std::string_view text);      // throws SetupError naming the choices
KeepOnHead parse_keep_on_head(std::string_view text);  // the same

}  // namespace shoal
