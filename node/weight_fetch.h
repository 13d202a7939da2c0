// Fetching whole tensors from several nodes at once into the cache.
//
// One thread a peer keeps its link full with requests for blocks, compares what comes with the manifest and
// writes it; the tensors are dealt out one at a time, so a fast peer gives more of them. A tensor whose peer
// fails goes on with another where it stopped. Used once.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "model/weight_manifest.h"
#include "node/weight_cache.h"
#include "node/weight_link.h"

namespace shoal {

struct FetchOutcome {
  uint64_t fetched_bytes = 0;   // that came over the network
  uint64_t not_kept_bytes = 0;  // of tensors for which there is no room
  uint64_t bad_blocks = 0;
  double seconds = 0;
};

// What an earlier try wrote counts as far as it is right; the rest is cut off. How many blocks that is.
uint64_t keep_right_blocks(const WeightManifest& manifest, size_t tensor, WeightCache::Filling& filling);

class WeightFetch {
 public:
  WeightFetch(const WeightManifest& manifest, WeightCache& cache, const WeightAsker& asker,
              std::vector<WeightPeer> peers, IoThread& io, std::chrono::milliseconds patience);

  // Tensors by index. Throws SetupError (exit code 1) where nobody can give one; what has come is kept.
  FetchOutcome run(const std::vector<size_t>& tensors,
                   const std::function<void(uint64_t, uint64_t)>& progress);

 private:
  struct Job {
    size_t tensor;
    std::set<std::string> not_from;  // peers that said they do not have it
    uint64_t counted = 0;            // bytes of it in done_bytes_

    bool for_peer(const WeightPeer& peer) const {
      return peer.may_have(tensor) && !not_from.contains(peer.node);
    }
  };
  class Worker;

  void admit(const std::vector<size_t>& tensors);
  // A tensor for this peer; nothing where there is none now, or with `wait` where there will be none any
  // more.
  std::optional<Job> take(const WeightPeer& peer, bool wait);
  void give_back(Job job);
  void done(const Job& job, bool kept);
  void count_to(Job& job, uint64_t bytes);
  void received(uint64_t bytes);
  void bad_block(size_t tensor, uint64_t block, std::span<const std::byte> bytes, const std::string& peer);
  void disk_refused(const Job& job, const Error& error);
  void peer_failed(const std::string& peer, const std::string& why);
  void look_for_hopeless();  // under the lock

  const WeightManifest& manifest_;
  WeightCache& cache_;
  WeightAsker asker_;
  std::vector<WeightPeer> peers_;
  IoThread& io_;
  std::chrono::milliseconds patience_;  // for a connection

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> waiting_;
  size_t unfinished_ = 0;  // tensors neither done nor given up, those being fetched among them
  std::map<std::string, const WeightPeer*> serving_;
  size_t running_ = 0;    // threads
  std::string hopeless_;  // why it cannot be finished
  bool disk_full_ = false;
  uint64_t total_bytes_ = 0, done_bytes_ = 0;
  std::string failures_;
  FetchOutcome outcome_;
};

}  // namespace shoal
