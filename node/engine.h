// The engine: the one thread of a process that computes. It owns the stages of this node and their caches,
// takes steps in order from a bounded queue and hands each back when done. It builds the stages too, again
// when the pipeline is laid out anew, and counts what it gets done, so that one that hangs can be told. The
// io thread never computes, the engine never does I/O, so a finished step is sent while the next is computed.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "model/sha256.h"
#include "sharding/stage.h"
#include "transport/messages.h"

namespace shoal {

// The hidden rows of one step on this node: [rows_max, n_embd] floats on a 64-byte boundary. Taken once at
// start-up and reused: the handle's deleter gives it back to its pool.
using StepBuffer = std::shared_ptr<AlignedBuffer>;

// One step on its way through this node.
struct StepJob {
  int stage = 0;  // global stage index
  uint64_t epoch = 0, step_id = 0;
  std::vector<CacheOp> ops;
  std::vector<BatchRow> rows;
  StepKind kind = StepKind::kDecode;
  int candidates = 1;               // wanted for each row with wants_logits; 0: the whole vocabulary
  StepBuffer buffer;                // [rows, n_embd]
  std::vector<StageTime> times;     // of the stages behind it; the engine adds its own
  int verify_slot = -1;             // whose rows the stages hash
  std::vector<Sha256> digests;      // as times
  std::vector<int32_t> overflowed;  // rows behind an adapter, of each slot the first (Stage::overflowed)
  std::chrono::steady_clock::time_point queued;  // when the engine took it

  // Filled by the engine.
  std::vector<RowOutput> outputs;
  Error error;
  bool failed = false;
  NumericFault fault = NumericFault::kNone;  // that made it fail
};

// What a node's steady clock showed at `time`, as the wire tells it.
inline uint64_t clock_microseconds(std::chrono::steady_clock::time_point time) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count());
}

// The hash of those of a step's rows that are of one slot. hidden: [rows, n_embd].
Sha256 digest_of(const float* hidden, int n_embd, std::span<const BatchRow> rows, int slot);

// What a stage has done since it was built.
struct StageStats {
  uint64_t steps = 0, rows = 0;
  uint64_t busy_ns = 0;  // computing
};

class Engine {
 public:
  // The stages are built on the engine thread by `make_stages`, so that memory is touched where it is used;
  // start() returns when they are ready, or throws what make_stages threw. `on_done` runs on the engine
  // thread.
  using Stages = std::vector<std::pair<int, std::unique_ptr<Stage>>>;
  using MakeStages = std::function<Stages()>;
  Engine(size_t queue_max, std::function<void(std::unique_ptr<StepJob>)> on_done);
  ~Engine();    // stops
  void stop();  // finishes the step being computed, drops the rest; what has been done can still be asked

  void start(const MakeStages& make_stages);
  // From any thread. False if the queue is full; the job then stays with the caller.
  [[nodiscard]] bool submit(std::unique_ptr<StepJob>& job);

  // Drops the steps that wait and builds other stages: `remake` gets those that were there and returns the
  // new ones, `done` is told the error's text, empty where there was none. Both run on the engine thread;
  // several orders are carried out one after the other.
  using RemakeStages = std::function<Stages(Stages)>;
  void rebuild(RemakeStages remake, std::function<void(std::string)> done);

  // Runs `work`, which says what is wrong, if anything, among the steps; `done` gets that, on the engine
  // thread.
  void run(std::function<std::string()> work, std::function<void(std::string)> done);

  // What has got done so far, and whether there is anything to do: from any thread. note_progress() is for
  // who builds stages, on any thread.
  uint64_t progress() const { return progress_; }
  bool working() const { return working_; }
  void note_progress() { ++progress_; }

  // From any thread.
  StageStats stats(int stage) const;
  struct Memory {
    uint64_t weights = 0, kv = 0, scratch = 0;
  };
  Memory memory() const;

 private:
  struct Hosted {
    int index;
    std::unique_ptr<Stage> stage;
    std::atomic<uint64_t> steps{0}, rows{0}, busy_ns{0};
  };
  struct Order {
    RemakeStages remake;
    std::function<std::string()> work;  // instead
    std::function<void(std::string)> done;
  };
  void loop();
  void compute(StepJob& job);
  void carry_out(Order order);
  void host(Stages stages);
  Stages release();

  const size_t queue_max_;
  std::function<void(std::unique_ptr<StepJob>)> on_done_;
  mutable std::mutex stages_mutex_;  // changed by the engine thread alone, which reads without it
  std::vector<std::unique_ptr<Hosted>> stages_;
  Memory memory_;
  std::atomic<uint64_t> progress_{0};
  std::atomic<bool> working_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<StepJob>> queue_;
  std::deque<Order> orders_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace shoal
