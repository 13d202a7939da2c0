// How a starting cluster comes to its weights: the head's model file and manifest, each node's own file or
// cache, and the fetching of what a shard lacks. Used by node/cluster.cc; what a running node needs later is
// Cluster::weights.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "node/cluster.h"

namespace shoal {

// Opens this node's model file. Null where it has none and need not: it fetches its share. Throws SetupError.
std::shared_ptr<const GgufFile> open_model(const Cluster& cluster, bool must_have);

// The head's manifest, read from disk where it was made before. Throws SetupError.
std::shared_ptr<const WeightManifest> make_manifest(const GgufFile& file, int threads);

// Sets cluster.weights by cluster.manifest and cluster.file; where there is no file, the manifest's header
// becomes it.
void set_up_weights(Cluster& cluster);

// What each node has, in words of NodeWeights::inventory, as peers for this one: the head first.
std::vector<WeightPeer> weight_peers(const Cluster& cluster, const std::map<std::string, Endpoint>& endpoints,
                                     const std::map<std::string, std::string>& inventories);

// Fetches what this node's stages need and it lacks, with a progress line and a sentence about it.
void fetch_weights(Cluster& cluster, const PipelineLayout& layout);

}  // namespace shoal
