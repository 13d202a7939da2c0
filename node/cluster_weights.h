// How a node comes to its weights, the model's and those of adapters: the head's files and manifests, each
// node's own files or cache, and the fetching of what a shard lacks. Used by node/cluster.cc and, for a node
// that joins, node/node_command.cc. What takes a bootstrap is called by all ranks.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "node/bootstrap.h"
#include "node/cluster.h"

namespace shoal {

// Opens this node's model file. Null where it has none and need not: it fetches its share. Throws SetupError.
std::shared_ptr<const GgufFile> open_model(const Cluster& cluster, bool must_have);

// The manifest of a file, read from disk where it was made before. Throws SetupError.
std::shared_ptr<const WeightManifest> make_manifest(const GgufFile& file, int threads);

// The same from the file's bytes as they are now: for who asks whether they are right. Throws SetupError.
std::shared_ptr<const WeightManifest> make_manifest_anew(const GgufFile& file, int threads);

// Where a node keeps what it fetches. Null where nothing can be kept, which is said.
std::unique_ptr<WeightCache> open_weight_cache(const NodeConfig& node);

// The manifest of the head's `file`, read from disk where it was made before; goes to all. `name`: of this
// node. `path`: what the file is called in messages where it is not here.
std::shared_ptr<const WeightManifest> share_manifest(Bootstrap& bootstrap, const std::string& name,
                                                     const GgufFile* file, const std::string& path,
                                                     int threads);

// What a cluster computes with: the fingerprint of the head's file and, after dots, the digest of its
// manifest and, where there are adapters, one of theirs. Nodes compare it in each hello, and a head signs it
// in each plan, so what a node holds under other manifests never serves: the fingerprint alone samples the
// file.
std::string weights_identity(const std::string& fingerprint, const WeightManifest& model,
                             std::span<const std::shared_ptr<const WeightManifest>> adapters);
std::string fingerprint_in(const std::string& identity);

// Sets cluster.weights by cluster.manifest. `own`: this node's model file, or null. After
// agree_on_adapters().
void set_up_weights(Cluster& cluster, const std::shared_ptr<const GgufFile>& own);

// Opens the adapters that this node has; where there are several nodes, the others are fetched like the
// model. Says which node has another file than the head. Where there is a manifest cluster.model_hash becomes
// what weights_identity() says. Throws SetupError.
void agree_on_adapters(Cluster& cluster, Bootstrap& bootstrap, int threads);

// From now on others may ask this node for weights.
void offer_weights(Cluster& cluster, const std::shared_ptr<const TlsContext>& tls);

// Everybody says which tensors it has, so that those who lack some know whom to ask: the head first.
void find_weight_peers(Cluster& cluster, Bootstrap& bootstrap,
                       const std::map<std::string, Endpoint>& endpoints);

// Whom `node` may ask from now on: all others that a layout names, the head first. What they have is not
// known.
void set_peers(const PipelineLayout& layout, const std::string& node, NodeWeights& weights,
               std::span<const std::shared_ptr<NodeWeights>> adapters);

// What they fetch from now on ends when this is requested.
void set_stop(const std::stop_token& stop, NodeWeights& weights,
              std::span<const std::shared_ptr<NodeWeights>> adapters);

// Fetches what the shards need and the node lacks, with a progress line and a sentence about it.
// `on_progress`: called while it goes on, from some thread; a slow link may bring nothing for seconds.
void fetch_weights(NodeWeights& weights, const std::string& node, const ModelConfig& model,
                   std::span<const ShardSpec> shards, const std::function<void()>& on_progress = {});

// The same for adapters, of which all that the shards need is fetched.
void fetch_adapters(std::span<const LoraFile> adapters, std::span<const std::shared_ptr<NodeWeights>> weights,
                    const std::string& node, const ModelConfig& model, std::span<const ShardSpec> shards,
                    const std::function<void()>& on_progress = {});

}  // namespace shoal
