#include "node/cluster_weights.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <iterator>
#include <mutex>
#include <sstream>
#include <stop_token>
#include <thread>

#include "base/units.h"
#include "model/signature.h"
#include "node/process_memory.h"
#include "node/progress.h"
#include "sharding/lora_shard.h"
#include "tensor/thread_pool.h"

namespace shoal {

namespace {

// `folder`: where manifests are kept; empty: nowhere.
std::shared_ptr<const WeightManifest> vouch_for(const GgufFile& file, const std::string& folder,
                                                int threads) {
  ThreadPool pool(threads);
  ProgressLine progress(fmt::format("reading {} to vouch for it", file.path()));
  return std::make_shared<const WeightManifest>(
      manifest_of(file, folder, pool, [&](uint64_t done, uint64_t total) { progress.update(done, total); }));
}

}  // namespace

std::shared_ptr<const WeightManifest> make_manifest(const GgufFile& file, int threads) {
  const std::string cache = cache_home();
  return vouch_for(file, cache.empty() ? "" : cache + "/manifests", threads);
}

std::shared_ptr<const WeightManifest> make_manifest_anew(const GgufFile& file, int threads) {
  return vouch_for(file, "", threads);
}

namespace {

// Opens a model or an adapter, which the owner of `key` must have signed where one is named.
std::shared_ptr<const GgufFile> open_trusted(const std::string& path, const std::string& key) {
  auto file = std::make_shared<const GgufFile>(GgufFile::open(path));
  if (!key.empty()) require_signature(*file, *make_manifest(*file, device_processors()), key);
  return file;
}

}  // namespace

std::shared_ptr<const GgufFile> open_model(const Cluster& cluster, bool must_have) {
  const NodeConfig& node = cluster.this_node();
  std::error_code ignored;
  const std::string& missing = cluster.config.model_missing;
  const bool there = missing.empty() && std::filesystem::exists(cluster.config.model, ignored);
  if (!must_have && !node.needs_file && (!node.own_file || !there)) return nullptr;
  if (!missing.empty()) throw SetupError(missing);
  return open_trusted(cluster.config.model, cluster.config.model_key);
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

namespace {

// Those that have any of it, the head first.
std::vector<WeightPeer> peers_with(const Cluster& cluster, const std::map<std::string, Endpoint>& endpoints,
                                   const WeightManifest& manifest,
                                   const std::map<std::string, std::string>& inventories) {
  std::vector<WeightPeer> peers;
  for (const auto& [name, endpoint] : endpoints) {
    const auto said = inventories.find(name);
    if (name == cluster.name || said == inventories.end()) continue;
    WeightPeer peer{name, endpoint.address, endpoint.port, parse_inventory(said->second, manifest.size())};
    const bool has_any = peer.tensors.empty() ||
                         std::find(peer.tensors.begin(), peer.tensors.end(), true) != peer.tensors.end();
    if (has_any) peers.insert(name == cluster.config.head ? peers.begin() : peers.end(), std::move(peer));
  }
  return peers;
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  return {std::istream_iterator<std::string>(in), {}};
}

// Null where this node has no file of the adapter and need not.
std::shared_ptr<const GgufFile> open_adapter(const Cluster& cluster, const AdapterConfig& adapter,
                                             bool must_have) {
  const NodeConfig& node = cluster.this_node();
  std::error_code ignored;
  const bool there = adapter.missing.empty() && std::filesystem::exists(adapter.path, ignored);
  if (!must_have && !node.needs_file && (!node.own_file || !there)) return nullptr;
  if (!adapter.missing.empty())
    throw SetupError(fmt::format("adapter '{}': {}", adapter.name, adapter.missing));
  return open_trusted(adapter.path, cluster.config.model_key);
}

// Who has another file of an adapter than the head; empty: nobody. `all`: a word for each node and then for
// each of its adapters.
std::string other_adapter(const ClusterConfig& config, const std::vector<std::string>& all) {
  const std::vector<std::string> head = words_of(all[0]);
  for (const std::string& text : all) {
    const std::vector<std::string> words = words_of(text);
    for (size_t i = 0; i < config.adapters.size(); ++i) {
      if (words[i + 1] == head[i + 1] || words[i + 1] == "-") continue;
      return fmt::format(
          "node {} has another file of adapter '{}' than the head {}: give both the same ({}), or remove it "
          "there: the node fetches what it needs",
          words[0], config.adapters[i].name, config.head, config.adapters[i].path);
    }
  }
  return "";
}

void tell_of_fetch(const std::string& what, const FetchReport& report) {
  std::string text = fmt::format("{}: {} of weights, {} of them on its disk, {} fetched", what,
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

}  // namespace

std::shared_ptr<const WeightManifest> share_manifest(Bootstrap& bootstrap, const std::string& name,
                                                     const GgufFile* file, const std::string& path,
                                                     int threads) {
  std::shared_ptr<const WeightManifest> manifest;
  (void)together(bootstrap, name, [&] {
    if (bootstrap.rank() == 0) manifest = make_manifest(*file, threads);
    return std::string();
  });
  std::string bytes;
  if (manifest) {
    const std::span<const std::byte> mine = manifest->bytes();
    bytes.assign(reinterpret_cast<const char*>(mine.data()), mine.size());
  }
  bytes = bootstrap.broadcast(bytes);
  (void)together(bootstrap, name, [&] {
    if (manifest) return std::string();
    const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
    manifest =
        std::make_shared<const WeightManifest>(WeightManifest::parse({data, data + bytes.size()}, path));
    return std::string();
  });
  return manifest;
}

std::string weights_identity(const std::string& fingerprint, const WeightManifest& model,
                             std::span<const std::shared_ptr<const WeightManifest>> adapters) {
  std::string identity = fingerprint + "." + model.digest();
  std::string digests;
  for (const std::shared_ptr<const WeightManifest>& adapter : adapters) digests += adapter->digest();
  if (!adapters.empty()) identity += "." + sha256_hex(digests);
  return identity;
}

std::string fingerprint_in(const std::string& identity) {
  return identity.substr(0, identity.find('.'));
}

void set_up_weights(Cluster& cluster, const std::shared_ptr<const GgufFile>& own) {
  std::unique_ptr<WeightCache> cache = own ? nullptr : open_weight_cache(cluster.this_node());
  cluster.weights = std::make_shared<NodeWeights>(
      cluster.manifest, WeightAsker{cluster.config.cluster, cluster.name, cluster.model_hash}, own,
      std::move(cache));
}

void agree_on_adapters(Cluster& cluster, Bootstrap& bootstrap, int threads) {
  const std::vector<AdapterConfig>& adapters = cluster.config.adapters;
  std::vector<std::shared_ptr<const GgufFile>> files;
  const std::vector<std::string> all = together(bootstrap, cluster.name, [&] {
    std::string text = cluster.name;
    for (const AdapterConfig& adapter : adapters) {
      files.push_back(open_adapter(cluster, adapter, bootstrap.rank() == 0));
      text += " " + (files.back() ? files.back()->fingerprint() : "-");
    }
    return text;
  });
  const std::string other = bootstrap.rank() == 0 ? other_adapter(cluster.config, all) : "";
  (void)agree(bootstrap, {"", other, kExitUsage});
  std::vector<std::shared_ptr<const WeightManifest>> manifests;
  for (size_t i = 0; i < adapters.size(); ++i) {
    if (cluster.manifest)
      manifests.push_back(share_manifest(bootstrap, cluster.name, files[i].get(), adapters[i].path, threads));
    (void)together(bootstrap, cluster.name, [&] {
      const GgufFile& file = files[i] ? *files[i] : manifests[i]->model();
      cluster.adapters.push_back(LoraFile::of(adapters[i].name, file, cluster.model));
      return std::string();
    });
  }
  if (!cluster.manifest) return;
  cluster.model_hash = weights_identity(cluster.model_hash, *cluster.manifest, manifests);
  for (size_t i = 0; i < manifests.size(); ++i) {
    WeightAsker asker{cluster.config.cluster, cluster.name, cluster.model_hash};
    asker.adapter = static_cast<uint16_t>(i + 1);
    cluster.adapter_weights.push_back(std::make_shared<NodeWeights>(
        manifests[i], asker, files[i], files[i] ? nullptr : open_weight_cache(cluster.this_node())));
  }
}

void offer_weights(Cluster& cluster, const std::shared_ptr<const TlsContext>& tls) {
  if (!cluster.weights) return;
  std::vector<std::shared_ptr<WeightProvider>> providers;
  cluster.weights->set_tls(tls);
  providers.push_back(cluster.weights);
  for (const std::shared_ptr<NodeWeights>& weights : cluster.adapter_weights) {
    weights->set_tls(tls);
    providers.push_back(weights);
  }
  cluster.node->offer_weights(std::move(providers));
}

void find_weight_peers(Cluster& cluster, Bootstrap& bootstrap,
                       const std::map<std::string, Endpoint>& endpoints) {
  if (!cluster.weights) return;
  std::vector<NodeWeights*> all = {cluster.weights.get()};
  for (const std::shared_ptr<NodeWeights>& weights : cluster.adapter_weights) all.push_back(weights.get());
  std::string mine = cluster.name;
  for (const NodeWeights* weights : all) mine += " " + weights->inventory();
  const std::vector<std::string> texts = bootstrap.all_gather(mine);
  for (size_t i = 0; i < all.size(); ++i) {
    std::map<std::string, std::string> inventories;
    for (const std::string& text : texts) {
      const std::vector<std::string> words = words_of(text);
      inventories[words.at(0)] = words.at(i + 1);
    }
    all[i]->set_peers(peers_with(cluster, endpoints, all[i]->manifest(), inventories));
  }
}

void set_peers(const PipelineLayout& layout, const std::string& node, NodeWeights& weights,
               std::span<const std::shared_ptr<NodeWeights>> adapters) {
  std::vector<WeightPeer> peers;
  for (const auto& [name, endpoint] : layout.endpoints) {
    if (name == node) continue;
    peers.insert(name == layout.head ? peers.begin() : peers.end(), {name, endpoint.address, endpoint.port});
  }
  weights.set_peers(peers);
  for (const std::shared_ptr<NodeWeights>& adapter : adapters) adapter->set_peers(peers);
}

void set_stop(const std::stop_token& stop, NodeWeights& weights,
              std::span<const std::shared_ptr<NodeWeights>> adapters) {
  weights.set_stop(stop);
  for (const std::shared_ptr<NodeWeights>& adapter : adapters) adapter->set_stop(stop);
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
  tell_of_fetch(fmt::format("node {} has no model file", node), report);
}

void fetch_adapters(std::span<const LoraFile> adapters, std::span<const std::shared_ptr<NodeWeights>> weights,
                    const std::string& node, const ModelConfig& model, std::span<const ShardSpec> shards,
                    const std::function<void()>& on_progress) {
  if (shards.empty()) return;
  const Going going(on_progress);
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i]->has_file()) continue;
    std::vector<std::string> tensors;
    for (const ShardSpec& shard : shards) {
      for (std::string& name : lora_tensors(adapters[i], model, shard.layers))
        tensors.push_back(std::move(name));
    }
    ProgressLine progress(fmt::format("fetching adapter {}", adapters[i].name));
    const FetchReport report = weights[i]->fetch_missing(
        tensors, [&](uint64_t done, uint64_t total) { progress.update(done, total); });
    tell_of_fetch(fmt::format("node {} has no file of adapter '{}'", node, adapters[i].name), report);
  }
}

}  // namespace shoal
