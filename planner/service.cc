#include "planner/service.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "planner/cost_model.h"
#include "planner/planner.h"

namespace shoal {
namespace {

constexpr int kGroupsMax = 256;  // more groups than any lap has places for

// One step of some rows: how long it keeps each device and the busiest link, and its lap.
struct StepTimes {
  std::map<int, double> device_seconds;
  double busiest = 0;
  double lap = 0;
};

StepTimes step_times(const PlanInput& input, const CostModel& cost,
                     const std::vector<StageAssignment>& stages, int rows) {
  StepTimes times;
  const ModelProfile& model = input.model;
  const auto count = static_cast<uint64_t>(rows);
  int from = input.constraints.head;
  uint64_t bytes = model.token_bytes_per_row * count;
  const auto pass = [&](int to) {
    times.lap += cost.message_seconds(from, to, bytes);
    times.busiest = std::max(times.busiest, cost.occupancy_seconds(from, to, bytes));
    from = to;
  };
  for (const StageAssignment& stage : stages) {
    pass(stage.device);
    const double seconds = cost.compute_seconds(stage.device, unit_range(stage), rows);
    times.lap += seconds;
    times.device_seconds[stage.device] += seconds;
    bytes = model.hidden_bytes_per_row * count;
  }
  bytes = model.result_bytes_per_row * count;
  pass(input.constraints.head);
  for (const auto& [device, seconds] : times.device_seconds) times.busiest = std::max(times.busiest, seconds);
  return times;
}

}  // namespace

double lap_of_rows(const PlanInput& input, const std::vector<StageAssignment>& stages, int rows) {
  return step_times(input, CostModel(input), stages, rows).lap;
}

ServicePrediction predict_service(const PlanInput& input, const std::vector<StageAssignment>& stages,
                                  int sequences) {
  const CostModel cost(input);
  ServicePrediction best;
  best.sequences = sequences;
  best.seconds_per_token = kUnusable;
  std::map<int, double> busy;  // [device] seconds of computing in one cycle
  for (int groups = 1; groups <= std::min(sequences, kGroupsMax); ++groups) {
    const int small = sequences / groups, larger = sequences % groups;  // so many groups have one row more
    const StepTimes few = step_times(input, cost, stages, small);
    const StepTimes many = larger > 0 ? step_times(input, cost, stages, small + 1) : few;
    const double sum = (groups - larger) * few.busiest + larger * many.busiest;
    const double cycle = std::max(sum, many.lap);
    if (cycle >= best.seconds_per_token) continue;
    best.groups = groups;
    best.seconds_per_token = cycle;
    busy.clear();
    for (const auto& [device, seconds] : few.device_seconds)
      busy[device] = (groups - larger) * seconds + larger * many.device_seconds.at(device);
  }
  std::vector<StageAssignment> filled = stages;
  best.first_token_seconds = evaluate(input, filled).first_token_seconds;
  best.tokens_per_second = best.seconds_per_token > 0 ? sequences / best.seconds_per_token : 0;
  double joules = 0, peak = 0;
  for (const auto& [device, seconds] : busy) {
    const DeviceProfile& profile = input.devices[static_cast<size_t>(device)];
    if (profile.busy_watts <= 0) return best;
    joules +=
        profile.idle_watts * best.seconds_per_token + (profile.busy_watts - profile.idle_watts) * seconds;
    peak += profile.busy_watts;
  }
  best.joules_per_token = joules / sequences;
  best.watts = best.seconds_per_token > 0 ? joules / best.seconds_per_token : 0;
  best.peak_watts = peak;
  return best;
}

PlanInput with_cache_for(PlanInput input, int context, int sequences) {
  ModelProfile& model = input.model;
  if (model.context <= 0 || model.sequences <= 0)
    throw SetupError(
        "plan: the profile does not say for which context and how many sequences its KV cache is; give "
        "\"context\" and \"sequences\" in \"model\"");
  const double factor = static_cast<double>(context) / model.context * sequences / model.sequences;
  for (uint64_t& bytes : model.layer_kv_bytes)
    bytes = static_cast<uint64_t>(static_cast<double>(bytes) * factor);
  model.context = context;
  model.sequences = sequences;
  return input;
}

}  // namespace shoal
