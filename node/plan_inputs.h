// What the planner is told of a cluster: the model's bytes as this program lays them out in memory, the
// cluster file's wishes, and the two limits that both the plan and the pipeline rest on. Pure functions; they
// throw SetupError where the cluster file asks for what the model does not have.
#pragma once

#include <span>

#include "model/gguf_file.h"
#include "model/lora_file.h"
#include "model/model_config.h"
#include "node/cluster_config.h"
#include "planner/pareto.h"
#include "planner/planner.h"

namespace shoal {

constexpr int kRowsOfStep = 128;     // the most rows of one step: what every stage's buffers are made for
constexpr int kInputRowsMax = 2048;  // of a whole input that an encoder reads in one step

// Rows of a whole input, where the model has an encoder; 0: it has none.
int input_rows(const ModelConfig& model, int context);
// The most rows of one step of this model.
int rows_of_step(const ModelConfig& model, int context);

// For each stage one step that is computed and one on its way; the scheduler uses fewer where that is enough.
constexpr int steps_in_flight_most(size_t stages) {
  return 2 * static_cast<int>(stages);
}

// Fills the model, the workload and the constraints; devices and links stay as they are. `adapters`: in
// memory beside the model.
void complete_plan_input(const ClusterConfig& cluster, const GgufFile& file, const ModelConfig& model,
                         PlanInput& input, std::span<const LoraFile> adapters = {});

// Bytes of weights, KV cache and scratch for the cluster's context and sequences on a node of `threads`
// threads.
ModelProfile make_model_profile(const GgufFile& file, const ModelConfig& config, const ClusterConfig& cluster,
                                int threads, std::span<const LoraFile> adapters = {});

Targets targets_of(const PlanConfig& config);

}  // namespace shoal
