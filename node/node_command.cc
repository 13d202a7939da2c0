// shoal node: a device that joins a head by address, without mpirun.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/lexical_cast/try_lexical_convert.hpp>

#include "base/units.h"
#include "node/cluster_config.h"
#include "node/commands.h"
#include "node/node.h"
#include "node/probe.h"
#include "node/process_memory.h"
#include "node/stage_factory.h"
#include "planner/planner.h"

namespace shoal {
namespace {

constexpr double kShareOfDevice = 0.7;  // of its memory, where nobody says how much may be used

Endpoint parse_endpoint(const std::string& text, const char* place) {
  const size_t colon = text.rfind(':');
  Endpoint endpoint;
  if (colon == std::string::npos || colon == 0 ||
      !boost::conversion::try_lexical_convert(text.substr(colon + 1), endpoint.port) || endpoint.port == 0) {
    throw SetupError(
        fmt::format("{} {}: give the head's address and port, e.g. 192.168.1.10:7400", place, text));
  }
  endpoint.address = text.substr(0, colon);
  if (endpoint.address.size() > 2 && endpoint.address.front() == '[' && endpoint.address.back() == ']')
    endpoint.address = endpoint.address.substr(1, endpoint.address.size() - 2);
  return endpoint;
}

}  // namespace

int node_command(const CommonFlags& common, const NodeFlags& flags) {
  const Endpoint head = parse_endpoint(flags.join, "--join");
  const std::string name = flags.name.empty() ? host_name() : flags.name;
  if (name.size() > kNameBytesMax) throw SetupError("--name: at most 255 bytes");
  const uint64_t memory = flags.memory.empty() ? 0 : parse_bytes(flags.memory, "--memory");
  const GgufFile file = GgufFile::open(resolve_model_path(common.model, ""));
  const ModelConfig model = ModelConfig::from(file);
  const Kernels& kernels = select_kernels(common.kernels);
  const int threads = common.threads > 0 ? common.threads : device_processors();
  const uint64_t own_memory = static_cast<uint64_t>(static_cast<double>(device_memory()) * kShareOfDevice);

  Comeback comeback;
  comeback.head = head;
  DeviceProfile profile = probe_device(file, model, kernels, {threads, memory > 0 ? memory : own_memory});
  profile.name = name;
  if (memory == 0) profile.memory_bytes = own_memory;
  comeback.join.profile_json = device_profile_to_json(profile);
  comeback.join.memory_bytes = memory;
  comeback.join.threads = static_cast<uint32_t>(threads);
  comeback.join.address = flags.address;

  ThreadPool pool(threads);
  Node* running = nullptr;
  StageFactory stages(name, file, model, kernels, pool, [&running] { running->note_progress(); });
  Node node({"", name, file.fingerprint(), kernels.numeric_class},
            flags.address.empty() ? "0.0.0.0" : flags.address, static_cast<uint16_t>(flags.port));
  running = &node;
  comeback.join.port = node.port();
  node.load_nothing();
  node.set_remake([&stages](const PipelineLayout& layout, Engine::Stages before) {
    return stages.make(layout, std::move(before));
  });
  spdlog::info("node {} listens on port {} and calls the head at {}", name, node.port(), flags.join);
  node.set_comeback(comeback, /*now=*/true);
  node.serve_until_shutdown();
  return kExitDone;
}

}  // namespace shoal
