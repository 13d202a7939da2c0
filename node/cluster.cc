#include "node/cluster.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <sstream>

#include "base/units.h"
#include "base/version.h"
#include "node/cluster_measure.h"
#include "node/cluster_weights.h"
#include "node/enrolment.h"
#include "node/memory_check.h"
#include "node/plan_inputs.h"
#include "node/process_memory.h"
#include "node/progress.h"
#include "planner/cost_model.h"
#include "tensor/blas.h"

namespace shoal {
namespace {

constexpr int kContextMin = 16, kContextUnsaid = 4096;

// Runs one part of the set-up and tells all ranks how it went; throws everywhere if it failed anywhere.
template <class Body>
std::vector<std::string> together(Bootstrap& bootstrap, const std::string& name, Body&& body) {
  RankReport report;
  try {
    report.payload = body();
  } catch (const SetupError& error) {
    report.error = bootstrap.size() > 1 ? fmt::format("node {}: {}", name, error.what()) : error.what();
    report.exit_code = error.exit_code();
  } catch (const std::bad_alloc&) {
    report = {"", fmt::format("node {}: out of memory", name), kExitFailed};
  } catch (const std::exception& error) {  // whatever it is, the others must not wait for this rank
    report = {"", fmt::format("node {}: {}", name, error.what()), kExitFailed};
  }
  return agree(bootstrap, report);
}

// Which node this process is: --node, or the rank's place in the cluster file.
void name_this_node(Cluster& cluster, Bootstrap& bootstrap, const ClusterOptions& options) {
  const ClusterConfig& config = cluster.config;
  RankReport report;  // without a rank's name: where all say the same it is told once
  if (static_cast<size_t>(bootstrap.size()) != config.nodes.size()) {
    report.exit_code = kExitUsage;
    report.error =
        fmt::format("{} lists {} node{} but {} process{} started: run it with mpirun -n {}", config.path,
                    config.nodes.size(), config.nodes.size() == 1 ? "" : "s", bootstrap.size(),
                    bootstrap.size() == 1 ? " was" : "es were", config.nodes.size());
  }
  (void)agree(bootstrap, report);
  const std::string rank_name = fmt::format("rank {}", bootstrap.rank());
  const std::vector<std::string> names = together(bootstrap, rank_name, [&] {
    cluster.name = options.node_name.empty() ? config.nodes[static_cast<size_t>(bootstrap.rank())].name
                                             : options.node_name;
    if (config.node_index(cluster.name) < 0) {
      throw SetupError(fmt::format("--node {}: {} lists no such node", cluster.name, config.path));
    }
    if ((cluster.name == config.head) != (bootstrap.rank() == 0)) {
      throw SetupError(
          fmt::format("the head {} must be rank 0 of mpirun, and {} is rank {}: put the head first in "
                      "nodes",
                      config.head, cluster.name, bootstrap.rank()));
    }
    return cluster.name;
  });
  for (size_t i = 0; i < names.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (names[i] == names[j]) {
        const std::string text =
            fmt::format("ranks {} and {} are both node {}: give each another --node", j, i, names[i]);
        (void)agree(bootstrap, {"", text, kExitUsage});
      }
    }
  }
}

// Everybody gets the head's manifest; whoever has no model file goes by its header.
void share_manifest(Cluster& cluster, Bootstrap& bootstrap, int threads) {
  (void)together(bootstrap, cluster.name, [&] {
    if (bootstrap.rank() == 0) cluster.manifest = make_manifest(*cluster.file, threads);
    return std::string();
  });
  std::string bytes;
  if (cluster.manifest) {
    const std::span<const std::byte> mine = cluster.manifest->bytes();
    bytes.assign(reinterpret_cast<const char*>(mine.data()), mine.size());
  }
  bytes = bootstrap.broadcast(bytes);
  (void)together(bootstrap, cluster.name, [&] {
    if (!cluster.manifest) {
      const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
      cluster.manifest = std::make_shared<const WeightManifest>(
          WeightManifest::parse({data, data + bytes.size()}, cluster.config.model));
    }
    set_up_weights(cluster);
    return std::string();
  });
}

// All ranks must have the same cluster file and program, and the same model where they have one; says which
// one differs from the head and how. Where there are several, the head's manifest goes to all.
void agree_on_inputs(Cluster& cluster, Bootstrap& bootstrap, int threads) {
  const bool is_head = bootstrap.rank() == 0;
  const std::vector<std::string> all = together(bootstrap, cluster.name, [&] {
    cluster.file = open_model(cluster, is_head);
    return fmt::format("{}\n{}\n{}\n{}", kVersion, sha256_hex(cluster.config.canonical()),
                       cluster.file ? cluster.file->fingerprint() : "", cluster.name);
  });
  RankReport report;
  auto field = [](const std::string& text, int i) {
    size_t begin = 0;
    while (i-- > 0) begin = text.find('\n', begin) + 1;
    return text.substr(begin, text.find('\n', begin) - begin);
  };
  static constexpr const char* kWhat[] = {"another version of shoal", "another cluster file",
                                          "another model file"};
  for (const std::string& one : all) {
    for (int i = 0; i < 3; ++i) {
      if (field(one, i) == field(all[0], i) || field(one, i).empty()) continue;
      if (!is_head || !report.error.empty()) continue;  // the head says it, of the first
      report.error = fmt::format(
          "node {} has {} than the head {}: give both the same{}", field(one, 3), kWhat[i],
          cluster.config.head,
          i == 2 ? " (" + cluster.config.model + "), or remove it there: the node fetches what it needs"
                 : "");
      report.exit_code = kExitUsage;
    }
  }
  (void)agree(bootstrap, report);
  cluster.model_hash = field(all[0], 2);
  if (bootstrap.size() > 1) share_manifest(cluster, bootstrap, threads);
  (void)together(bootstrap, cluster.name, [&] {
    cluster.model = ModelConfig::from(*cluster.file);
    if (cluster.config.context == 0)  // neither a cluster file nor --context says
      cluster.config.context = std::clamp(cluster.model.n_ctx_train, kContextMin, kContextUnsaid);
    if (is_head) cluster.tokenizer = std::make_unique<Tokenizer>(Tokenizer::from(*cluster.file));
    return std::string();
  });
  if (is_head && cluster.config.context > cluster.model.n_ctx_train) {
    spdlog::warn(
        "the context is {} tokens and the model was trained on {}: what goes beyond is likely to make no "
        "sense (--context, or context: in the cluster file)",
        cluster.config.context, cluster.model.n_ctx_train);
  }
}

// Says where the cluster file promises memory that is not there.
void warn_of_memory(const Cluster& cluster, Bootstrap& bootstrap) {
  const std::vector<std::string> all =
      bootstrap.all_gather(fmt::format("{} {} {}", cluster.name, device_memory(), host_name()));
  if (bootstrap.rank() != 0) return;
  std::vector<NodeMemory> nodes;
  for (const std::string& text : all) {
    NodeMemory node;
    std::istringstream(text) >> node.node >> node.device_bytes >> node.host;
    const int index = cluster.config.node_index(node.node);
    node.promised_bytes = cluster.config.nodes[static_cast<size_t>(index)].memory_bytes;
    nodes.push_back(node);
  }
  for (const std::string& warning : memory_warnings(nodes, cluster.config.path)) spdlog::warn("{}", warning);
}

int threads_of(const Cluster& cluster, const ClusterOptions& options) {
  const NodeConfig& node = cluster.this_node();
  if (options.threads > 0) return options.threads;
  return node.threads > 0 ? node.threads : device_processors();
}

// Who this node is to the others, as certified by the head; nobody in particular with --insecure.
std::shared_ptr<const TlsContext> identify(Cluster& cluster, Bootstrap& bootstrap) {
  const ClusterConfig& config = cluster.config;
  if (!config.insecure) {
    const std::string directory = config.path.empty() ? "" : authority_directory(config.cluster);
    return enrol(bootstrap, config.cluster, cluster.name, directory);
  }
  if (bootstrap.rank() == 0) {
    spdlog::warn(
        "--insecure: links between nodes are not encrypted, and nobody has to show who they are: whoever "
        "reaches the nodes' ports can read activations and send some");
  }
  return nullptr;
}

std::map<std::string, Endpoint> share_endpoints(Cluster& cluster, Bootstrap& bootstrap) {
  const std::shared_ptr<const TlsContext> tls = identify(cluster, bootstrap);
  const std::vector<std::string> all = together(bootstrap, cluster.name, [&] {
    const NodeConfig& node = cluster.this_node();
    const NodeIdentity identity{cluster.config.cluster, cluster.name, cluster.model_hash,
                                cluster.kernels->numeric_class, tls};
    try {
      cluster.node = std::make_unique<Node>(identity, node.address, node.port);
    } catch (const SetupError& error) {
      throw SetupError(cluster.config.path.empty()
                           ? error.what()
                           : fmt::format("nodes.{}.address: {}", node.name, error.what()),
                       error.exit_code());
    }
    if (cluster.weights) {
      cluster.weights->set_tls(tls);
      cluster.node->offer_weights(cluster.weights);
    }
    return fmt::format("{} {} {}", cluster.name, node.address, cluster.node->port());
  });
  std::map<std::string, Endpoint> endpoints;
  for (const std::string& text : all) {
    const size_t first = text.find(' '), second = text.rfind(' ');
    endpoints[text.substr(0, first)] = {text.substr(first + 1, second - first - 1),
                                        static_cast<uint16_t>(std::stoi(text.substr(second + 1)))};
  }
  return endpoints;
}

// The plan for the objective, or where the cluster file has targets the best one that meets them.
Plan plan_for_targets(const PlanConfig& config, const PlanInput& input) {
  const Targets targets = targets_of(config);
  if (!targets.any()) return make_plan(input);
  return choose_for_targets(std::span(&input, 1), targets).candidate.plan;
}

PipelineLayout layout_of(const Cluster& cluster, const std::map<std::string, Endpoint>& endpoints) {
  PipelineLayout layout;
  for (const StageAssignment& stage : cluster.plan.stages) {
    layout.node_of_stage.push_back(cluster.config.nodes[static_cast<size_t>(stage.device)].name);
    layout.shard_of_stage.push_back({stage.embedding, {stage.layer_begin, stage.layer_end}, stage.output});
  }
  layout.head = cluster.config.head;
  layout.endpoints = endpoints;
  layout.plan_hash =
      sha256_hex(canonical_plan_text(cluster.plan) + "kv-cache " + kv_cache_name(cluster.config.kv_cache) +
                 fmt::format(" cells {}", cluster.config.kv_cells));
  layout.rows_max = rows_of_step(cluster.model, cluster.config.context);
  layout.inputs = input_rows(cluster.model, cluster.config.context);
  layout.decodes = cluster.model.decodes();
  layout.decoder_start_token = cluster.model.decoder_start_token;
  layout.n_embd = cluster.model.n_embd;
  layout.n_vocab = cluster.model.n_vocab;
  layout.context = cluster.config.context;
  layout.slots = cluster.config.sequences;
  layout.kv_cells = cluster.config.kv_cells;
  if (layout.node_of_stage.size() > 1) {
    layout.step_deadline_s = cluster.config.stall_timeout_s > 0
                                 ? cluster.config.stall_timeout_s
                                 : std::max(30.0, 10 * cluster.plan.predicted.first_token_seconds);
  }
  layout.steps_in_flight_max = steps_in_flight_most(cluster.plan.stages.size());
  return layout;
}

SchedulerLimits scheduler_limits(const PipelineLayout& layout) {
  SchedulerLimits limits;
  limits.steps_in_flight_max = layout.steps_in_flight_max;
  limits.rows_max = layout.rows_max;
  return limits;
}

// What the plan expects of the pipeline. A cluster of one measured nothing: a guess, which its first steps
// correct.
PipelineModel pipeline_model(const Cluster& cluster) {
  if (cluster.plan_input.devices.empty()) {
    std::array<double, StageModel::kRows.size()> seconds;
    for (size_t i = 0; i < seconds.size(); ++i) seconds[i] = 10e-3 + 1e-3 * StageModel::kRows[i];
    return PipelineModel({StageModel(seconds)}, 100e-6, 0);
  }
  const CostModel cost(cluster.plan_input);
  std::vector<StageModel> stages;
  double hops_s = 0, hops_row_s = 0;
  for (const StageAssignment& stage : cluster.plan.stages) {
    std::array<double, StageModel::kRows.size()> seconds;
    for (size_t i = 0; i < seconds.size(); ++i) {
      const int rows = static_cast<int>(StageModel::kRows[i]);
      seconds[i] = rows < kPrefillChunkRows ? cost.compute_seconds(stage.device, unit_range(stage), rows)
                                            : cost.prefill_seconds(stage.device, unit_range(stage), rows);
      if (i > 0) seconds[i] = std::max(seconds[i], seconds[i - 1]);
    }
    stages.emplace_back(seconds);
    const double row_s = stage.full_hop_in_seconds / cluster.config.sequences;
    hops_s += std::max(0.0, stage.hop_in_seconds - row_s);
    hops_row_s += row_s;
  }
  hops_s += cluster.plan.stages.back().hop_out_seconds;
  return PipelineModel(std::move(stages), hops_s, hops_row_s);
}

std::vector<std::pair<int, std::unique_ptr<Stage>>> make_stages(Cluster& cluster,
                                                                const PipelineLayout& layout) {
  std::vector<std::pair<int, std::unique_ptr<Stage>>> stages;
  std::shared_ptr<const WeightMatrix> embedding;
  for (int i = 0; i <= layout.last_stage(); ++i) {
    if (layout.node_of_stage[static_cast<size_t>(i)] != cluster.name) continue;
    const ShardSpec& spec = layout.shard_of_stage[static_cast<size_t>(i)];
    ProgressLine progress(
        fmt::format("{}: loading layers {}-{}", cluster.name, spec.layers.begin, spec.layers.end - 1));
    ShardWeights weights = load_shard(
        *cluster.file, cluster.model, spec, *cluster.pool,
        [&](uint64_t done, uint64_t total) { progress.update(done, total); }, embedding,
        cluster.weights.get());
    if (weights.token_embd) embedding = weights.token_embd;
    const StageOptions options{layout.context, layout.slots, layout.rows_max, cluster.config.kv_cache,
                               layout.kv_cells};
    stages.emplace_back(i, std::make_unique<Stage>(cluster.model, std::move(weights), options,
                                                   *cluster.kernels, *cluster.pool));
  }
  return stages;
}

// Everybody says which tensors it has, so that those who lack some know whom to ask.
void find_weight_peers(Cluster& cluster, Bootstrap& bootstrap) {
  if (!cluster.weights) return;
  std::map<std::string, std::string> inventories;
  for (const std::string& text : bootstrap.all_gather(cluster.name + " " + cluster.weights->inventory()))
    inventories[text.substr(0, text.find(' '))] = text.substr(text.find(' ') + 1);
  cluster.weights->set_peers(weight_peers(cluster, cluster.layout.endpoints, inventories));
}

// Says once what a class that leaves the contract gives up.
void tell_numeric_class(const Cluster& cluster) {
  if (cluster.kernels->numeric_class == std::string_view("exact")) return;
  spdlog::warn(
      "numeric class '{}' ({}): products of float weights are summed as the library likes, so an answer may "
      "depend on the plan, the batches and the processor; quantised weights are computed as in 'exact'",
      cluster.kernels->numeric_class, blas_description());
}

// Every node chooses a table of its own, all of one numeric class.
void choose_kernels(Cluster& cluster, Bootstrap& bootstrap, const ClusterOptions& options) {
  const std::vector<std::string> classes = together(bootstrap, cluster.name, [&] {
    const NodeConfig& node = cluster.this_node();
    cluster.kernels = &select_kernels(options.kernels.empty() ? node.kernels : options.kernels);
    return fmt::format("{} {}", cluster.name, cluster.kernels->numeric_class);
  });
  const auto class_of = [](const std::string& text) { return text.substr(text.rfind(' ') + 1); };
  for (const std::string& text : classes) {
    if (class_of(text) == class_of(classes[0])) continue;
    (void)agree(bootstrap,
                {"",
                 fmt::format("node {} computes in numeric class '{}', the head {} in '{}': give all nodes "
                             "kernels of one class (kernels: blas for all nodes, or for none)",
                             text.substr(0, text.rfind(' ')), class_of(text), cluster.config.head,
                             class_of(classes[0])),
                 kExitUsage});
  }
  if (bootstrap.rank() == 0) tell_numeric_class(cluster);
}

std::map<std::string, Endpoint> plan_and_listen(Cluster& cluster, Bootstrap& bootstrap,
                                                const ClusterOptions& options) {
  name_this_node(cluster, bootstrap, options);
  agree_on_inputs(cluster, bootstrap, threads_of(cluster, options));
  warn_of_memory(cluster, bootstrap);
  choose_kernels(cluster, bootstrap, options);
  (void)together(bootstrap, cluster.name,
                 [&] {  // what is wrong with the request is said before anything is measured
                   complete_plan_input(cluster.config, *cluster.file, cluster.model, cluster.plan_input);
                   return std::string();
                 });
  const std::map<std::string, Endpoint> endpoints = share_endpoints(cluster, bootstrap);
  PlanInput& input = cluster.plan_input;
  input.devices = measure_devices(cluster, bootstrap, threads_of(cluster, options));
  input.links = measure_links(cluster, bootstrap, endpoints);
  const std::vector<std::string> plans = together(bootstrap, cluster.name, [&] {
    if (bootstrap.rank() != 0) return std::string();
    return plan_to_json(plan_for_targets(cluster.config.plan, cluster.plan_input));
  });
  Result<Plan> plan = plan_from_json(plans[0]);
  if (plan.has_error()) throw SetupError("the head sent no valid plan: " + plan.error().message, kExitFailed);
  cluster.plan = *plan;
  return endpoints;
}

// A cluster of one has nothing to measure and nothing to choose; the model must fit, that is all.
std::map<std::string, Endpoint> plan_for_one(Cluster& cluster, Bootstrap& bootstrap,
                                             const ClusterOptions& options) {
  cluster.name = cluster.config.head;
  agree_on_inputs(cluster, bootstrap, threads_of(cluster, options));
  cluster.kernels = &select_kernels(options.kernels);
  tell_numeric_class(cluster);
  const ModelProfile model =
      make_model_profile(*cluster.file, cluster.model, cluster.config, threads_of(cluster, options));
  const uint64_t weights =
      shard_bytes(*cluster.file, cluster.model, {true, {0, cluster.model.n_layer}, true});
  const uint64_t kv = std::accumulate(model.layer_kv_bytes.begin(), model.layer_kv_bytes.end(), uint64_t{0});
  const uint64_t rest = model.scratch_bytes + model.scratch_output_bytes + model.base_bytes;
  const uint64_t budget = cluster.this_node().memory_bytes;
  if (weights + kv + rest > budget) {
    throw SetupError(fmt::format(
        "{} needs {} (weights {}, KV cache {}, the rest {}) and this device has {}: lower "
        "--context or --kv-cells, take --kv-cache q8_0, take a smaller model, or share it with other devices "
        "(-c CLUSTER.yaml)",
        cluster.config.model, format_bytes(weights + kv + rest), format_bytes(weights), format_bytes(kv),
        format_bytes(rest), format_bytes(budget)));
  }
  StageAssignment all;
  all.embedding = all.output = true;
  all.layer_end = cluster.model.n_layer;
  cluster.plan.stages = {all};
  cluster.plan.devices = {cluster.name};
  cluster.plan.n_layer = cluster.model.n_layer;
  return share_endpoints(cluster, bootstrap);
}

}  // namespace

ClusterConfig single_node_config(const std::string& model, int context, int sequences, int threads) {
  ClusterConfig config;
  config.model = model;
  config.context = context;
  config.sequences = sequences;
  NodeConfig node;
  node.name = "local";
  node.memory_bytes = device_memory();
  node.threads = threads;
  config.nodes.push_back(node);
  config.head = node.name;
  return config;
}

void plan_cluster(Cluster& cluster, Bootstrap& bootstrap, const ClusterOptions& options) {
  (void)plan_and_listen(cluster, bootstrap, options);
}

void start_cluster(Cluster& cluster, Bootstrap& bootstrap, const ClusterOptions& options) {
  std::map<std::string, Endpoint> endpoints;
  if (cluster.config.path.empty()) {
    endpoints = plan_for_one(cluster, bootstrap, options);
  } else {
    endpoints = plan_and_listen(cluster, bootstrap, options);
    if (bootstrap.rank() == 0 && options.show_plan) {
      std::fputs(render_explanation(cluster.plan_input, cluster.plan).c_str(), stderr);
    }
  }
  cluster.layout = layout_of(cluster, endpoints);
  find_weight_peers(cluster, bootstrap);
  (void)together(bootstrap, cluster.name, [&] {
    const int threads = threads_of(cluster, options);
    if (threads > device_processors()) {
      spdlog::warn("{} threads on {} processors: more than one a processor only slows down", threads,
                   device_processors());
    }
    cluster.pool = std::make_unique<ThreadPool>(threads, cluster.this_node().pin);
    fetch_weights(cluster, cluster.layout);
    cluster.node->load(cluster.layout, [&] { return make_stages(cluster, cluster.layout); });
    return std::string();
  });
  (void)together(bootstrap, cluster.name, [&] {
    cluster.node->connect();
    if (bootstrap.rank() != 0) return std::string();
    cluster.coordinator =
        std::make_unique<Coordinator>(*cluster.node, cluster.layout, scheduler_limits(cluster.layout),
                                      pipeline_model(cluster), cluster.tokenizer.get());
    if (!cluster.plan_input.devices.empty()) {
      cluster.fidelity = std::make_unique<Fidelity>(cluster.plan_input, cluster.plan,
                                                    std::min(kRowsOfStep, cluster.config.sequences));
      cluster.coordinator->set_fidelity(cluster.fidelity.get());
    }
    return std::string();
  });
}

}  // namespace shoal
