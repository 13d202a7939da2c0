#include "node/cluster_weights.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <filesystem>

#include "base/units.h"
#include "node/progress.h"
#include "tensor/thread_pool.h"

namespace shoal {

std::shared_ptr<const GgufFile> open_model(const Cluster& cluster, bool must_have) {
  const NodeConfig& node = cluster.this_node();
  std::error_code ignored;
  const bool there = std::filesystem::exists(cluster.config.model, ignored);
  if (!must_have && !node.needs_file && (!node.own_file || !there)) return nullptr;
  return std::make_shared<const GgufFile>(GgufFile::open(cluster.config.model));
}

std::shared_ptr<const WeightManifest> make_manifest(const GgufFile& file, int threads) {
  const std::string cache = cache_home();
  ThreadPool pool(threads);
  ProgressLine progress("reading the model to vouch for it");
  return std::make_shared<const WeightManifest>(
      manifest_of(file, cache.empty() ? "" : cache + "/manifests", pool,
                  [&](uint64_t done, uint64_t total) { progress.update(done, total); }));
}

namespace {

// Null where nothing can be kept, which is said.
std::unique_ptr<WeightCache> open_cache(const Cluster& cluster) {
  const NodeConfig& node = cluster.this_node();
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

}  // namespace

void set_up_weights(Cluster& cluster) {
  const std::shared_ptr<const GgufFile> own = cluster.file;
  std::unique_ptr<WeightCache> cache = own ? nullptr : open_cache(cluster);
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

void fetch_weights(Cluster& cluster, const PipelineLayout& layout) {
  if (!cluster.weights || cluster.weights->has_file()) return;
  std::vector<ShardSpec> shards;
  for (size_t i = 0; i < layout.node_of_stage.size(); ++i) {
    if (layout.node_of_stage[i] == cluster.name) shards.push_back(layout.shard_of_stage[i]);
  }
  if (shards.empty()) return;
  ProgressLine progress("fetching weights");
  const FetchReport report = cluster.weights->fetch_missing(
      cluster.model, shards, [&](uint64_t done, uint64_t total) { progress.update(done, total); });
  std::string text =
      fmt::format("node {} has no model file: {} of weights, {} of them on its disk, {} fetched",
                  cluster.name, format_bytes(report.needed_bytes), format_bytes(report.cached_bytes),
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
