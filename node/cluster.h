// Bringing a cluster up: every process runs the same steps, and where one cannot go on all end together with
// one message.
//
//   read the cluster file -> agree on it and on the model -> measure devices and links -> plan -> load ->
//   connect
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "model/gguf_file.h"
#include "model/model_config.h"
#include "model/tokenizer.h"
#include "node/bootstrap.h"
#include "node/cluster_config.h"
#include "node/coordinator.h"
#include "node/node.h"
#include "node/node_weights.h"
#include "planner/planner.h"

namespace shoal {

struct ClusterOptions {
  std::string node_name;   // --node; empty: by rank
  std::string kernels;     // --kernels
  int threads = 0;         // --threads; 0: the cluster file's, then the device's
  bool show_plan = false;  // rank 0 prints the plan's explanation to stderr
};

// What a running process has. On the head the coordinator takes requests; elsewhere it is null.
struct Cluster {
  ClusterConfig config;
  std::string name;                      // of this node
  std::shared_ptr<const GgufFile> file;  // where this node has none: the manifest's header
  std::string model_hash;                // the head's file's fingerprint: what nodes compare in a hello
  std::shared_ptr<const WeightManifest> manifest;  // the head's; null in a cluster of one
  std::shared_ptr<NodeWeights> weights;            // where this node takes weights from; null: from `file`
  ModelConfig model;
  std::unique_ptr<Tokenizer> tokenizer;  // head only
  PlanInput plan_input;                  // head only
  Plan plan;
  PipelineLayout layout;
  const Kernels* kernels = nullptr;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Node> node;
  std::unique_ptr<Fidelity> fidelity;  // head only, where the plan predicts anything; the io thread's
  std::unique_ptr<Coordinator> coordinator;
  bool is_head() const { return coordinator != nullptr; }
  const NodeConfig& this_node() const { return config.nodes[static_cast<size_t>(config.node_index(name))]; }
};

// A cluster of one for a model file and no cluster file: all memory of this device. `context` 0: chosen when
// the model is known.
ClusterConfig single_node_config(const std::string& model, int context, int sequences, int threads);

// Through the plan only: `cluster.plan` and `cluster.plan_input` are filled on the head.
void plan_cluster(Cluster& cluster, Bootstrap& bootstrap, const ClusterOptions& options);

// The whole way: when it returns, the head can submit requests and the workers serve.
void start_cluster(Cluster& cluster, Bootstrap& bootstrap, const ClusterOptions& options);

}  // namespace shoal
