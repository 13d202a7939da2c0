// What the coordinator needs of the world around it: one thread to run on, a clock, timers, and a pipeline to
// send steps into. A Node is one (node/node.h); a simulation of a cluster is another, with a clock of its
// own.
//
// Everything but post(), call() and now_s() is called on the host's thread, and everything told is told
// there.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "node/engine.h"
#include "sharding/stage.h"
#include "transport/messages.h"

namespace shoal {

// The outcome of a step, at the head.
struct StepOutcome {
  uint64_t step_id = 0;
  std::vector<RowOutput> rows;
  bool failed = false;
  Error error;
  std::vector<StageTime> stage_times;    // in pipeline order, where it did not fail
  std::vector<Sha256> digests = {};      // the same, where they were asked for
  std::vector<int32_t> overflowed = {};  // rows behind adapters, of each sequence at least the first
};

class PipelineHost {
 public:
  static constexpr double kNever = std::numeric_limits<double>::infinity();
  enum class Timer { kDeadlines, kPacing, kSilence };

  virtual ~PipelineHost() = default;
  virtual double now_s() const = 0;  // of a clock that never jumps

  // From any thread: runs `work` on the host's; call() waits for it.
  virtual void post(std::function<void()> work) = 0;
  virtual void call(std::function<void()> work) = 0;
  // Runs `work` at that time, instead of what the timer was set to before. kNever: nothing any more.
  virtual void set_timer(Timer timer, double time_s, std::function<void()> work) = 0;

  // Fails by an outcome.
  virtual void send_step(std::unique_ptr<StepJob> job) = 0;
  // For the hidden rows of a step; null where all are in use.
  virtual StepBuffer take_buffer() = 0;
  // Outcomes, and failures that concern no step (a node lost: step_id 0). A failure from before is told at
  // once. An empty function ends the telling: when this returns none runs any more.
  virtual void set_on_outcome(std::function<void(StepOutcome)> on_outcome) = 0;

  // Asks every node what its clock shows, at most several times a second.
  virtual void ask_clocks() = 0;
  // How far a node's steady clock is ahead of this one's, where it has answered.
  virtual std::optional<double> clock_ahead_s(const std::string& node) const = 0;
};

}  // namespace shoal
