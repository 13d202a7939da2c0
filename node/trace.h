// A request's way through the pipeline, as a file that chrome://tracing and ui.perfetto.dev show (Chrome's
// trace event format, as a JSON array): a track a stage with what it computed when, steps on links and in
// queues, and each request from its arrival to its end.
//
// A stage tells how long a step waited and was computed, not when: nodes have no common clock. The head knows
// when it sent the step and had its answer; the stages' times are laid between in pipeline order, and what
// remains of the lap is split evenly over the links that the step crossed.
//
// The io thread records, the main thread writes: recording never waits for a disk. What is recorded and not
// yet written is bounded; beyond that records are dropped, and the file says how many.
#pragma once

#include <cstdint>
#include <fstream>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "node/pipeline_layout.h"
#include "transport/messages.h"

namespace shoal {

// All times are seconds of the steady clock.
struct TracedStep {
  uint64_t id = 0;
  double sent_s = 0, answered_s = 0;
  int decode_rows = 0, prompt_rows = 0;
  std::vector<uint64_t> requests;  // with rows in it
  std::vector<StageTime> times;    // [stages]
};

struct TracedRequest {
  // kTakenOff: before its first token; it waits again.
  enum class Mark : uint8_t { kArrived, kStarted, kTakenOff, kFirstToken, kEnded };
  uint64_t id = 0;
  Mark mark = Mark::kArrived;
  double time_s = 0;
  Mark reached = Mark::kArrived;  // with kEnded: the last mark before
  int tokens = 0;  // kArrived: of the prompt; kStarted: of it in the cache; kEnded: of the answer
};

// Something that befell the cluster.
struct TracedEvent {
  double time_s = 0;
  std::string text;
};

class Trace {
 public:
  // Throws SetupError (exit 1) where the file cannot be written.
  Trace(const std::string& path, const PipelineLayout& layout);
  ~Trace();  // writes the rest; nobody records any more

  // From any thread.
  void add(TracedStep step);
  void add(const TracedRequest& request);
  void add(TracedEvent event);
  // Steps recorded from now on went through another pipeline.
  void lay_out(const PipelineLayout& layout);
  // From one thread: writes what has been recorded.
  void write();

 private:
  static constexpr size_t kRecordsMax = 1 << 16;  // not yet written

  void put(const std::string& event);
  void put_tracks();
  void put_step(const TracedStep& step);
  void put_request(const TracedRequest& request);
  int64_t microseconds(double time_s);

  const std::string path_;
  PipelineLayout layout_;
  std::ofstream out_;
  bool seeks_ = false;  // a file, no pipe
  bool first_event_ = true;
  double begin_s_ = -1;               // of the trace
  std::vector<double> stage_free_s_;  // when each stage had computed its last step, as laid out

  std::mutex mutex_;
  std::vector<TracedStep> steps_;
  std::vector<TracedRequest> requests_;
  std::vector<TracedEvent> events_;
  std::vector<std::pair<size_t, PipelineLayout>> layouts_;  // each after so many of steps_
  uint64_t dropped_ = 0;
};

}  // namespace shoal
