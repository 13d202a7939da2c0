// How a starting cluster comes to its weights: the head's model file and manifest, each node's own file or
// cache, and the fetching of what a shard lacks. Used by node/cluster.cc; what a running node needs later is
// Cluster::weights.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "node/cluster.h"

namespace shoal {

// Opens this node's model file. Null where it has none and need not: it fetches its share. Throws SetupError.
std::shared_ptr<const GgufFile> open_model(const Cluster& cluster, bool must_have);

// The head's manifest, read from disk where it was made before. Throws SetupError.
std::shared_ptr<const WeightManifest> make_manifest(const GgufFile& file, int threads);

// Where a node keeps what it fetches. Null where nothing can be kept, which is said.
std::unique_ptr<WeightCache> open_weight_cache(const NodeConfig& node);

// Sets cluster.weights by cluster.manifest and cluster.file; where there is no file, the manifest's header
// becomes it.
void set_up_weights(Cluster& cluster);

// What each node has, in words of NodeWeights::inventory, as peers for this one: the head first.
std::vector<WeightPeer> weight_peers(const Cluster& cluster, const std::map<std::string, Endpoint>& endpoints,
                                     const std::map<std::string, std::string>& inventories);

// All others that a layout names, the head first: what they have is not known.
std::vector<WeightPeer> weight_peers(const PipelineLayout& layout, const std::string& node);

// Fetches what the shards need and the node lacks, with a progress line and a sentence about it.
// `on_progress`: called while it goes on, from some thread; a slow link may bring nothing for seconds.
void fetch_weights(NodeWeights& weights, const std::string& node, const ModelConfig& model,
                   std::span<const ShardSpec> shards, const std::function<void()>& on_progress = {});

}  // namespace shoal
