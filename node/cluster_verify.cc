#include "node/cluster_verify.h"

#include <algorithm>
#include <string_view>

#include "node/verifier.h"

namespace shoal {

void check_verify(const Cluster& cluster) {
  if (cluster.config.verify == 0) return;
  if (cluster.model.encodes())
    throw SetupError("--verify: compares the layers of decoders; this model has an encoder");
  if (cluster.kernels->numeric_class != std::string_view("exact"))
    throw SetupError("--verify: compares bit for bit, so it needs the numeric class exact, not " +
                     std::string(cluster.kernels->numeric_class));
}

void keep_room_to_verify(Cluster& cluster) {
  if (cluster.config.verify == 0) return;
  DeviceProfile& head = cluster.plan_input.devices[static_cast<size_t>(cluster.config.head_index())];
  const uint64_t room = Verifier::bytes(cluster.plan_input.model, cluster.model, cluster.config.kv_cache,
                                        cluster.config.context);
  head.memory_bytes -= std::min(head.memory_bytes, room);
}

void start_verifier(Cluster& cluster) {
  if (cluster.config.verify == 0) return;
  cluster.verifier = std::make_unique<Verifier>(
      *cluster.node,
      Verifier::Source{*cluster.file, cluster.model, *cluster.kernels, cluster.config.kv_cache,
                       cluster.weights.get()},
      cluster.config.verify,
      [keeper = cluster.keeper.get()](const Suspects::Fault& fault) { keeper->accuse(fault); });
  cluster.verifier->sample_steps_of(*cluster.coordinator);
}

}  // namespace shoal
