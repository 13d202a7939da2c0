#include "planner/planner.h"

#include <algorithm>

#include "base/units.h"
#include "planner/busiest_beam.h"
#include "planner/busiest_solver.h"
#include "planner/chain.h"
#include "planner/checks.h"
#include "planner/energy.h"
#include "planner/lap_solver.h"
#include "planner/reasons.h"

namespace shoal {
namespace {

constexpr size_t kTieLabelsMax = 4'000;
constexpr double kSame = 1 + 1e-12;  // values nearer than this are equal

std::vector<StageAssignment> stages_of(const PlanInput& input, const Chain& chain,
                                       const std::vector<Segment>& segments) {
  const int n = input.model.n_layer;
  std::vector<size_t> taken(static_cast<size_t>(chain.types), 0);
  std::vector<StageAssignment> stages;
  for (const Segment& segment : segments) {
    const auto type = static_cast<size_t>(segment.type);
    StageAssignment stage;
    stage.device = chain.members[type][taken[type]++];
    stage.embedding = segment.begin == 0;
    stage.layer_begin = std::clamp(segment.begin - 1, 0, n);
    stage.layer_end = std::clamp(segment.end - 1, 0, n);
    stage.output = segment.end == n + 2;
    stages.push_back(stage);
  }
  if (input.constraints.keep_on_head.ends()) {
    StageAssignment end;
    end.device = input.constraints.head;
    end.layer_begin = end_on_head(input).layer_begin;
    end.layer_end = n;
    end.output = true;
    stages.push_back(end);
  }
  return stages;
}

// Where both ends are kept, all on the head is one stage and not two.
std::vector<StageAssignment> whole_on_head(const PlanInput& input) {
  StageAssignment stage;
  stage.device = input.constraints.head;
  stage.embedding = stage.output = true;
  stage.layer_end = input.model.n_layer;
  return {stage};
}

double lap_of_full_step(const std::vector<StageAssignment>& stages, const CostModel& cost,
                        const PlanInput& input) {
  const auto rows = static_cast<uint64_t>(input.workload.concurrency);
  int from = input.constraints.head;
  uint64_t bytes = input.model.token_bytes_per_row * rows;
  double lap = 0;
  for (const StageAssignment& stage : stages) {
    lap += cost.message_seconds(from, stage.device, bytes) + stage.full_seconds;
    from = stage.device;
    bytes = input.model.hidden_bytes_per_row * rows;
  }
  return lap + cost.message_seconds(from, input.constraints.head, input.model.result_bytes_per_row * rows);
}

// Is candidate `a` better for the objective, ties by the lap?
bool better(const PlanInput& input, const CostModel& cost, std::vector<StageAssignment> a,
            std::vector<StageAssignment> b) {
  const Prediction pa = evaluate(input, a), pb = evaluate(input, b);
  if (input.objective == Objective::kLatency) return pa.seconds_per_token <= pb.seconds_per_token * kSame;
  if (pa.bottleneck.seconds > pb.bottleneck.seconds * kSame) return false;
  if (pa.bottleneck.seconds * kSame < pb.bottleneck.seconds) return true;
  return lap_of_full_step(a, cost, input) <= lap_of_full_step(b, cost, input) * kSame;
}

struct Found {
  std::vector<Segment> segments;  // empty: none
  double gap = 0;
  bool proven = true;
};

Found solve(const PlanInput& input, const Chain& chain) {
  Found found;
  if (chain.types == 0 || (chain.head_first && chain.head_type < 0)) return found;
  if (input.objective == Objective::kThroughput) {
    BusiestResult busiest = solve_busiest_wide(chain);
    if (!busiest.proven && search_fits(chain)) busiest = {solve_busiest(chain), 0, true};
    found.proven = busiest.proven;
    if (!busiest.segments) return found;
    // Of all plans with this bottleneck the one with the shortest lap that a short search finds.
    const Chain limited = limit_busy(chain, busiest_seconds(chain, *busiest.segments));
    found.segments = solve_lap(limited, *busiest.segments, LapLimits{kTieLabelsMax}).solution->segments;
    found.gap = busiest.gap;
    return found;
  }
  LapResult result = solve_lap(chain);
  found.proven = result.proven;
  if (result.solution) found = {std::move(result.solution->segments), result.solution->gap, result.proven};
  return found;
}

void check_whole_plan(const PlanInput& input, std::vector<StageAssignment> stages) {
  const std::string why = why_infeasible(input, stages);
  if (!why.empty()) throw SetupError("plan: " + why);
}

std::vector<StageAssignment> choose_stages(const PlanInput& input, const CostModel& cost, Plan& plan) {
  if (plan.manual) {
    std::vector<StageAssignment> stages = manual_stages(input);
    check_whole_plan(input, stages);
    return stages;
  }
  const int rows = input.objective == Objective::kLatency ? 1 : input.workload.concurrency;
  const Chain chain = make_chain(input, cost, rows);
  Found found = solve(input, chain);
  std::vector<StageAssignment> stages;
  if (!found.segments.empty()) stages = stages_of(input, chain, found.segments);
  plan.gap = found.gap;
  if (input.constraints.keep_on_head.ends()) {
    std::vector<StageAssignment> whole = whole_on_head(input);
    if (why_infeasible(input, whole).empty() && (stages.empty() || better(input, cost, whole, stages)))
      stages = std::move(whole);
  }
  if (stages.empty() && !found.proven)
    throw SetupError(
        "plan: none was found, though there may be one: memory or links leave little choice among " +
        std::to_string(chain.types) +
        " different nodes; give nodes more memory, exclude some, or give the layers by hand");
  if (stages.empty()) throw SetupError("plan: " + explain_no_plan(input, cost, chain));
  const std::string why = why_infeasible(input, stages);
  if (!why.empty()) throw std::logic_error("the planner made a plan that is not one: " + why);
  plan.reasons = device_reasons(input, cost, chain, stages);
  return stages;
}

}  // namespace

Plan make_plan(const PlanInput& input) {
  check_input(input);
  if (input.objective == Objective::kEnergy && input.constraints.manual.empty())
    return least_energy_plan(input);
  const CostModel cost(input);
  Plan plan;
  plan.objective = input.objective;
  plan.keep_on_head = input.constraints.keep_on_head;
  plan.manual = !input.constraints.manual.empty();
  plan.head = input.constraints.head;
  plan.n_layer = input.model.n_layer;
  for (const DeviceProfile& device : input.devices) plan.devices.push_back(device.name);
  plan.stages = choose_stages(input, cost, plan);
  plan.predicted = evaluate(input, plan.stages);
  if (plan.manual) plan.reasons = manual_reasons(input, plan.stages);
  return plan;
}

}  // namespace shoal
