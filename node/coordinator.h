// The coordinator lives on the head: it takes requests, gives each sequence a cache slot, lets the scheduler
// choose rows, sends steps, samples from what comes back and tells the caller token by token. It decides and
// never computes. It belongs to the io thread; submit() and cancel() may be called from any thread.
#pragma once

#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "model/grammar_filter.h"
#include "model/sampler.h"
#include "model/tokenizer.h"
#include "node/admission.h"
#include "node/cache_slots.h"
#include "node/fidelity.h"
#include "node/logit_bias.h"
#include "node/node.h"
#include "node/scheduler.h"
#include "node/trace.h"

namespace shoal {

inline constexpr double kLogprobMin = -9999;  // stands for minus infinity, which JSON cannot write

// kStop: the model ended it. kLength: max_tokens. kContextFull: the context has no room for another token.
enum class FinishReason { kStop, kLength, kContextFull, kCancelled, kError };

// One token of an answer, or its end.
struct GenerationEvent {
  uint64_t request = 0;
  int32_t token = -1;  // -1: no token with this event
  bool finished = false;
  FinishReason reason = FinishReason::kStop;
  Error error;               // where reason is kError
  double retry_after_s = 0;  // where that is kQueueFull: when there is room, as predicted
  int prompt_rows = 0;  // with the first token: rows of the prompt that were computed, not found in the cache
  // Where the request asked: natural log-probabilities under the model, before bias, penalties and
  // temperature.
  double logprob = 0;                                 // of the token
  std::vector<std::pair<int32_t, double>> best = {};  // the likeliest tokens, best first
  std::vector<float> embedding = {};                  // where that was asked for; the only event but the end
};

// Which adapter a request's tokens pass through: counted from 1 in the order of the cluster file; 0: none.
struct AdapterChoice {
  int index = 0;
  float scale = 1;  // multiplies what it adds
};

struct GenerationRequest {
  std::vector<int32_t> prompt;  // at least one token
  int max_tokens = 128;         // at least 1
  SamplerOptions sampling;
  LogitBias logit_bias;
  AdapterChoice adapter;
  AnswerGrammar grammar;    // where it is set the answer is kept within it
  int logprobs = -1;        // tell so many of the likeliest tokens with each; -1: no log-probabilities
  bool embeds = false;      // the prompt's embedding is wanted, no answer
  bool ignore_end = false;  // go on after an end-of-generation token (benchmarks)
  std::string user;         // users take turns, and a cached prompt serves the user alone who sent it
  int priority = 0;         // higher goes first
  double deadline_s = 0;    // from submission to the last token; 0: none
  std::function<void(const GenerationEvent&)> on_event;  // called on the io thread; must not block
};

class Coordinator {
 public:
  // `tokenizer` may be null: then nothing ends an answer but its length.
  // `model`: what the pipeline is expected to take; the running steps correct it.
  Coordinator(Node& node, const PipelineLayout& layout, const SchedulerLimits& limits, PipelineModel model,
              const Tokenizer* tokenizer);
  ~Coordinator();  // requests under way end without an event; the node outlives the coordinator
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  uint64_t submit(GenerationRequest request);
  void cancel(uint64_t request);
  // Records what happens from now on; null ends it. When this returns nothing is recorded in the one before.
  void set_trace(Trace* trace);
  // Compares what happens from now on with what was predicted, and warns of drift; null ends it likewise.
  void set_fidelity(Fidelity* fidelity);
  // Sequences taken off so far because the cache was full, to be computed again.
  uint64_t preempted() const { return preempted_; }
  // When a step last came back from the pipeline, computed; on the io thread.
  std::optional<std::chrono::steady_clock::time_point> last_step() const { return last_step_; }

 private:
  struct Sequence {
    uint64_t id;
    GenerationRequest request;
    Sampler sampler;
    std::vector<int32_t> tokens;  // prompt and answer; behind an encoder: the start token and the answer
    int slot;                     // -1: taken off to make room, waits to be computed again
    int reused;                   // positions of the prompt that a cache held already
    double deadline_s;
    int answered = 0;
    std::optional<GrammarFilter> grammar = {};
  };
  struct Waiting {
    GenerationRequest request;
    double deadline_s;
  };
  struct StepInFlight {
    ScheduledStep step;
    std::vector<std::pair<int32_t, uint64_t>> wanted;  // row index, sequence
    double sent_s = 0;
    bool all_logits =
        false;  // somebody wants those of the whole vocabulary: a far larger answer than planned
  };

  void start(uint64_t id, GenerationRequest request);
  void admit();
  bool readmit();
  void run(uint64_t id, Waiting waiting, const CacheSlots::Prefix& prefix);
  void begin(Sequence& sequence, const CacheSlots::Prefix& prefix);
  std::optional<Error> refusal_of(const GenerationRequest& request) const;
  int prompt_positions(const GenerationRequest& request) const;
  std::vector<int32_t> first_tokens(const GenerationRequest& request) const;
  CacheSlots::Prefix prefix_of(const GenerationRequest& request, std::span<const int32_t> tokens) const;
  std::vector<Resident> residents() const;
  bool take_one_off(uint64_t needy);
  void watch_deadlines();
  double row_seconds() const;
  void pump();
  void pump_at(double time_s);
  void learn(const StepInFlight& in_flight, const std::vector<StageTime>& times);
  void compare(const StepInFlight& in_flight, double answered_s, const std::vector<StageTime>& times);
  void send(ScheduledStep step);
  void on_outcome(StepOutcome outcome);
  Result<int32_t> choose(Sequence& sequence, const RowOutput& output);
  void take_token(Sequence& sequence, const RowOutput& output);
  void take_embedding(Sequence& sequence, const RowOutput& output);
  void mark(uint64_t id, TracedRequest::Mark mark, int tokens,
            TracedRequest::Mark reached = TracedRequest::Mark::kArrived);
  void trace_step(uint64_t id, const StepInFlight& in_flight, const std::vector<StageTime>& times);
  void finish(uint64_t id, FinishReason reason, const Error& error = {});
  void fail_all(const Error& error);
  void watch();
  void on_silence(double seconds);

  Node& node_;
  const PipelineLayout layout_;
  const Tokenizer* tokenizer_;
  Scheduler scheduler_;
  std::atomic<uint64_t> next_id_{1};
  uint64_t next_step_ = 1;
  AdmissionQueue queue_;
  std::map<uint64_t, Waiting> waiting_;  // the requests in queue_
  std::map<uint64_t, std::unique_ptr<Sequence>> running_;
  std::map<uint64_t, StepInFlight> steps_;
  CacheSlots cache_;
  boost::asio::steady_timer deadlines_;  // of the request that has the least time left
  boost::asio::steady_timer pacing_;     // asks the scheduler again when it said so
  Trace* trace_ = nullptr;               // null: nothing is recorded
  Fidelity* fidelity_ = nullptr;         // null: nothing is compared
  Error broken_;                         // set once the pipeline is lost
  bool is_broken_ = false;
  std::atomic<uint64_t> preempted_{0};
  boost::asio::steady_timer
      watchdog_;  // ends a run whose steps are not answered: a node that hangs closes nothing
  bool watching_ = false;
  std::chrono::steady_clock::time_point last_outcome_;
  std::optional<std::chrono::steady_clock::time_point> last_step_;
  std::shared_ptr<int> alive_ = std::make_shared<int>();  // gone with the coordinator; a timer may outlast it
};

}  // namespace shoal
