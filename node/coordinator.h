// The coordinator lives on the head: it takes requests, gives each sequence a cache slot, lets the scheduler
// choose rows, sends steps, samples from what comes back and tells the caller token by token. It decides and
// never computes. It belongs to the io thread; submit() and cancel() may be called from any thread.
#pragma once

#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "model/sampler.h"
#include "model/tokenizer.h"
#include "node/logit_bias.h"
#include "node/node.h"
#include "node/scheduler.h"

namespace shoal {

inline constexpr size_t kRequestsQueuedMax = 1024;  // waiting for a slot; more are refused

inline constexpr double kLogprobMin = -9999;  // stands for minus infinity, which JSON cannot write

enum class FinishReason { kStop, kLength, kCancelled, kError };

// One token of an answer, or its end.
struct GenerationEvent {
  uint64_t request = 0;
  int32_t token = -1;  // -1: no token with this event
  bool finished = false;
  FinishReason reason = FinishReason::kStop;
  Error error;          // where reason is kError
  int prompt_rows = 0;  // with the first token: rows of the prompt that were computed, not found in the cache
  // Where the request asked: natural log-probabilities under the model, before bias, penalties and
  // temperature.
  double logprob = 0;                            // of the token
  std::vector<std::pair<int32_t, double>> best = {};  // the likeliest tokens, best first
};

struct GenerationRequest {
  std::vector<int32_t> prompt;  // at least one token
  int max_tokens = 128;
  SamplerOptions sampling;
  LogitBias logit_bias;
  int logprobs = -1;        // tell so many of the likeliest tokens with each; -1: no log-probabilities
  bool ignore_end = false;  // go on after an end-of-generation token (benchmarks)
  std::function<void(const GenerationEvent&)> on_event;  // called on the io thread; must not block
};

class Coordinator {
 public:
  // `tokenizer` may be null: then nothing ends an answer but its length.
  Coordinator(Node& node, const PipelineLayout& layout, const SchedulerLimits& limits,
              const Tokenizer* tokenizer);
  ~Coordinator();  // requests under way end without an event; the node outlives the coordinator
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  uint64_t submit(GenerationRequest request);
  void cancel(uint64_t request);

 private:
  struct Sequence {
    uint64_t id;
    GenerationRequest request;
    Sampler sampler;
    std::vector<int32_t> tokens;  // prompt and answer
    int slot;
    int reused = 0;  // positions of the prompt that the slot's cache held already
    int answered = 0;
  };
  struct StepInFlight {
    ScheduledStep step;
    std::vector<std::pair<int32_t, uint64_t>> wanted;  // row index, sequence
  };

  void start(uint64_t id, GenerationRequest request);
  void admit();
  int best_slot(const std::vector<int32_t>& prompt, int& reused) const;
  void pump();
  void send(ScheduledStep step);
  void on_outcome(StepOutcome outcome);
  void take_token(Sequence& sequence, const RowOutput& output);
  void finish(uint64_t id, FinishReason reason, const Error& error = {});
  void fail_all(const Error& error);
  void watch();

  Node& node_;
  const PipelineLayout layout_;
  const Tokenizer* tokenizer_;
  Scheduler scheduler_;
  std::atomic<uint64_t> next_id_{1};
  uint64_t next_step_ = 1;
  std::deque<std::pair<uint64_t, GenerationRequest>> waiting_;
  std::map<uint64_t, std::unique_ptr<Sequence>> running_;
  std::map<uint64_t, StepInFlight> steps_;
  std::vector<bool> slot_used_;
  std::vector<std::vector<int32_t>>
      slot_tokens_;  // what each slot's cache holds: a later prompt may begin alike
  Error broken_;     // set once the pipeline is lost
  bool is_broken_ = false;
  boost::asio::steady_timer
      watchdog_;  // ends a run whose steps are not answered: a node that hangs closes nothing
  bool watching_ = false;
  std::chrono::steady_clock::time_point last_outcome_;
  std::shared_ptr<int> alive_ = std::make_shared<int>();  // gone with the coordinator; a timer may outlast it
};

}  // namespace shoal
