// How a starting cluster comes to its weights, the model's and those of adapters: the head's files and
// manifests, each node's own files or cache, and the fetching of what a shard lacks. Used by node/cluster.cc;
// what a running node needs later is Cluster::weights and adapter_weights. What takes a bootstrap is called
// by all ranks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "node/bootstrap.h"
#include "node/cluster.h"

namespace shoal {

// Opens this node's model file. Null where it has none and need not: it fetches its share. Throws SetupError.
std::shared_ptr<const GgufFile> open_model(const Cluster& cluster, bool must_have);

// The manifest of a file, read from disk where it was made before. Throws SetupError.
std::shared_ptr<const WeightManifest> make_manifest(const GgufFile& file, int threads);

// The manifest of the head's `file`, read from disk where it was made before; goes to all. `name`: of this
// node. `path`: what the file is called in messages where it is not here.
std::shared_ptr<const WeightManifest> share_manifest(Bootstrap& bootstrap, const std::string& name,
                                                     const GgufFile* file, const std::string& path,
                                                     int threads);

// Sets cluster.weights by cluster.manifest and cluster.file; where there is no file, the manifest's header
// becomes it.
void set_up_weights(Cluster& cluster);

// Opens the adapters that this node has; where there are several nodes, the others are fetched like the
// model. Says which node has another file than the head. Throws SetupError.
void agree_on_adapters(Cluster& cluster, Bootstrap& bootstrap, int threads);

// From now on others may ask this node for weights.
void offer_weights(Cluster& cluster, const std::shared_ptr<const TlsContext>& tls);

// Everybody says which tensors it has, so that those who lack some know whom to ask: the head first.
void find_weight_peers(Cluster& cluster, Bootstrap& bootstrap,
                       const std::map<std::string, Endpoint>& endpoints);

// Fetches what this node's stages need and it lacks, with a progress line and a sentence about it.
void fetch_weights(Cluster& cluster, const PipelineLayout& layout);

}  // namespace shoal
