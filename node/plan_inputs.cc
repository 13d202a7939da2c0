#include "node/plan_inputs.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "model/kv_cache.h"
#include "node/process_memory.h"
#include "sharding/lora_shard.h"
#include "sharding/shard.h"
#include "sharding/stage.h"

namespace shoal {
namespace {

// A process before it holds any of the model: program, libraries, heap.
constexpr uint64_t kProcessBytes = 40u << 20;

void fill_constraints(const ClusterConfig& config, int n_layer, PlanInput& input) {
  input.objective = parse_objective(config.plan.objective);
  input.workload.concurrency = config.sequences;
  input.constraints.head = config.head_index();
  input.constraints.keep_on_head = parse_keep_on_head(config.plan.keep_on_head);
  if (!config.plan.keep_on_trusted.empty()) {
    const KeepOnHead keep = parse_keep_on_head(config.plan.keep_on_trusted);
    input.constraints.trusted_first_layers = keep.first;
    // Who computes the output head has what the last layer gave: both or neither.
    input.constraints.trusted_last_layers = keep.ends() ? std::max(keep.last, 1) : 0;
  }
  for (const auto& [node, range] : config.plan.layers) {
    if (range.last >= n_layer) {
      throw SetupError(fmt::format("{}: plan.layers.{}: {}-{} goes beyond the model's last layer, {}",
                                   config.path, node, range.first, range.last, n_layer - 1));
    }
    input.constraints.manual.push_back({config.node_index(node), range.first, range.last + 1});
  }
}

}  // namespace

int input_rows(const ModelConfig& model, int context) {
  if (!model.encodes()) return 0;
  const int most = std::min(model.n_ctx_train, kInputRowsMax);
  return model.decodes() ? most
                         : std::min(most, context);  // the context is the decoder's, where there is one
}

int rows_of_step(const ModelConfig& model, int context) {
  return std::max(kRowsOfStep, input_rows(model, context));
}

Targets targets_of(const PlanConfig& config) {
  return {config.ttft_ms / 1e3, config.ms_per_token / 1e3, config.power_cap};
}

ModelProfile make_model_profile(const GgufFile& file, const ModelConfig& config, const ClusterConfig& cluster,
                                int threads, std::span<const LoraFile> adapters) {
  const UnitBytes units = unit_bytes(file, config);
  ModelProfile profile;
  profile.name = config.name;
  profile.n_layer = config.n_layer;
  profile.n_embd = config.n_embd;
  profile.context = cluster.context;
  profile.sequences = cluster.sequences;
  profile.embedding_bytes = units.embedding;
  profile.layer_bytes = units.layers;
  const int rows = rows_of_step(config, cluster.context);
  const StageOptions options{cluster.context, cluster.sequences, rows, cluster.kv_cache, cluster.kv_cells};
  for (int i = 0; i < config.n_layer; ++i) {
    profile.layer_kv_bytes.push_back(Stage::kv_bytes(config, {i, i + 1}, options));
    for (const LoraFile& adapter : adapters)
      profile.layer_bytes[static_cast<size_t>(i)] += lora_bytes(adapter, config, {i, i + 1});
  }
  profile.tied_output = config.tied_output;
  profile.output_bytes =
      config.tied_output ? static_cast<uint64_t>(config.n_embd) * sizeof(float) : units.output;
  profile.shared_bytes = units.shared;
  const uint64_t buffers = static_cast<uint64_t>(rows) * static_cast<uint64_t>(config.n_embd) *
                           sizeof(float) *
                           static_cast<uint64_t>(steps_in_flight_most(cluster.nodes.size()) + 1);
  profile.scratch_bytes =
      Stage::scratch_bytes(config, {false, {0, config.n_layer}, false}, options, threads) + buffers +
      LoraStage::bytes(lora_sizes(adapters, config), rows);
  const uint64_t with_output =
      Stage::scratch_bytes(config, {false, {0, config.n_layer}, true}, options, threads);
  profile.scratch_output_bytes =
      with_output - Stage::scratch_bytes(config, {false, {0, config.n_layer}, false}, options, threads);
  profile.base_bytes = kProcessBytes;
  profile.hidden_bytes_per_row = static_cast<uint64_t>(config.n_embd) * sizeof(float);
  return profile;
}

void complete_plan_input(const ClusterConfig& cluster, const GgufFile& file, const ModelConfig& model,
                         PlanInput& input, std::span<const LoraFile> adapters) {
  int threads = 1;  // scratch grows with threads: count the most that any node uses
  for (const NodeConfig& node : cluster.nodes) {
    threads = std::max(threads, node.threads > 0 ? node.threads : device_processors());
  }
  input.model = make_model_profile(file, model, cluster, threads, adapters);
  fill_constraints(cluster, model.n_layer, input);
}

}  // namespace shoal
