// Where a node takes weights from: its own model file, its cache on disk, or other nodes; always compared
// with the head's manifest, always the bytes that are used.
//
//     NodeWeights weights(manifest, asker, own_file, std::move(cache));
//     weights.set_peers({{"laptop", "10.0.0.5", 7000}, ...});   // the head first
//     weights.fetch_missing(shards, progress);                   // fills the cache
//     load_shard(weights.model(), config, shard, pool, progress, nullptr, &weights);
//
// Knows nothing of MPI or plans: whoever starts or changes a pipeline calls it, from any thread, one call of
// fetch_missing at a time; load_shard reads through it on all threads of its pool, and a WeightServer gives
// from it to others meanwhile. A block that is not what the manifest says is asked for again, first from the
// same peer, then from the others, and counted; it is never used. What cannot be had is a SetupError (exit
// code 1) that names the tensor and says who failed how.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "model/weight_manifest.h"
#include "node/weight_cache.h"
#include "node/weight_link.h"
#include "node/weight_server.h"
#include "sharding/shard.h"

namespace shoal {

inline constexpr std::chrono::milliseconds kWeightPatience{10'000};

struct FetchReport {
  uint64_t needed_bytes = 0;    // of all tensors of the shards
  uint64_t cached_bytes = 0;    // found on this node's disk
  uint64_t fetched_bytes = 0;   // from other nodes
  uint64_t not_kept_bytes = 0;  // for which the disk has no room: fetched while loading, at each start
  double seconds = 0;
};

class NodeWeights : public BlockSource, public WeightProvider {
 public:
  // `own`: this node's model file, or null. `cache`: null where nothing is kept.
  NodeWeights(std::shared_ptr<const WeightManifest> manifest, WeightAsker asker,
              std::shared_ptr<const GgufFile> own, std::unique_ptr<WeightCache> cache);
  ~NodeWeights() override;

  const WeightManifest& manifest() const override { return *manifest_; }
  // The node's own file where it has one, otherwise the manifest's header.
  const GgufFile& model() const { return own_ ? *own_ : manifest_->model(); }
  bool has_file() const { return own_ != nullptr; }
  WeightCache* cache() { return cache_.get(); }  // null: nothing is kept

  // What this node shows to those that it asks. Before anything is fetched.
  void set_tls(std::shared_ptr<const TlsContext> tls) { asker_.tls = std::move(tls); }
  // Who may be asked, in this order. Those that lack a tensor say so.
  void set_peers(std::vector<WeightPeer> peers);
  // What is fetched from now on ends at once, with a SetupError, when this is requested to stop: the plan for
  // which it is fetched is over. Any thread may request it.
  void set_stop(std::stop_token stop);
  // Ends the connections that single blocks came over; the next block makes another.
  void end_links();
  // How long a connection to one is tried for.
  void set_patience(std::chrono::milliseconds patience) { patience_ = patience; }

  // Brings what these shards need and this node lacks into the cache. Nothing to do where it has the file.
  // Marks the tensors as used. `progress(done, total)` in bytes, from this thread.
  FetchReport fetch_missing(const ModelConfig& config, std::span<const ShardSpec> shards,
                            const std::function<void(uint64_t, uint64_t)>& progress = {});
  // The same for tensors by name.
  FetchReport fetch_missing(std::span<const std::string> tensors,
                            const std::function<void(uint64_t, uint64_t)>& progress = {});

  void read_block(const TensorInfo& tensor, uint64_t block, std::span<std::byte> out) override;
  void expect(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) override;

  // Which tensors this node can give, as text for others: "all", or a hexadecimal digit for four of them.
  std::string inventory() const;

  Result<void> give(size_t tensor, uint64_t offset, std::span<std::byte> out) override;

  uint64_t bad_blocks() const { return bad_blocks_; }          // found so far, wherever they came from
  uint64_t bytes_received() const { return bytes_received_; }  // of weights, from other nodes

 private:
  // To one peer, for single blocks: made when it is needed, by one thread while the others wait for it.
  struct Line {
    std::mutex mutex;
    std::shared_ptr<WeightLink> link;
    Error failed;  // why it could not be made the last time
    std::chrono::steady_clock::time_point failed_at;
  };
  void warn_of_bad_block(size_t tensor, uint64_t block, std::span<const std::byte> bytes,
                         const std::string& where);
  // Any peer's right bytes of a block. Throws.
  void fetch_block(size_t tensor, uint64_t block, std::span<std::byte> out);
  Result<void> fetch_block_from(const WeightPeer& peer, size_t tensor, uint64_t block,
                                std::span<std::byte> out, const std::stop_token& stop);
  Result<std::shared_ptr<WeightLink>> link_to(const WeightPeer& peer, const std::stop_token& stop);

  std::shared_ptr<const WeightManifest> manifest_;
  WeightAsker asker_;
  std::shared_ptr<const GgufFile> own_;
  std::unique_ptr<WeightCache> cache_;
  std::chrono::milliseconds patience_ = kWeightPatience;
  IoThread io_;
  std::mutex mutex_;
  std::vector<WeightPeer> peers_;
  std::stop_token stop_;
  std::map<std::string, std::shared_ptr<Line>> lines_;
  std::atomic<uint64_t> bad_blocks_{0}, bytes_received_{0};
};

// Of adapters in their order: what tells them from others. Empty for none.
std::string adapters_hash(std::span<const std::shared_ptr<NodeWeights>> adapters);

// What inventory() said, of a model of so many tensors. Empty for "all".
std::vector<bool> parse_inventory(const std::string& text, size_t tensors);

struct FetchedManifest {
  std::shared_ptr<const WeightManifest> manifest;
  std::string model_hash;  // what nodes compare in a hello
};
// From a node that has it: the model's, or the adapter's that the asker means. `name`: what it is called in
// messages. Errc::kRefused: the node has none.
Result<FetchedManifest> fetch_manifest(const WeightAsker& asker, const WeightPeer& peer,
                                       const std::string& name);

}  // namespace shoal
