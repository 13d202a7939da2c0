// shoal plan: what would run where, and why. Under mpirun every node measures itself and its links; alone,
// this device stands for all of them.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "node/command_support.h"
#include "node/plan_report.h"
#include "node/probe.h"
#include "node/process_memory.h"
#include "planner/profile_json.h"

namespace shoal {
namespace {

constexpr LinkProfile kAssumedLink{200e-6, 125e6};  // 0.2 ms, 1 Gbit/s

// The input for the whole cluster from this device's measurement alone.
void measure_alone(Cluster& cluster, const CommonFlags& common) {
  cluster.file = std::make_unique<GgufFile>(GgufFile::open(cluster.config.model));
  cluster.model = ModelConfig::from(*cluster.file);
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
    input.devices.push_back(profile);
  }
  for (const LinkConfig& link : cluster.config.links) {
    const LinkProfile given{link.latency_s.value_or(kAssumedLink.latency_s),
                            link.bytes_per_second.value_or(kAssumedLink.bytes_per_s)};
    input.links.set_both(cluster.config.node_index(link.a), cluster.config.node_index(link.b), given);
  }
  complete_plan_input(cluster);
}

std::string read_profile_file(const std::string& path) {
  std::error_code ec;
  if (!std::filesystem::is_regular_file(path, ec)) throw SetupError(path + ": no such profile");
  if (std::filesystem::file_size(path, ec) > kProfileJsonBytesMax)
    throw SetupError(path + ": too large for a profile");
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) throw SetupError(path + ": cannot be read");
  return text.str();
}

PlanInput input_from_profile(const std::string& path, const CommonFlags& common) {
  Result<PlanInput> read = profile_from_json(read_profile_file(path), path);
  if (read.has_error()) throw SetupError(read.error().message);
  PlanInput input = std::move(*read);
  if (!common.objective.empty()) input.objective = parse_objective(common.objective);
  if (!common.keep_on_head.empty()) input.constraints.keep_on_head = parse_keep_on_head(common.keep_on_head);
  return input;
}

}  // namespace

int plan_command(const CommonFlags& common, const PlanFlags& flags) {
  if (!flags.profiles.empty()) {
    if (!common.config.empty())
      throw SetupError("give a cluster file (-c) or a profile (--profile), not both");
    std::vector<PlanInput> offers;
    for (const std::string& path : flags.profiles) offers.push_back(input_from_profile(path, common));
    answer_plan_questions(std::move(offers), flags);
    return kExitDone;
  }
  if (common.config.empty())
    throw SetupError("shoal plan needs a cluster file (-c CLUSTER.yaml) or a profile (--profile FILE.json)");
  const std::unique_ptr<Bootstrap> bootstrap = make_bootstrap();
  Cluster cluster;
  load_config_together(cluster, *bootstrap, common);
  if (bootstrap->size() == 1 && cluster.config.nodes.size() > 1 && !started_by_mpirun()) {
    measure_alone(cluster, common);
  } else {
    plan_cluster(cluster, *bootstrap, options_of(common));
  }
  if (bootstrap->rank() == 0) answer_plan_questions({cluster.plan_input}, flags);
  return kExitDone;
}

}  // namespace shoal
