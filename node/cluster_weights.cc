#include "node/cluster_weights.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <stop_token>
#include <thread>

#include "base/units.h"
#include "model/signature.h"
#include "node/process_memory.h"
#include "node/progress.h"
#include "tensor/thread_pool.h"

namespace shoal {

std::shared_ptr<const GgufFile> open_model(const Cluster& cluster, bool must_have) {
  const NodeConfig& node = cluster.this_node();
  std::error_code ignored;
  const bool there = std::filesystem::exists(cluster.config.model, ignored);
  if (!must_have && !node.needs_file && (!node.own_file || !there)) return nullptr;
  auto file = std::make_shared<const GgufFile>(GgufFile::open(cluster.config.model));
  if (!cluster.config.model_key.empty())
    require_signature(*file, *make_manifest(*file, device_processors()), cluster.config.model_key);
  return file;
}

std::shared_ptr<const WeightManifest> make_manifest(const GgufFile& file, int threads) {
  const std::string cache = cache_home();
  ThreadPool pool(threads);
  ProgressLine progress("reading the model to vouch for it");
  return std::make_shared<const WeightManifest>(
      manifest_of(file, cache.empty() ? "" : cache + "/manifests", pool,
                  [&](uint64_t done, uint64_t total) { progress.update(done, total); }));
}

std::unique_ptr<WeightCache> open_weight_cache(const NodeConfig& node) {
  if (!node.cache) return nullptr;
  const std::string home = cache_home();
  if (home.empty()) {
    spdlog::warn(
        "node {}: neither XDG_CACHE_HOME nor HOME is set, so the weights that it fetches are not kept",
        node.name);
    return nullptr;
  }
  Result<std::unique_ptr<WeightCache>> cache = WeightCache::open(home + "/shards", node.cache_bytes);
  if (cache.has_error()) {
    spdlog::warn(
        "node {}: the weights that it fetches are not kept: {} (XDG_CACHE_HOME names another folder)",
        node.name, cache.error().message);
    return nullptr;
  }
  return std::move(*cache);
}

void set_up_weights(Cluster& cluster) {
  const std::shared_ptr<const GgufFile> own = cluster.file;
  std::unique_ptr<WeightCache> cache = own ? nullptr : open_weight_cache(cluster.this_node());
  cluster.weights = std::make_shared<NodeWeights>(
      cluster.manifest, WeightAsker{cluster.config.cluster, cluster.name, cluster.model_hash}, own,
      std::move(cache));
  if (!own) cluster.file = {cluster.manifest, &cluster.manifest->model()};
}

std::vector<WeightPeer> weight_peers(const Cluster& cluster, const std::map<std::string, Endpoint>& endpoints,
                                     const std::map<std::string, std::string>& inventories) {
  std::vector<WeightPeer> peers;
  for (const auto& [name, endpoint] : endpoints) {
    const auto said = inventories.find(name);
    if (name == cluster.name || said == inventories.end()) continue;
    WeightPeer peer{name, endpoint.address, endpoint.port,
                    parse_inventory(said->second, cluster.manifest->size())};
    const bool has_any = peer.tensors.empty() ||
                         std::find(peer.tensors.begin(), peer.tensors.end(), true) != peer.tensors.end();
    if (has_any) peers.insert(name == cluster.config.head ? peers.begin() : peers.end(), std::move(peer));
  }
  return peers;
}

std::vector<WeightPeer> weight_peers(const PipelineLayout& layout, const std::string& node) {
  std::vector<WeightPeer> peers;
  for (const auto& [name, endpoint] : layout.endpoints) {
    if (name == node) continue;
    peers.insert(name == layout.head ? peers.begin() : peers.end(), {name, endpoint.address, endpoint.port});
  }
  return peers;
}

namespace {

constexpr auto kToldEvery = std::chrono::milliseconds(500);

// Says again and again that something goes on. What it goes on with has deadlines of its own.
class Going {
 public:
  explicit Going(const std::function<void()>& tell) {
    if (tell) thread_ = std::jthread([this, tell](const std::stop_token& stop) { run(stop, tell); });
  }

 private:
  void run(const std::stop_token& stop, const std::function<void()>& tell) {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, stop, kToldEvery, [&] { return stop.stop_requested(); })) tell();
  }
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::jthread thread_;  // last: it ends before what it uses
};

}  // namespace

void fetch_weights(NodeWeights& weights, const std::string& node, const ModelConfig& model,
                   std::span<const ShardSpec> shards, const std::function<void()>& on_progress) {
  if (weights.has_file() || shards.empty()) return;
  const Going going(on_progress);
  ProgressLine progress("fetching weights");
  const FetchReport report = weights.fetch_missing(
      model, shards, [&](uint64_t done, uint64_t total) { progress.update(done, total); });
  std::string text =
      fmt::format("node {} has no model file: {} of weights, {} of them on its disk, {} fetched", node,
                  format_bytes(report.needed_bytes), format_bytes(report.cached_bytes),
                  format_bytes(report.fetched_bytes));
  if (report.fetched_bytes > 0 && report.seconds > 0) {
    text += fmt::format(" in {} ({})", format_seconds(report.seconds),
                        format_bytes_per_second(static_cast<double>(report.fetched_bytes) / report.seconds));
  }
  if (report.not_kept_bytes > 0)
    text += fmt::format("; {} are fetched while loading and not kept", format_bytes(report.not_kept_bytes));
  spdlog::info("{}", text);
}

}  // namespace shoal
