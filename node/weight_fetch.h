// Fetching whole tensors from several nodes at once into the cache.
//
// One thread a peer (node/weight_fetch_worker.h) keeps its link full with requests for blocks, compares what
// comes with the manifest and writes it; the tensors are dealt out one at a time, so a fast peer gives more
// of them. A tensor whose peer fails goes on with another where it stopped, and so does one whose peer has
// fallen silent while another has nothing to do. It ends when everything is there, whoever is still being
// called. Used once.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <stop_token>
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

  // Tensors by index. Throws SetupError (exit code 1) where nobody can give one, and at once where `stop` is
  // requested, from any thread; what has come is kept.
  FetchOutcome run(const std::vector<size_t>& tensors,
                   const std::function<void(uint64_t, uint64_t)>& progress, const std::stop_token& stop = {});

 private:
  class Worker;
  struct Seat;
  struct Job {
    size_t tensor;
    std::map<std::string, std::string> not_from = {};  // peers that refused it, and what they said
    std::set<const Seat*> slow = {};                   // it was taken from, for their silence
    uint64_t counted = 0;                              // bytes of it in done_bytes_
  };
  // What a worker does, for the others to see.
  struct Seat {
    const WeightPeer* peer;
    std::stop_source stop = {};  // of its connection
    bool linked = false;
    bool idle = false;  // there is nothing that it could fetch
    bool gone = false;  // it gives nothing any more
    std::set<Job*> jobs = {};
    std::optional<std::chrono::steady_clock::time_point> waits_since = {};  // for an answer

    bool may_give(const Job& job) const {
      return !gone && peer->may_have(job.tensor) && !job.not_from.contains(peer->node);
    }
  };

  void admit(const std::vector<size_t>& tensors);
  void fetch_all(const std::function<void(uint64_t, uint64_t)>& progress, const std::stop_token& stop);
  void end_all();
  // For a connection about to be made; nothing where none is needed any more.
  std::optional<std::stop_token> begin_link(Seat& seat);
  void linked(Seat& seat, bool is);
  // A tensor for this worker; null where there is none now, or with `wait` where there will be none any more.
  Job* take(Seat& seat, bool wait);
  void give_back(Seat& seat, Job& job);
  void refused(Seat& seat, Job& job, const std::string& why);  // it goes back
  void done(Seat& seat, Job& job, bool kept);
  void disk_refused(Seat& seat, Job& job, const Error& error);
  void count_to(Job& job, uint64_t bytes);
  void waits(Seat& seat);
  void answered(Seat& seat, bool well);
  void received(uint64_t bytes);
  void bad_block(size_t tensor, uint64_t block, std::span<const std::byte> bytes, const std::string& peer);
  void peer_failed(Seat& seat, const std::string& why);
  // The rest under the lock.
  bool over() const { return unfinished_ == 0 || !hopeless_.empty() || stopped_; }
  bool is_for(const Job& job, const Seat& seat) const;
  void put_back(Job& job);
  void look_for_hopeless();
  std::chrono::steady_clock::duration standstill(std::chrono::steady_clock::time_point now) const;
  void look_for_silent();
  void stop_the_unneeded();

  const WeightManifest& manifest_;
  WeightCache& cache_;
  WeightAsker asker_;
  std::vector<WeightPeer> peers_;
  IoThread& io_;
  std::chrono::milliseconds patience_;  // for a connection

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;  // and seats_: all of them, in place from the start
  std::deque<Seat> seats_;
  std::deque<Job*> waiting_;
  size_t unfinished_ = 0;  // tensors neither done nor given up, those being fetched among them
  size_t running_ = 0;     // threads
  std::string hopeless_;   // why it cannot be finished
  bool stopped_ = false;   // nobody wants it any more
  std::chrono::steady_clock::duration longest_answer_{};
  std::chrono::steady_clock::time_point looked_;  // for those that are silent
  bool disk_full_ = false;
  uint64_t total_bytes_ = 0, done_bytes_ = 0;
  std::string failures_;
  FetchOutcome outcome_;
};

}  // namespace shoal
