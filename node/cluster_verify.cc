#include "node/cluster_verify.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <string>
#include <string_view>

#include "base/units.h"
#include "node/verifier.h"

namespace shoal {

namespace {

bool is_asked(const Cluster& cluster) {
  return cluster.config.verify > 0 && cluster.name == cluster.config.head;
}

}  // namespace

void check_verify(const Cluster& cluster) {
  if (!is_asked(cluster)) return;
  if (cluster.model.encodes())
    throw SetupError(fmt::format("--verify: {} has an encoder, and only the layers of decoders are compared",
                                 cluster.config.model));
  if (cluster.kernels->numeric_class != std::string_view("exact"))
    throw SetupError(
        fmt::format("--verify: the nodes compute in numeric class '{}', and only 'exact' gives the same bits "
                    "everywhere: leave --kernels (kernels: of the nodes) out, or --verify",
                    cluster.kernels->numeric_class));
}

void keep_room_to_verify(Cluster& cluster) {
  if (!is_asked(cluster)) return;
  DeviceProfile& head = cluster.plan_input.devices[static_cast<size_t>(cluster.config.head_index())];
  const uint64_t room = Verifier::bytes(cluster.plan_input.model, cluster.model, cluster.config.kv_cache,
                                        cluster.config.context);
  if (room >= head.memory_bytes) {
    throw SetupError(
        fmt::format("--verify: the head {} needs {} to compute layers again and may spend {}: raise "
                    "nodes.{}.memory, or leave --verify out",
                    head.name, format_bytes(room), format_bytes(head.memory_bytes), head.name));
  }
  head.memory_bytes -= room;
  spdlog::info("--verify: {} of the head's memory are kept to compute layers again", format_bytes(room));
}

void start_verifier(Cluster& cluster) {
  if (!is_asked(cluster)) return;
  cluster.verifier = std::make_unique<Verifier>(
      *cluster.node,
      Verifier::Source{*cluster.file, cluster.model, *cluster.kernels, cluster.config.kv_cache,
                       cluster.weights.get()},
      cluster.config.verify,
      [keeper = cluster.keeper.get()](const Suspects::Fault& fault) { keeper->accuse(fault); });
  cluster.verifier->sample_steps_of(*cluster.coordinator);
}

}  // namespace shoal
