// Fetches what a node would get if another were lost (node/foresight.h) into its cache, while it has nothing
// better to do: a recovery then loads from the disk.
//
// One thread asks the head for one block at a time, compares it with the manifest, and rests for as long as
// the block took, so that half of the link is left to others at least; while answers are given the head
// leaves three quarters of its own to them anyway (node/weight_server.h). What does not fit the cache's bound
// is left out. want() and stop() may be called from any thread and do not wait. What the head, the link or
// the disk refuse is a line in the log: it is fetched when it is needed.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "model/model_config.h"
#include "node/io_thread.h"
#include "node/node_weights.h"
#include "node/weight_link.h"
#include "sharding/shard.h"
#include "transport/messages.h"

namespace shoal {

class Node;

class AheadFetch {
 public:
  // The weights have a cache, and outlive this.
  AheadFetch(NodeWeights& weights, WeightAsker asker, WeightPeer head, const ModelConfig& model);
  ~AheadFetch();
  AheadFetch(const AheadFetch&) = delete;
  AheadFetch& operator=(const AheadFetch&) = delete;

  using Report = std::function<void(const FetchedAhead&)>;
  // In this order, instead of what was wanted before; `report` is told at the end, from the thread that
  // fetches.
  void want(std::vector<ShardSpec> shards, Report report);
  // What goes on ends: the node is to load now what it needs. A block that was asked for is not waited for.
  void stop();
  // Stops for good; returns when its thread has ended.
  void end();

 private:
  struct Order {
    std::vector<ShardSpec> shards;
    Report report;
  };
  void run();
  std::optional<FetchedAhead> carry_out(const Order& order, uint64_t number);
  std::vector<size_t> tensors_of(const std::vector<ShardSpec>& shards) const;
  bool fetch(size_t tensor, uint64_t number);
  bool fetch_blocks(size_t tensor, WeightCache::Filling& filling, uint64_t number);
  std::optional<PayloadBuffer> ask(size_t tensor, uint64_t block, uint64_t number);
  bool connect();
  void rest(std::chrono::steady_clock::duration length, uint64_t number);
  bool current(uint64_t number) const { return number_ == number; }

  NodeWeights& weights_;
  WeightCache& cache_;
  const WeightAsker asker_;
  const WeightPeer head_;
  const ModelConfig& model_;
  IoThread io_;
  std::unique_ptr<WeightLink> link_;  // of the thread, as are the next two
  std::string said_;
  uint64_t fetched_bytes_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Order> next_;
  std::atomic<uint64_t> number_{0};  // of the last order; stop() is one too
  bool ending_ = false;
  std::thread thread_;
};

// As long as it lives, a node's orders from its head to fetch ahead are carried out. `fetch` may be null:
// they are passed over.
class AheadOrders {
 public:
  AheadOrders(Node& node, AheadFetch* fetch, int n_layer);
  ~AheadOrders();
  AheadOrders(const AheadOrders&) = delete;
  AheadOrders& operator=(const AheadOrders&) = delete;

 private:
  Node& node_;
  AheadFetch* const fetch_;
};

}  // namespace shoal
