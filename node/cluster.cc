#include "node/cluster.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <spdlog/spdlog.h>
#include <boost/json.hpp>

#include <algorithm>
#include <cstdio>

#include "base/version.h"
#include "node/probe.h"
#include "node/process_memory.h"
#include "node/progress.h"

namespace shoal {
namespace {

constexpr uint64_t kProcessBytes =
    40u << 20;  // a process before it holds any of the model: program, libraries, heap
constexpr int kRowsOfStep = 128;

std::string sha256_hex(const std::string& text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(text.data(), text.size(), digest, &size, EVP_sha256(), nullptr);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

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
    report.error = fmt::format("node {}: out of memory", name);
    report.exit_code = kExitFailed;
  }
  return agree(bootstrap, report);
}

// Which node this process is: --node, or the rank's place in the cluster file.
void name_this_node(Cluster& cluster, Bootstrap& bootstrap, const ClusterOptions& options) {
  const std::string rank_name = fmt::format("rank {}", bootstrap.rank());
  const std::vector<std::string> names = together(bootstrap, rank_name, [&] {
    const ClusterConfig& config = cluster.config;
    if (static_cast<size_t>(bootstrap.size()) != config.nodes.size()) {
      throw SetupError(fmt::format("{} lists {} node{} but {} process{} started: run it with mpirun -n {}",
                                   config.path, config.nodes.size(), config.nodes.size() == 1 ? "" : "s",
                                   bootstrap.size(), bootstrap.size() == 1 ? " was" : "es were",
                                   config.nodes.size()));
    }
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

// All ranks must have the same cluster file, program and model; says which one differs from the head and how.
void agree_on_inputs(Cluster& cluster, Bootstrap& bootstrap) {
  const std::vector<std::string> all = together(bootstrap, cluster.name, [&] {
    cluster.file = std::make_unique<GgufFile>(GgufFile::open(cluster.config.model));
    cluster.model = ModelConfig::from(*cluster.file);
    return fmt::format("{}\n{}\n{}\n{}", kVersion, sha256_hex(cluster.config.canonical()),
                       cluster.file->fingerprint(), cluster.name);
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
      if (field(one, i) == field(all[0], i)) continue;
      report.error =
          fmt::format("node {} has {} than the head {}: give both the same{}", field(one, 3), kWhat[i],
                      cluster.config.head, i == 2 ? " (" + cluster.config.model + ")" : "");
      report.exit_code = kExitUsage;
    }
  }
  (void)agree(bootstrap, report);
}

int threads_of(const Cluster& cluster, const ClusterOptions& options) {
  const NodeConfig& node = cluster.config.nodes[static_cast<size_t>(cluster.config.node_index(cluster.name))];
  if (options.threads > 0) return options.threads;
  return node.threads > 0 ? node.threads : device_processors();
}

// Ranks of one host measure in turns, since they would disturb each other; hosts measure at the same time.
std::vector<DeviceProfile> measure_devices(Cluster& cluster, Bootstrap& bootstrap,
                                           const ClusterOptions& options) {
  const std::vector<std::string> hosts = bootstrap.all_gather(host_name());
  int my_turn = 0, turns = 1;
  for (int rank = 0; rank < bootstrap.size(); ++rank) {
    const std::string& host = hosts[static_cast<size_t>(rank)];
    if (rank < bootstrap.rank() && host == hosts[static_cast<size_t>(bootstrap.rank())]) ++my_turn;
    turns = std::max(turns, static_cast<int>(std::count(hosts.begin(), hosts.end(), host)));
  }
  const NodeConfig& node = cluster.config.nodes[static_cast<size_t>(cluster.config.node_index(cluster.name))];
  RankReport report;
  for (int turn = 0; turn < turns; ++turn) {
    if (turn == my_turn) {
      try {
        const ProbeOptions probe{threads_of(cluster, options), cluster.config.context, node.memory_bytes};
        DeviceProfile profile = probe_device(*cluster.file, cluster.model, *cluster.kernels, probe);
        profile.name = cluster.name;
        report.payload = device_profile_to_json(profile);
      } catch (const SetupError& error) {
        report = {"", fmt::format("node {}: {}", cluster.name, error.what()), error.exit_code()};
      }
    }
    bootstrap.barrier();
  }
  std::vector<DeviceProfile> profiles(cluster.config.nodes.size());
  for (const std::string& text : agree(bootstrap, report)) {
    Result<DeviceProfile> profile = device_profile_from_json(text);
    if (profile.has_error())
      throw SetupError("a node sent no valid profile: " + profile.error().message, kExitFailed);
    profiles[static_cast<size_t>(cluster.config.node_index(profile->name))] = *profile;
  }
  return profiles;
}

std::map<std::string, Endpoint> share_endpoints(Cluster& cluster, Bootstrap& bootstrap) {
  const std::vector<std::string> all = together(bootstrap, cluster.name, [&] {
    const NodeConfig& node =
        cluster.config.nodes[static_cast<size_t>(cluster.config.node_index(cluster.name))];
    const NodeIdentity identity{cluster.config.cluster, cluster.name, cluster.file->fingerprint()};
    cluster.node = std::make_unique<Node>(identity, node.address, node.port);
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

const LinkConfig* find_link(const ClusterConfig& config, const std::string& a, const std::string& b) {
  for (const LinkConfig& link : config.links) {
    if ((link.a == a && link.b == b) || (link.a == b && link.b == a)) return &link;
  }
  return nullptr;
}

// Every pair both ways, unless the cluster file gives it. Pairs of one round share no node, as in a
// tournament, so that n nodes take n - 1 rounds and no measurement disturbs another.
void measure_links(Cluster& cluster, Bootstrap& bootstrap, const std::map<std::string, Endpoint>& endpoints,
                   PlanInput& input) {
  const ClusterConfig& config = cluster.config;
  const int n = static_cast<int>(config.nodes.size()), even = n + n % 2;
  const int me = config.node_index(cluster.name);
  input.links = LinkTable(n, LinkProfile{});
  boost::json::array mine;
  std::string error;
  for (int round = 0; round < even - 1; ++round) {
    // The circle method: the last node stays, the others turn.
    auto opponent = [&](int i) {
      if (i == even - 1) return round * (even / 2) % (even - 1);
      const int other = ((round - i) % (even - 1) + even - 1) % (even - 1);
      return other == i ? even - 1 : other;
    };
    const int other = opponent(me);
    for (const int direction : {0, 1}) {  // the lower index first
      if (other < n && (me < other) == (direction == 0)) {
        const NodeConfig& peer = config.nodes[static_cast<size_t>(other)];
        const LinkConfig* given = find_link(config, cluster.name, peer.name);
        LinkProfile link;
        if (given == nullptr || !given->bytes_per_second || !given->latency_s) {
          const Result<LinkProfile> measured = cluster.node->measure_link(peer.name, endpoints.at(peer.name));
          if (measured.has_error()) {
            error = fmt::format("node {} cannot reach {} at {}:{}: {}", cluster.name, peer.name,
                                endpoints.at(peer.name).address, endpoints.at(peer.name).port,
                                measured.error().message);
          } else {
            link = *measured;
          }
        }
        if (given != nullptr && given->bytes_per_second) link.bytes_per_s = *given->bytes_per_second;
        if (given != nullptr && given->latency_s) link.latency_s = *given->latency_s;
        mine.push_back(
            {{"from", me}, {"to", other}, {"latency", link.latency_s}, {"rate", link.bytes_per_s}});
      }
      bootstrap.barrier();
    }
  }
  RankReport report{boost::json::serialize(mine), error, error.empty() ? 0 : kExitFailed};
  for (const std::string& text : agree(bootstrap, report)) {
    const boost::json::value measured = boost::json::parse(text);
    for (const boost::json::value& value : measured.as_array()) {
      input.links.set(static_cast<int>(value.at("from").as_int64()),
                      static_cast<int>(value.at("to").as_int64()),
                      {value.at("latency").to_number<double>(), value.at("rate").to_number<double>()});
    }
  }
}

void fill_constraints(const ClusterConfig& config, int n_layer, PlanInput& input) {
  input.objective = parse_objective(config.plan.objective);
  input.workload.concurrency = config.sequences;
  input.constraints.head = config.head_index();
  input.constraints.keep_on_head = parse_keep_on_head(config.plan.keep_on_head);
  for (const auto& [node, range] : config.plan.layers) {
    if (range.last >= n_layer) {
      throw SetupError(fmt::format("{}: plan.layers.{}: {}-{} goes beyond the model's last layer, {}",
                                   config.path, node, range.first, range.last, n_layer - 1));
    }
    input.constraints.manual.push_back({config.node_index(node), range.first, range.last + 1});
  }
}

PipelineLayout layout_of(const Cluster& cluster, const std::map<std::string, Endpoint>& endpoints) {
  PipelineLayout layout;
  for (const StageAssignment& stage : cluster.plan.stages) {
    layout.node_of_stage.push_back(cluster.config.nodes[static_cast<size_t>(stage.device)].name);
    layout.shard_of_stage.push_back({stage.embedding, {stage.layer_begin, stage.layer_end}, stage.output});
  }
  layout.head = cluster.config.head;
  layout.endpoints = endpoints;
  layout.plan_hash = sha256_hex(canonical_plan_text(cluster.plan));
  layout.rows_max = kRowsOfStep;
  layout.n_embd = cluster.model.n_embd;
  layout.n_vocab = cluster.model.n_vocab;
  layout.context = cluster.config.context;
  layout.slots = cluster.config.sequences;
  layout.steps_in_flight_max = static_cast<int>(cluster.plan.stages.size()) + 1;
  return layout;
}

SchedulerLimits scheduler_limits(const PipelineLayout& layout) {
  SchedulerLimits limits;
  limits.stages = layout.last_stage() + 1;
  limits.steps_in_flight_max = layout.steps_in_flight_max;
  limits.rows_max = layout.rows_max;
  // Small chunks keep many stages busy with one prompt; a single stage wants large ones.
  limits.chunk_rows = limits.stages == 1 ? layout.rows_max : limits.stages == 2 ? 64 : 32;
  limits.mixed_chunk_rows = std::min(32, limits.chunk_rows);
  return limits;
}

std::vector<std::pair<int, std::unique_ptr<Stage>>> make_stages(Cluster& cluster,
                                                                const PipelineLayout& layout) {
  std::vector<std::pair<int, std::unique_ptr<Stage>>> stages;
  std::shared_ptr<const WeightMatrix> embedding;
  for (int i = 0; i <= layout.last_stage(); ++i) {
    if (layout.node_of_stage[static_cast<size_t>(i)] != cluster.name) continue;
    const ShardSpec& spec = layout.shard_of_stage[static_cast<size_t>(i)];
    ProgressLine progress(fmt::format("loading layers {}-{}", spec.layers.begin, spec.layers.end - 1));
    ShardWeights weights = load_shard(
        *cluster.file, cluster.model, spec, *cluster.pool,
        [&](uint64_t done, uint64_t total) { progress.update(done, total); }, embedding);
    if (weights.token_embd) embedding = weights.token_embd;
    const StageOptions options{layout.context, layout.slots, layout.rows_max};
    stages.emplace_back(i, std::make_unique<Stage>(cluster.model, std::move(weights), options,
                                                   *cluster.kernels, *cluster.pool));
  }
  return stages;
}

std::map<std::string, Endpoint> plan_and_listen(Cluster& cluster, Bootstrap& bootstrap,
                                                const ClusterOptions& options) {
  name_this_node(cluster, bootstrap, options);
  agree_on_inputs(cluster, bootstrap);
  (void)together(bootstrap, cluster.name, [&] {
    const NodeConfig& node =
        cluster.config.nodes[static_cast<size_t>(cluster.config.node_index(cluster.name))];
    cluster.kernels = &select_kernels(options.kernels.empty() ? node.kernels : options.kernels);
    return std::string();
  });
  const std::map<std::string, Endpoint> endpoints = share_endpoints(cluster, bootstrap);
  PlanInput& input = cluster.plan_input;
  input.devices = measure_devices(cluster, bootstrap, options);
  measure_links(cluster, bootstrap, endpoints, input);
  const std::vector<std::string> plans = together(bootstrap, cluster.name, [&] {
    if (bootstrap.rank() != 0) return std::string();
    complete_plan_input(cluster);
    return plan_to_json(make_plan(cluster.plan_input));
  });
  Result<Plan> plan = plan_from_json(plans[0]);
  if (plan.has_error()) throw SetupError("the head sent no valid plan: " + plan.error().message, kExitFailed);
  cluster.plan = *plan;
  return endpoints;
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

ModelProfile make_model_profile(const GgufFile& file, const ModelConfig& config, const ClusterConfig& cluster,
                                int threads) {
  const UnitBytes units = unit_bytes(file, config);
  ModelProfile profile;
  profile.name = config.name;
  profile.n_layer = config.n_layer;
  profile.n_embd = config.n_embd;
  profile.embedding_bytes = units.embedding;
  profile.layer_bytes = units.layers;
  for (int i = 0; i < config.n_layer; ++i) {
    profile.layer_kv_bytes.push_back(KvCache::bytes(config, i, i + 1, cluster.context, cluster.sequences));
  }
  profile.tied_output = config.tied_output;
  profile.output_bytes =
      config.tied_output ? static_cast<uint64_t>(config.n_embd) * sizeof(float) : units.output;
  profile.shared_bytes = units.shared;
  const StageOptions options{cluster.context, cluster.sequences, kRowsOfStep};
  const uint64_t buffers = static_cast<uint64_t>(kRowsOfStep) * static_cast<uint64_t>(config.n_embd) *
                           sizeof(float) * (cluster.nodes.size() + 2);
  profile.scratch_bytes =
      Stage::scratch_bytes(config, {false, {0, config.n_layer}, false}, options, threads) + buffers;
  const uint64_t with_output =
      Stage::scratch_bytes(config, {false, {0, config.n_layer}, true}, options, threads);
  profile.scratch_output_bytes = with_output + buffers - profile.scratch_bytes;
  profile.base_bytes = kProcessBytes;
  profile.hidden_bytes_per_row = static_cast<uint64_t>(config.n_embd) * sizeof(float);
  return profile;
}

void complete_plan_input(Cluster& cluster) {
  int threads = 1;  // scratch grows with threads: count the most that any node uses
  for (const NodeConfig& node : cluster.config.nodes) {
    threads = std::max(threads, node.threads > 0 ? node.threads : device_processors());
  }
  cluster.plan_input.model = make_model_profile(*cluster.file, cluster.model, cluster.config, threads);
  fill_constraints(cluster.config, cluster.model.n_layer, cluster.plan_input);
}

void plan_cluster(Cluster& cluster, Bootstrap& bootstrap, const ClusterOptions& options) {
  (void)plan_and_listen(cluster, bootstrap, options);
}

void start_cluster(Cluster& cluster, Bootstrap& bootstrap, const ClusterOptions& options) {
  std::map<std::string, Endpoint> endpoints;
  if (cluster.config.path.empty()) {  // a cluster of one has nothing to measure or to plan
    cluster.name = cluster.config.head;
    agree_on_inputs(cluster, bootstrap);
    cluster.kernels = &select_kernels(options.kernels);
    endpoints = share_endpoints(cluster, bootstrap);
    StageAssignment all;
    all.embedding = all.output = true;
    all.layer_end = cluster.model.n_layer;
    cluster.plan.stages = {all};
    cluster.plan.devices = {cluster.name};
    cluster.plan.n_layer = cluster.model.n_layer;
  } else {
    endpoints = plan_and_listen(cluster, bootstrap, options);
    if (bootstrap.rank() == 0 && options.show_plan) {
      std::fputs(render_explanation(cluster.plan_input, cluster.plan).c_str(), stderr);
    }
  }
  cluster.layout = layout_of(cluster, endpoints);
  (void)together(bootstrap, cluster.name, [&] {
    cluster.pool = std::make_unique<ThreadPool>(threads_of(cluster, options));
    cluster.node->load(cluster.layout, [&] { return make_stages(cluster, cluster.layout); });
    return std::string();
  });
  (void)together(bootstrap, cluster.name, [&] {
    cluster.node->connect();
    if (bootstrap.rank() != 0) return std::string();
    cluster.tokenizer = std::make_unique<Tokenizer>(Tokenizer::from(*cluster.file));
    cluster.coordinator = std::make_unique<Coordinator>(
        *cluster.node, cluster.layout, scheduler_limits(cluster.layout), cluster.tokenizer.get());
    return std::string();
  });
}

}  // namespace shoal
