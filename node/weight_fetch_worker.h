// What one thread of a WeightFetch does with one peer. Calls nobody but the fetch, which outlives it.
#pragma once

#include <cstdint>
#include <deque>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "node/weight_fetch.h"

namespace shoal {

class WeightFetch::Worker {
 public:
  Worker(WeightFetch& fetch, Seat& seat) : fetch_(fetch), seat_(seat), peer_(*seat.peer) {}

  // Returns when there is nothing more to do, or when the peer is no good.
  void run();

 private:
  // A tensor being fetched.
  struct Active {
    Job* job;
    std::unique_ptr<WeightCache::Filling> filling;
    uint64_t next_ask = 0, next_write = 0;  // blocks
    bool dropped = false;
  };
  struct Asked {
    std::shared_ptr<Active> active;
    uint64_t block;
    std::future<Result<WeightLink::Answer>> answer;
  };

  // True when there is nothing more to do, false where the link is no good any more.
  bool work();
  void ask_ahead();
  const TensorInfo& info(const Active& active) const { return fetch_.manifest_.tensor(active.job->tensor); }
  std::future<Result<WeightLink::Answer>> ask(const Active& active, uint64_t block);
  Result<WeightLink::Answer> wait_for(std::future<Result<WeightLink::Answer>>& answer);
  // False where another process is at it: the job goes back.
  bool begin(Job& job);
  void go_on_after(Active& active);
  // False where the link is no good any more.
  bool handle(Asked& next);
  void write(Active& active, std::span<const std::byte> bytes);
  void finish(Active& active);
  // Gives back every tensor that was begun and not finished.
  void drop_all();

  WeightFetch& fetch_;
  Seat& seat_;
  const WeightPeer& peer_;
  std::unique_ptr<WeightLink> link_;
  std::shared_ptr<Active> active_;  // asked for last
  std::deque<Asked> asked_;         // oldest first
  uint64_t blocks_ = 0;             // written
  bool untrusted_ = false;
  std::string why_;
};

}  // namespace shoal
