// shoal plan: what would run where, and why. Under mpirun every node measures itself and its links; alone,
// this device stands for all of them.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "base/small_file.h"
#include "node/command_support.h"
#include "node/plan_inputs.h"
#include "node/plan_report.h"
#include "node/probe.h"
#include "node/process_memory.h"
#include "planner/profile_json.h"
#include "planner/service.h"

namespace shoal {
namespace {

constexpr LinkProfile kAssumedLink{200e-6, 125e6};  // 0.2 ms, 1 Gbit/s

// The input for the whole cluster from this device's measurement alone.
void measure_alone(Cluster& cluster, const CommonFlags& common) {
  if (!cluster.config.model_missing.empty()) throw SetupError(cluster.config.model_missing);
  cluster.file = std::make_unique<GgufFile>(GgufFile::open(cluster.config.model));
  cluster.model = ModelConfig::from(*cluster.file);
  for (const AdapterConfig& adapter : cluster.config.adapters) {
    if (!adapter.missing.empty()) throw SetupError(adapter.missing);
    cluster.adapters.push_back(LoraFile::open(adapter.name, adapter.path, cluster.model));
  }
  cluster.kernels = &select_kernels(common.kernels);
  const int n = static_cast<int>(cluster.config.nodes.size());
  if (n > 1) {
    spdlog::info(
        "not under mpirun: all {} nodes are taken to be as fast as this one, and links that the cluster file "
        "does not give to have 1 Gbit/s and 0.2 ms",
        n);
  }
  PlanInput& input = cluster.plan_input;
  input.links = LinkTable(n, kAssumedLink);
  for (const NodeConfig& node : cluster.config.nodes) {
    const int threads = node.threads > 0 ? node.threads : device_processors();
    const ProbeOptions probe{threads, node.memory_bytes};
    // Nodes of the same memory and threads are the same device here, measured once.
    const auto same = [&](const DeviceProfile& d, size_t i) {
      return d.memory_bytes == node.memory_bytes && cluster.config.nodes[i].threads == node.threads;
    };
    DeviceProfile profile;
    bool known = false;
    for (size_t i = 0; i < input.devices.size() && !known; ++i) {
      if (same(input.devices[i], i)) profile = input.devices[i], known = true;
    }
    if (!known) profile = probe_device(*cluster.file, cluster.model, *cluster.kernels, probe);
    profile.name = node.name;
    profile.trusted = node.trusted;
    profile.idle_watts = node.idle_watts;
    profile.busy_watts = node.busy_watts;
    input.devices.push_back(profile);
  }
  for (const LinkConfig& link : cluster.config.links) {
    const LinkProfile given{link.latency_s.value_or(kAssumedLink.latency_s),
                            link.bytes_per_second.value_or(kAssumedLink.bytes_per_s)};
    input.links.set_both(cluster.config.node_index(link.a), cluster.config.node_index(link.b), given);
  }
  complete_plan_input(cluster.config, *cluster.file, cluster.model, input, cluster.adapters);
}

PlanInput input_from_profile(const std::string& path, const CommonFlags& common) {
  Result<PlanInput> read = profile_from_json(read_text_file(path, "profile", kProfileJsonBytesMax), path);
  if (read.has_error()) throw SetupError(read.error().message);
  PlanInput input = std::move(*read);
  if (!common.objective.empty()) input.objective = parse_objective(common.objective);
  if (!common.keep_on_head.empty()) input.constraints.keep_on_head = parse_keep_on_head(common.keep_on_head);
  if (common.context > 0 || common.sequences > 0) {
    input = with_cache_for(input, common.context > 0 ? common.context : input.model.context,
                           common.sequences > 0 ? common.sequences : input.model.sequences);
  }
  if (common.sequences > 0) input.workload.concurrency = common.sequences;
  return input;
}

// The inputs of the cluster with its model and with each of the others, from this device's measurement.
std::vector<PlanInput> offers_alone(Cluster& cluster, const CommonFlags& common, const PlanFlags& flags) {
  measure_alone(cluster, common);
  std::vector<PlanInput> offers = {cluster.plan_input};
  for (const std::string& model : flags.others) {
    Cluster other;
    other.config = cluster.config;
    other.config.model = find_model_path(model, cluster.config.path, &other.config.model_missing);
    measure_alone(other, common);
    offers.push_back(std::move(other.plan_input));
  }
  return offers;
}

// The inputs of the cluster with its model and with each of the others, measured by all nodes together. Where
// one of several models fits no plan, choosing among them says so.
std::vector<PlanInput> offers_together(Cluster& cluster, Bootstrap& bootstrap, const CommonFlags& common,
                                       const PlanFlags& flags) {
  if (flags.others.empty()) {
    plan_cluster(cluster, bootstrap, options_of(common));
    return {cluster.plan_input};
  }
  std::vector<ClusterConfig> configs = {cluster.config};
  for (const std::string& model : flags.others) {
    ClusterConfig& other = configs.emplace_back(cluster.config);
    other.model = find_model_path(model, cluster.config.path, &other.model_missing);
  }
  std::vector<PlanInput> offers;
  for (const ClusterConfig& config : configs) {
    Cluster one;
    one.config = config;
    try {
      plan_cluster(one, bootstrap, options_of(common));
    } catch (const SetupError&) {
      if (one.plan_input.devices.empty()) throw;  // it failed before there was anything to plan with
    }
    offers.push_back(std::move(one.plan_input));
  }
  return offers;
}

}  // namespace

int plan_command(const CommonFlags& common, const PlanFlags& flags) {
  if (!flags.profiles.empty()) {
    if (!common.config.empty())
      throw SetupError("give a cluster file (-c) or a profile (--profile), not both");
    std::vector<PlanInput> offers;
    for (const std::string& path : flags.profiles) offers.push_back(input_from_profile(path, common));
    answer_plan_questions(std::move(offers), {}, flags);
    return kExitDone;
  }
  const std::unique_ptr<Bootstrap> bootstrap = make_bootstrap();
  Cluster cluster;
  load_config_together(cluster, *bootstrap, common, [&](bool) {
    if (common.config.empty())
      throw SetupError(
          "shoal plan needs a cluster file (-c CLUSTER.yaml) or a profile (--profile FILE.json)");
  });
  if (bootstrap->size() == 1 && cluster.config.nodes.size() > 1 && !started_by_mpirun()) {
    answer_plan_questions(offers_alone(cluster, common, flags), cluster.config.plan, flags);
    return kExitDone;
  }
  std::vector<PlanInput> offers = offers_together(cluster, *bootstrap, common, flags);
  RankReport report;
  if (bootstrap->rank() == 0) {
    try {
      answer_plan_questions(std::move(offers), cluster.config.plan, flags);
    } catch (const SetupError& error) {
      report = {"", error.what(), error.exit_code()};
    }
  }
  (void)agree(*bootstrap, report);
  return kExitDone;
}

}  // namespace shoal
