// shoal node: a device that joins a head by address, without mpirun.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/lexical_cast/try_lexical_convert.hpp>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <optional>
#include <thread>

#include "base/units.h"
#include "node/ahead_fetch.h"
#include "node/cluster_config.h"
#include "node/cluster_weights.h"
#include "node/command_support.h"
#include "node/commands.h"
#include "node/end_signals.h"
#include "node/enrolment.h"
#include "node/invitation.h"
#include "node/node.h"
#include "node/node_weights.h"
#include "node/probe.h"
#include "node/process_memory.h"
#include "node/stage_factory.h"
#include "planner/planner.h"
#include "tensor/known_answers.h"
#include "transport/tls.h"

namespace shoal {
namespace {

using namespace std::chrono_literals;

constexpr double kShareOfDevice = 0.7;   // of its memory, where nobody says how much may be used
constexpr auto kFirstPatience = 1000ms;  // of the first call: a wrong name or port is told of soon

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

// Who this node is: what it was given before, or what its token gets it now.
NodeCredentials credentials_of(const NodeFlags& flags, const std::string& name, const Endpoint& head) {
  const std::string directory = credentials_directory(name);
  require_kept_from_others(directory);
  std::optional<NodeCredentials> stored = stored_credentials(directory);
  std::string text = flags.token;
  std::error_code failed;
  // A token works once: its file may be gone when the device starts again.
  if (!flags.token_file.empty() &&
      (!stored || flags.token_file == "-" || std::filesystem::exists(flags.token_file, failed)))
    text = read_token(flags.token_file);
  if (!text.empty()) {
    const Result<InvitationToken> token = InvitationToken::parse(text);
    if (token.has_error()) throw SetupError("--token: " + token.error().message);
    require_room_for_credentials(directory);
    const Result<NodeCredentials> given = accept_invitation(head.address, *token, name);
    if (given) {
      store_credentials(directory, *given);
      spdlog::info("node {} belongs to cluster {}; its certificate is in {}", name,
                   certificate_info(given->certificate, "the head's answer").cluster, directory);
      return *given;
    }
    // A service is started again and again with the token that it was first given.
    const bool over = given.error().code == Errc::kPeerLost;
    if (!stored || !over) throw SetupError("--token: " + given.error().message, kExitFailed);
    spdlog::info("the token is used up; node {} goes by the certificate in {}", name, directory);
  }
  if (!stored) {
    throw SetupError(fmt::format(
        "node {} has no certificate (none in {}): run `shoal invite -c CLUSTER.yaml` on the head "
        "and pass its "
        "token here with --token or --token-file (or start the head and all nodes with --insecure)",
        name, directory));
  }
  return *stored;
}

// Not on the io thread: the disk may be slow.
void keep_credentials(const std::string& name, const NodeCredentials& renewed) {
  try {
    store_credentials(credentials_directory(name), renewed);
  } catch (const SetupError& error) {
    spdlog::warn("the renewed certificate of {} is not kept, and a later start goes by the one before: {}",
                 name, error.what());
  }
}

CertificateInfo own_certificate(const WeightAsker& asker) {
  return certificate_info(asker.tls->credentials().certificate, "this node's certificate");
}

bool has_ended(const WeightAsker& asker) {
  return asker.tls && own_certificate(asker).expires_s <= std::time(nullptr);
}

// The first time only where somebody answers soon.
Result<FetchedManifest> ask_manifest_of(const WeightAsker& asker, const WeightPeer& head,
                                        const std::string& model, bool first) {
  if (first) {
    IoThread io;
    const Result<std::unique_ptr<WeightLink>> link = WeightLink::open(io, asker, head, kFirstPatience);
    if (link.has_error()) return link.error();
  }
  return fetch_manifest(asker, head, model);
}

// Calls until the head answers: it may be started later. A certificate that has ended by this device's clock
// alone is no reason to end: a clock is set right sooner or later, and where that of the head has ended too
// it is the clock. The head says whether it is the certificate.
FetchedManifest manifest_of_head(const WeightAsker& asker, const Endpoint& head, const std::string& model) {
  if (has_ended(asker)) {
    spdlog::warn("the certificate of node {} has ended, or its clock is wrong: {}; the head is asked",
                 asker.node, dates_and_clock(own_certificate(asker)));
  }
  spdlog::info("node {} calls the head at {}:{}", asker.node, head.address, head.port);
  std::string said;
  std::chrono::milliseconds pause = kCallPauseFirst;
  for (bool first = true;; first = false) {
    Result<FetchedManifest> fetched = ask_manifest_of(asker, {"", head.address, head.port},
                                                      model.empty() ? "the head's model" : model, first);
    if (fetched) return std::move(*fetched);
    const std::string& why = fetched.error().message;
    if (why.find(kExpiredThere) != std::string::npos && has_ended(asker)) {
      throw SetupError(fmt::format(
          "the certificate of node {} (in {}) has expired: run `shoal invite -c CLUSTER.yaml --name {}` on "
          "the head and pass its token here with --token",
          asker.node, credentials_directory(asker.node), asker.node));
    }
    if (why != said)
      spdlog::warn("the head at {}:{} did not answer this node: {}", head.address, head.port, why);
    said = why;
    std::this_thread::sleep_for(pause);
    pause = std::min<std::chrono::milliseconds>(pause * 2, kCallPauseMost);
  }
}

// What was said of this device, read before anybody is asked for anything: a token serves once. Returns the
// model's file, or null where none was given.
std::shared_ptr<const GgufFile> check_flags(const CommonFlags& common, const NodeFlags& flags) {
  if (!flags.memory.empty()) (void)parse_memory(flags.memory, "--memory");
  NodeConfig settings;
  if (!common.cache_size.empty()) parse_cache_size(common.cache_size, "--cache-size", settings);
  if (common.model.empty()) return nullptr;
  return std::make_shared<const GgufFile>(GgufFile::open(resolve_model_path(common.model, "")));
}

// Its own file, or what it fetches and keeps.
std::shared_ptr<NodeWeights> weights_of(const CommonFlags& common, const WeightAsker& asker,
                                        const FetchedManifest& head,
                                        const std::shared_ptr<const GgufFile>& own) {
  if (own) {
    if (own->fingerprint() != fingerprint_in(head.model_hash)) {
      throw SetupError(fmt::format(
          "{} is another model than the head's: give both the same, or leave --model out and this node "
          "fetches what it needs",
          own->path()));
    }
    return std::make_shared<NodeWeights>(head.manifest, asker, own, nullptr);
  }
  NodeConfig settings;
  settings.name = asker.node;
  if (!common.cache_size.empty()) parse_cache_size(common.cache_size, "--cache-size", settings);
  return std::make_shared<NodeWeights>(head.manifest, asker, nullptr, open_weight_cache(settings));
}

// The adapters that the cluster offers, as the head counts them.
std::vector<std::shared_ptr<const WeightManifest>> adapters_of_head(WeightAsker asker, const Endpoint& head) {
  std::vector<std::shared_ptr<const WeightManifest>> manifests;
  while (manifests.size() < kAdaptersMax) {
    ++asker.adapter;
    const Result<FetchedManifest> fetched =
        fetch_manifest(asker, {"", head.address, head.port}, "adapter " + std::to_string(asker.adapter));
    if (fetched.has_error() && fetched.error().code == Errc::kRefused) break;  // that was all
    if (fetched.has_error()) throw SetupError(fetched.error().message, kExitFailed);
    manifests.push_back(fetched->manifest);
  }
  return manifests;
}

// Their weights, which are fetched.
struct Adapters {
  std::vector<LoraFile> files;
  std::vector<std::shared_ptr<NodeWeights>> weights;
};

Adapters open_adapters(const CommonFlags& common, WeightAsker asker,
                       const std::vector<std::shared_ptr<const WeightManifest>>& manifests,
                       const ModelConfig& model) {
  NodeConfig settings;
  settings.name = asker.node;
  if (!common.cache_size.empty()) parse_cache_size(common.cache_size, "--cache-size", settings);
  Adapters adapters;
  for (const std::shared_ptr<const WeightManifest>& manifest : manifests) {
    ++asker.adapter;
    adapters.files.push_back(LoraFile::of(std::to_string(asker.adapter), manifest->model(), model));
    adapters.weights.push_back(
        std::make_shared<NodeWeights>(manifest, asker, nullptr, open_weight_cache(settings)));
  }
  return adapters;
}

Join describe(const NodeFlags& flags, const std::string& name, int threads, const NodeWeights& weights,
              const ModelConfig& model, const Kernels& kernels) {
  const uint64_t memory = flags.memory.empty() ? 0 : parse_memory(flags.memory, "--memory");
  const uint64_t own_memory = static_cast<uint64_t>(static_cast<double>(device_memory()) * kShareOfDevice);
  DeviceProfile profile = probe_device(weights.model(), model, kernels,
                                       {threads, memory > 0 ? memory : own_memory, !weights.has_file()});
  profile.name = name;
  if (memory == 0) profile.memory_bytes = own_memory;
  Join join;
  join.profile_json = device_profile_to_json(profile);
  join.memory_bytes = memory;
  join.threads = static_cast<uint32_t>(threads);
  join.address = flags.address;
  return join;
}

// Joins the head's cluster with what the head has now. Throws SetupError.
void join_and_serve(const CommonFlags& common, const NodeFlags& flags) {
  const Endpoint head = parse_endpoint(flags.join, "--join");
  const std::string name = flags.name.empty() ? host_name() : flags.name;
  if (!is_node_name(name))
    throw SetupError(fmt::format("--name {}: 1 to 63 letters, digits, '-', '_' or '.'", name));
  const Kernels& kernels = select_kernels(common.kernels);
  const int threads = common.threads > 0 ? common.threads : device_processors();
  const bool confined = common.insecure && !common.trust_network;
  const std::string listens_at = !flags.address.empty() ? flags.address : confined ? "127.0.0.1" : "0.0.0.0";
  const std::shared_ptr<const GgufFile> own = check_flags(common, flags);
  WeightAsker asker;
  asker.node = name;
  std::shared_ptr<TlsContext> tls;
  if (!common.insecure) {
    const NodeCredentials credentials = credentials_of(flags, name, head);
    asker.cluster = certificate_info(credentials.certificate, "this node's certificate").cluster;
    asker.tls = tls = std::make_shared<TlsContext>(credentials);
  } else {
    if (confined) refuse_off_loopback("the head", head.address);
    if (confined) refuse_off_loopback("node " + name, listens_at);
    spdlog::warn(
        "--insecure: links between nodes are not encrypted, and a plan is taken without a signature from "
        "whoever answers at {}",
        flags.join);
  }
  const FetchedManifest of_head = manifest_of_head(asker, head, common.model);
  const std::vector<std::shared_ptr<const WeightManifest>> of_adapters = adapters_of_head(asker, head);
  // By what came, not by what was said of it: a head that was started again meanwhile is another's.
  asker.model = weights_identity(fingerprint_in(of_head.model_hash), *of_head.manifest, of_adapters);
  const std::shared_ptr<NodeWeights> weights = weights_of(common, asker, of_head, own);
  const ModelConfig model = ModelConfig::from(weights->model());
  const Adapters adapters = open_adapters(common, asker, of_adapters, model);

  Comeback comeback;
  comeback.head = head;
  comeback.join = describe(flags, name, threads, *weights, model, kernels);
  ThreadPool pool(threads);
  Node* running = nullptr;
  const auto on_progress = [&running] { running->note_progress(); };
  std::optional<AheadFetch> ahead;
  if (!weights->has_file() && weights->cache() != nullptr)
    ahead.emplace(*weights, asker, WeightPeer{"", head.address, head.port}, model);
  StageFactory::Source source{weights->model(), weights.get(), adapters.files, adapters.weights};
  source.fetch = [&](const PipelineLayout& layout, const StageFactory::Needs& needs) {
    if (ahead) ahead->stop();
    set_peers(layout, name, *weights, adapters.weights);
    set_stop(needs.stop, *weights, adapters.weights);
    fetch_weights(*weights, name, model, needs.missing, on_progress);
    fetch_adapters(adapters.files, adapters.weights, name, model, needs.shards, on_progress);
  };
  StageFactory stages(name, source, model, kernels, pool, on_progress);
  boost::asio::thread_pool disk(1);  // outlives the node, which posts to it
  Node node({asker.cluster, name, asker.model, kernels.numeric_class, tls, /*knows_revoked=*/false},
            listens_at, static_cast<uint16_t>(flags.port));
  running = &node;
  comeback.join.port = node.port();
  node.load_nothing();
  node.set_remake(
      [&stages](const PipelineLayout& layout, Engine::Stages before, const std::stop_token& stop) {
        return stages.make(layout, std::move(before), stop);
      });
  node.set_examination([&kernels] { return wrong_answer(kernels); });
  std::vector<std::shared_ptr<WeightProvider>> given = {weights};
  given.insert(given.end(), adapters.weights.begin(), adapters.weights.end());
  node.offer_weights(std::move(given));
  const AheadOrders orders(node, ahead ? &*ahead : nullptr, model.n_layer);
  node.set_on_renewed([&disk, name](const NodeCredentials& renewed) {
    boost::asio::post(disk, [name, renewed] { keep_credentials(name, renewed); });
  });
  spdlog::info("node {} listens on port {} and calls the head at {}", name, node.port(), flags.join);
  node.set_comeback(comeback, /*now=*/true);
  {
    const EndSignals signals(node.io(), [&node] { node.leave(); });
    node.serve_until_shutdown();
  }
  node.set_on_renewed({});
  disk.join();
}

}  // namespace

int node_command(const CommonFlags& common, const NodeFlags& flags) {
  // Before the node has joined nobody waits for it, and what it keeps on the disk bears being killed.
  EndSignals::end_at_once();
  while (true) {
    try {
      join_and_serve(common, flags);
      return kExitDone;
    } catch (const OtherModelError& end) {
      if (EndSignals::came()) return kExitDone;
      // A head that was started again with another model or other adapters: they are asked for anew, and what
      // the cache has of them is kept.
      spdlog::warn("{}; this node begins anew with the head's", end.what());
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  }
}

}  // namespace shoal
