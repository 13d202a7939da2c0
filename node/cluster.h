// Bringing a cluster up: every process runs the same steps, and where one cannot go on all end together with
// one message.
//
//   read the cluster file -> agree on it and on the model -> measure devices and links -> plan -> load ->
//   connect
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "model/gguf_file.h"
#include "model/lora_file.h"
#include "model/model_config.h"
#include "model/tokenizer.h"
#include "node/ahead_fetch.h"
#include "node/bootstrap.h"
#include "node/cluster_config.h"
#include "node/coordinator.h"
#include "node/node.h"
#include "node/node_weights.h"
#include "node/pipeline_keeper.h"
#include "node/stage_factory.h"
#include "planner/planner.h"

namespace shoal {

struct ClusterOptions {
  std::string node_name;     // --node; empty: by rank
  std::string kernels;       // --kernels
  int threads = 0;           // --threads; 0: the cluster file's, then the device's
  bool show_plan = false;    // rank 0 prints the plan's explanation to stderr
  bool await_nodes = false;  // the head alone: the nodes join by address
};

// What a running process has. On the head the coordinator takes requests; elsewhere it is null.
struct Cluster {
  ClusterConfig config;
  std::string name;                      // of this node
  std::shared_ptr<const GgufFile> file;  // where this node has none: the manifest's header
  std::string model_hash;                // the head's file's fingerprint: what nodes compare in a hello
  std::shared_ptr<const WeightManifest> manifest;  // the head's; null without a cluster file
  std::shared_ptr<NodeWeights> weights;            // where this node takes weights from; null: from `file`
  ModelConfig model;
  std::vector<LoraFile> adapters;                             // in the order of the cluster file
  std::vector<std::shared_ptr<NodeWeights>> adapter_weights;  // as `weights`, of each adapter
  std::unique_ptr<Tokenizer> tokenizer;                       // head only
  // What runs, of which the io thread puts another where devices come or go (layout_now() for other threads).
  PlanInput plan_input;  // head only
  Plan plan;
  PipelineLayout layout;
  const Kernels* kernels = nullptr;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<AheadFetch> ahead;  // null where this node fetches nothing
  std::unique_ptr<StageFactory> stages;
  std::atomic<bool> loaded{false};  // for the first time
  std::unique_ptr<Node> node;
  std::unique_ptr<AheadOrders> ahead_orders;  // not on the head
  std::unique_ptr<Fidelity> fidelity;         // head only, where the plan predicts anything; the io thread's
  std::unique_ptr<Coordinator> coordinator;
  std::unique_ptr<PipelineKeeper> keeper;                  // head only, where there is more than one node
  std::unique_ptr<Verifier> verifier;                      // head only, with --verify
  std::function<void(const PipelineLayout&)> on_laid_out;  // the io thread's: told of each later layout
  bool is_head() const { return coordinator != nullptr; }
  const NodeConfig& this_node() const { return config.nodes[static_cast<size_t>(config.node_index(name))]; }
};

// From any thread but the io thread.
PipelineLayout layout_now(const Cluster& cluster);

// A cluster of one for a model file and no cluster file: all memory of this device. `context` 0: chosen when
// the model is known.
ClusterConfig single_node_config(const std::string& model, int context, int sequences, int threads);

// Through the plan only: `cluster.plan` and `cluster.plan_input` are filled on the head.
void plan_cluster(Cluster& cluster, Bootstrap& bootstrap, const ClusterOptions& options);

// The whole way: when it returns, the head can submit requests and the workers serve.
void start_cluster(Cluster& cluster, Bootstrap& bootstrap, const ClusterOptions& options);

}  // namespace shoal
