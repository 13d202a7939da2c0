#include "node/cluster.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <sstream>

#include "base/units.h"
#include "base/version.h"
#include "model/sha256.h"
#include "node/cluster_measure.h"
#include "node/cluster_verify.h"
#include "node/cluster_weights.h"
#include "node/enrolment.h"
#include "node/memory_check.h"
#include "node/names_file.h"
#include "node/pipeline_setup.h"
#include "node/plan_inputs.h"
#include "node/process_memory.h"
#include "node/revocation.h"
#include "node/signed_plan.h"
#include "sharding/lora_shard.h"
#include "tensor/blas.h"
#include "tensor/known_answers.h"

namespace shoal {
namespace {

constexpr int kContextMin = 16, kContextUnsaid = 4096;
constexpr double kComebackPatience_s = 60;  // that a worker waits for a head that is gone

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

// All ranks must have the same cluster file and program, and the same model where they have one; says which
// one differs from the head and how. Where there is a cluster file, the head's manifest goes to all.
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
  const std::shared_ptr<const GgufFile> own = cluster.file;
  if (!cluster.config.path.empty()) {
    cluster.manifest =
        share_manifest(bootstrap, cluster.name, cluster.file.get(), cluster.config.model, threads);
    if (!own) cluster.file = {cluster.manifest, &cluster.manifest->model()};
  }
  (void)together(bootstrap, cluster.name, [&] {
    cluster.model = ModelConfig::from(*cluster.file);
    if (cluster.config.context == 0)  // neither a cluster file nor --context says
      cluster.config.context = std::clamp(cluster.model.n_ctx_train, kContextMin, kContextUnsaid);
    if (is_head) cluster.tokenizer = std::make_unique<Tokenizer>(Tokenizer::from(*cluster.file));
    return std::string();
  });
  agree_on_adapters(cluster, bootstrap, threads);
  if (cluster.manifest) set_up_weights(cluster, own);
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
Enrolment identify(Cluster& cluster, Bootstrap& bootstrap) {
  const ClusterConfig& config = cluster.config;
  if (!config.insecure) {
    const std::string directory = config.path.empty() ? "" : authority_directory(config.cluster);
    return enrol(bootstrap, config.cluster, cluster.name, directory, config.certificate_life());
  }
  if (bootstrap.rank() == 0) {
    spdlog::warn(
        "--insecure: links between nodes are not encrypted, plans are not signed, and nobody has to show who "
        "they are: whoever reaches the nodes' ports can read activations and send some");
  }
  return {};
}

std::map<std::string, Endpoint> share_endpoints(Cluster& cluster, Bootstrap& bootstrap) {
  const Enrolment enrolment = identify(cluster, bootstrap);
  const std::vector<std::string> all = together(bootstrap, cluster.name, [&] {
    const NodeConfig& node = cluster.this_node();
    const NodeIdentity identity{cluster.config.cluster, cluster.name, cluster.model_hash,
                                cluster.kernels->numeric_class, enrolment.tls};
    try {
      cluster.node = std::make_unique<Node>(identity, node.address, node.port);
    } catch (const SetupError& error) {
      throw SetupError(cluster.config.path.empty()
                           ? error.what()
                           : fmt::format("nodes.{}.address: {}", node.name, error.what()),
                       error.exit_code());
    }
    if (enrolment.authority)
      cluster.node->set_authority(enrolment.authority, cluster.config.certificate_life());
    offer_weights(cluster, enrolment.tls);
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

// What of a layout does not depend on the plan.
PipelineLayout base_of(const Cluster& cluster) {
  return layout_base(cluster.config, cluster.model, adapters_hash(cluster.adapter_weights));
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
                   check_verify(cluster);
                   complete_plan_input(cluster.config, *cluster.file, cluster.model, cluster.plan_input,
                                       cluster.adapters);
                   return std::string();
                 });
  const std::map<std::string, Endpoint> endpoints = share_endpoints(cluster, bootstrap);
  PlanInput& input = cluster.plan_input;
  input.devices = measure_devices(cluster, bootstrap, threads_of(cluster, options));
  (void)together(bootstrap, cluster.name, [&] { return keep_room_to_verify(cluster), std::string(); });
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
  const ModelProfile model = make_model_profile(*cluster.file, cluster.model, cluster.config,
                                                threads_of(cluster, options), cluster.adapters);
  uint64_t weights = shard_bytes(*cluster.file, cluster.model, {true, {0, cluster.model.n_layer}, true});
  for (const LoraFile& adapter : cluster.adapters)
    weights += lora_bytes(adapter, cluster.model, {0, cluster.model.n_layer});
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

// A node without the model's file fetches what it would get if another were lost, once it is told to.
void make_ahead_fetch(Cluster& cluster) {
  if (!cluster.weights || cluster.weights->has_file() || cluster.weights->cache() == nullptr) return;
  const Endpoint& head = cluster.layout.endpoints.at(cluster.config.head);
  WeightAsker asker{cluster.config.cluster, cluster.name, cluster.model_hash};
  asker.tls = cluster.node->identity().tls;
  cluster.ahead = std::make_unique<AheadFetch>(
      *cluster.weights, asker, WeightPeer{cluster.config.head, head.address, head.port}, cluster.model);
}

void make_factory(Cluster& cluster, const ClusterOptions& options) {
  const int threads = threads_of(cluster, options);
  if (threads > device_processors()) {
    spdlog::warn("{} threads on {} processors: more than one a processor only slows down", threads,
                 device_processors());
  }
  cluster.pool = std::make_unique<ThreadPool>(threads, cluster.this_node().pin);
  const auto on_progress = [node = cluster.node.get(), &cluster] {
    if (cluster.loaded) node->note_progress();
  };
  make_ahead_fetch(cluster);
  StageFactory::Source source{*cluster.file};
  source.adapters = cluster.adapters;
  source.adapter_weights = cluster.adapter_weights;
  if (cluster.weights) {
    source.blocks = cluster.weights.get();
    source.fetch = [&cluster, on_progress](const PipelineLayout& layout, const StageFactory::Needs& needs) {
      if (cluster.ahead) cluster.ahead->stop();
      if (cluster.loaded) set_peers(layout, cluster.name, *cluster.weights, cluster.adapter_weights);
      set_stop(needs.stop, *cluster.weights, cluster.adapter_weights);
      fetch_weights(*cluster.weights, cluster.name, cluster.model, needs.missing, on_progress);
      fetch_adapters(cluster.adapters, cluster.adapter_weights, cluster.name, cluster.model, needs.shards,
                     on_progress);
    };
  }
  cluster.stages = std::make_unique<StageFactory>(cluster.name, source, cluster.model, *cluster.kernels,
                                                  *cluster.pool, on_progress);
}

// What the node does with its engine from now on.
void keep_remaking(Cluster& cluster) {
  cluster.loaded = true;
  cluster.node->set_remake(
      [&cluster](const PipelineLayout& layout, Engine::Stages before, const std::stop_token& stop) {
        return cluster.stages->make(layout, std::move(before), stop);
      });
  cluster.node->set_examination([&cluster] { return wrong_answer(*cluster.kernels); });
}

// A worker whose head is lost waits for another at the same place, if that has a port that can be known.
void call_again(Cluster& cluster, const ClusterOptions& options) {
  const NodeConfig& head = cluster.config.nodes[static_cast<size_t>(cluster.config.head_index())];
  if (head.port == 0) return;
  Comeback comeback;
  comeback.head = {head.address, head.port};
  comeback.join.address = cluster.this_node().address;
  comeback.join.port = cluster.node->port();
  comeback.join.memory_bytes = cluster.this_node().memory_bytes;
  comeback.join.threads = static_cast<uint32_t>(threads_of(cluster, options));
  comeback.join.profile_json = device_profile_to_json(
      cluster.plan_input.devices[static_cast<size_t>(cluster.config.node_index(cluster.name))]);
  comeback.patience_s = kComebackPatience_s;
  cluster.node->set_comeback(comeback, /*now=*/false);
}

void compare_with_plan(Cluster& cluster) {
  cluster.coordinator->compare_with(nullptr);
  cluster.fidelity = std::make_unique<Fidelity>(cluster.plan_input, cluster.plan,
                                                std::min(kRowsOfStep, cluster.config.sequences));
  cluster.coordinator->compare_with(cluster.fidelity.get());
}

// On the head. Without a plan the coordinator waits for the keeper's first.
void start_coordinator(Cluster& cluster, const std::map<std::string, Endpoint>& endpoints) {
  const bool planned = !cluster.plan.stages.empty();
  PlanInput measured = cluster.plan_input;
  if (!planned) measured.devices.clear();
  cluster.coordinator = std::make_unique<Coordinator>(
      *cluster.node, cluster.layout, scheduler_limits(cluster.layout),
      pipeline_model(measured, cluster.plan, cluster.config.sequences), cluster.tokenizer.get());
  if (cluster.plan_input.devices.empty()) return;  // a cluster of one
  if (planned) cluster.node->call([&] { compare_with_plan(cluster); });
  PipelineKeeper::Settings settings;
  settings.config = cluster.config;
  settings.base = base_of(cluster);
  settings.known = cluster.plan_input;
  settings.endpoints = endpoints;
  if (!cluster.config.path.empty() && !cluster.config.insecure) {
    const std::string beside_authority = authority_directory(cluster.config.cluster);
    settings.revoked_file = revocations_file(beside_authority);
    settings.drained_file = drained_file(beside_authority);
  }
  cluster.keeper = std::make_unique<PipelineKeeper>(
      *cluster.node, *cluster.coordinator, settings, planned ? std::optional(cluster.plan) : std::nullopt,
      [&cluster](const PlanInput& live, const Plan& plan, const PipelineLayout& layout) {
        cluster.plan_input = live;
        cluster.plan = plan;
        cluster.layout = layout;
        compare_with_plan(cluster);
        if (cluster.on_laid_out) cluster.on_laid_out(layout);
      });
  start_verifier(cluster);
}

// The head alone, of a cluster file with several nodes: they join by address, and the first plan is made
// then.
void start_alone(Cluster& cluster, Bootstrap& bootstrap, const ClusterOptions& options) {
  cluster.name = cluster.config.head;
  agree_on_inputs(cluster, bootstrap, threads_of(cluster, options));
  cluster.kernels = &select_kernels(options.kernels.empty() ? cluster.this_node().kernels : options.kernels);
  tell_numeric_class(cluster);
  check_verify(cluster);
  complete_plan_input(cluster.config, *cluster.file, cluster.model, cluster.plan_input, cluster.adapters);
  const std::map<std::string, Endpoint> endpoints = share_endpoints(cluster, bootstrap);
  PlanInput& input = cluster.plan_input;
  input.devices = measure_devices(cluster, bootstrap, threads_of(cluster, options));
  for (size_t i = 0; i < input.devices.size(); ++i) {
    input.devices[i].name = cluster.config.nodes[i].name;
    input.devices[i].memory_bytes = cluster.config.nodes[i].memory_bytes;
  }
  keep_room_to_verify(cluster);
  input.links = LinkTable(static_cast<int>(input.devices.size()), LinkProfile{});
  cluster.layout = base_of(cluster);
  make_factory(cluster, options);
  cluster.node->load_nothing();
  keep_remaking(cluster);
  start_coordinator(cluster, endpoints);
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
  if (options.await_nodes) return start_alone(cluster, bootstrap, options);
  std::map<std::string, Endpoint> endpoints;
  if (cluster.config.path.empty()) {
    endpoints = plan_for_one(cluster, bootstrap, options);
  } else {
    endpoints = plan_and_listen(cluster, bootstrap, options);
    if (bootstrap.rank() == 0 && options.show_plan) {
      std::fputs(render_explanation(cluster.plan_input, cluster.plan).c_str(), stderr);
    }
  }
  cluster.layout = lay_out(base_of(cluster), cluster.plan, endpoints, cluster.config.stall_timeout_s);
  SharedPlan shared{cluster.layout, {}};
  if (bootstrap.size() > 1) shared = share_plan(bootstrap, cluster.node->identity(), cluster.layout);
  cluster.layout = shared.layout;
  find_weight_peers(cluster, bootstrap, cluster.layout.endpoints);
  (void)together(bootstrap, cluster.name, [&] {
    make_factory(cluster, options);
    cluster.node->load(
        cluster.layout, [&] { return cluster.stages->make(cluster.layout, {}); }, shared.order);
    keep_remaking(cluster);
    return std::string();
  });
  (void)together(bootstrap, cluster.name, [&] {
    cluster.node->connect();
    if (bootstrap.rank() == 0) {
      start_coordinator(cluster, endpoints);
    } else {
      call_again(cluster, options);
      cluster.ahead_orders =
          std::make_unique<AheadOrders>(*cluster.node, cluster.ahead.get(), cluster.model.n_layer);
    }
    return std::string();
  });
}

PipelineLayout layout_now(const Cluster& cluster) {
  return cluster.node->io().call([&] { return cluster.layout; });
}

}  // namespace shoal
