// shoal plan: what would run where, and why. Under mpirun every node measures itself and its links; alone,
// this device stands for all of them.
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <boost/json.hpp>

#include <cstdio>

#include "node/command_support.h"
#include "node/probe.h"
#include "node/process_memory.h"

namespace shoal {
namespace {

constexpr LinkProfile kAssumedLink{200e-6, 125e6};  // 0.2 ms, 1 Gbit/s

// Plans for the whole cluster from this device's measurement alone.
void plan_alone(Cluster& cluster, const CommonFlags& common) {
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
  cluster.plan = make_plan(input);
}

// The plan; with `explain` also the text that --explain alone prints.
std::string json_of(const Cluster& cluster, bool explain) {
  if (!explain) return plan_to_json(cluster.plan);
  boost::json::value plan = boost::json::parse(plan_to_json(cluster.plan));
  plan.as_object()["explanation"] = render_explanation(cluster.plan_input, cluster.plan);
  return boost::json::serialize(plan);
}

}  // namespace

int plan_command(const CommonFlags& common, const PlanFlags& flags) {
  const std::unique_ptr<Bootstrap> bootstrap = make_bootstrap();
  Cluster cluster;
  load_config_together(cluster, *bootstrap, common, [&] {
    if (common.config.empty()) throw SetupError("shoal plan needs a cluster file: -c CLUSTER.yaml");
  });
  if (bootstrap->size() == 1 && cluster.config.nodes.size() > 1 && !started_by_mpirun()) {
    plan_alone(cluster, common);
  } else {
    plan_cluster(cluster, *bootstrap, options_of(common));
  }
  if (bootstrap->rank() != 0) return kExitDone;
  if (flags.json) {
    std::fputs((json_of(cluster, flags.explain) + "\n").c_str(), stdout);
  } else if (flags.explain) {
    std::fputs(render_explanation(cluster.plan_input, cluster.plan).c_str(), stdout);
  } else {
    for (const StageAssignment& stage : cluster.plan.stages) {
      std::fputs(
          fmt::format("{}: {}layers {}-{}{}\n", cluster.plan.devices[static_cast<size_t>(stage.device)],
                      stage.embedding ? "embedding, " : "", stage.layer_begin, stage.layer_end - 1,
                      stage.output ? ", output" : "")
              .c_str(),
          stdout);
    }
    std::fputs(
        fmt::format("predicted: {:.2f} ms a token alone, {:.1f} tokens/s full\n",
                    cluster.plan.predicted.seconds_per_token * 1e3, cluster.plan.predicted.tokens_per_second)
            .c_str(),
        stdout);
  }
  return kExitDone;
}

}  // namespace shoal
