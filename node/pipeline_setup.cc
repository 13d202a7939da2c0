#include "node/pipeline_setup.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "model/sha256.h"
#include "node/plan_inputs.h"
#include "planner/cost_model.h"
#include "planner/planner.h"

namespace shoal {
namespace {

constexpr double kStepDeadlineLeast_s = 30;  // an answer that has been waited for so long will not come
constexpr double kLapsOfDeadline = 10;       // or for so many times that a first token takes

}  // namespace

PipelineLayout layout_base(const ClusterConfig& config, const ModelConfig& model,
                           const std::string& adapters_hash) {
  PipelineLayout layout;
  layout.head = config.head;
  layout.rows_max = rows_of_step(model, config.context);
  layout.inputs = input_rows(model, config.context);
  layout.decodes = model.decodes();
  layout.decoder_start_token = model.decoder_start_token;
  layout.n_embd = model.n_embd;
  layout.n_vocab = model.n_vocab;
  layout.context = config.context;
  layout.slots = config.sequences;
  layout.kv_cells = config.kv_cells;
  layout.kv_cache = kv_cache_name(config.kv_cache);
  layout.adapters = static_cast<int>(config.adapters.size());
  layout.adapters_hash = adapters_hash;
  layout.steps_in_flight_max = 1;
  return layout;
}

PipelineLayout lay_out(const PipelineLayout& base, const Plan& plan,
                       const std::map<std::string, Endpoint>& endpoints, double stall_timeout_s) {
  PipelineLayout layout = base;
  layout.node_of_stage.clear();
  layout.shard_of_stage.clear();
  for (const StageAssignment& stage : plan.stages) {
    layout.node_of_stage.push_back(plan.devices[static_cast<size_t>(stage.device)]);
    layout.shard_of_stage.push_back({stage.embedding, {stage.layer_begin, stage.layer_end}, stage.output});
  }
  layout.endpoints = endpoints;
  layout.plan_hash = sha256_hex(canonical_plan_text(plan) + "kv-cache " + layout.kv_cache +
                                fmt::format(" cells {}", layout.kv_cells));
  if (layout.node_of_stage.size() > 1) {
    layout.step_deadline_s =
        stall_timeout_s > 0
            ? stall_timeout_s
            : std::max(kStepDeadlineLeast_s, kLapsOfDeadline * plan.predicted.first_token_seconds);
  }
  layout.steps_in_flight_max = steps_in_flight_most(plan.stages.size());
  return layout;
}

Plan plan_of(const PipelineLayout& layout) {
  Plan plan;
  for (int i = 0; i <= layout.last_stage(); ++i) {
    const std::string& node = layout.node_of_stage[static_cast<size_t>(i)];
    const ShardSpec& shard = layout.shard_of_stage[static_cast<size_t>(i)];
    auto known = std::find(plan.devices.begin(), plan.devices.end(), node);
    if (known == plan.devices.end()) known = plan.devices.insert(known, node);
    StageAssignment stage;
    stage.device = static_cast<int>(known - plan.devices.begin());
    stage.embedding = shard.embedding;
    stage.layer_begin = shard.layers.begin;
    stage.layer_end = shard.layers.end;
    stage.output = shard.output;
    plan.stages.push_back(stage);
    plan.n_layer = shard.layers.end;
  }
  return plan;
}

SchedulerLimits scheduler_limits(const PipelineLayout& layout) {
  SchedulerLimits limits;
  limits.steps_in_flight_max = layout.steps_in_flight_max;
  limits.rows_max = layout.rows_max;
  return limits;
}

PipelineModel pipeline_model(const PlanInput& input, const Plan& plan, int sequences) {
  if (input.devices.empty()) {
    std::array<double, StageModel::kRows.size()> seconds;
    for (size_t i = 0; i < seconds.size(); ++i) seconds[i] = 10e-3 + 1e-3 * StageModel::kRows[i];
    return PipelineModel({StageModel(seconds)}, 100e-6, 0);
  }
  const CostModel cost(input);
  std::vector<StageModel> stages;
  double hops_s = 0, hops_row_s = 0;
  for (const StageAssignment& stage : plan.stages) {
    std::array<double, StageModel::kRows.size()> seconds;
    for (size_t i = 0; i < seconds.size(); ++i) {
      const int rows = static_cast<int>(StageModel::kRows[i]);
      seconds[i] = rows < kPrefillChunkRows ? cost.compute_seconds(stage.device, unit_range(stage), rows)
                                            : cost.prefill_seconds(stage.device, unit_range(stage), rows);
      if (i > 0) seconds[i] = std::max(seconds[i], seconds[i - 1]);
    }
    stages.emplace_back(seconds);
    const double row_s = stage.full_hop_in_seconds / sequences;
    hops_s += std::max(0.0, stage.hop_in_seconds - row_s);
    hops_row_s += row_s;
  }
  hops_s += plan.stages.back().hop_out_seconds;
  return PipelineModel(std::move(stages), hops_s, hops_row_s);
}

double longest_step_s(const PlanInput& input, const StageAssignment& stage) {
  return CostModel(input).prefill_seconds(stage.device, unit_range(stage), kRowsOfStep);
}

}  // namespace shoal
