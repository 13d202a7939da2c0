// The coordinator lives on the head: it takes requests, gives each sequence a cache slot, lets the scheduler
// choose rows, sends steps, samples from what comes back and tells the caller token by token. It decides and
// never computes. Where the pipeline is lost the sequences wait, and are computed again from their tokens in
// the next one: what has been said stands, and the rest comes out the same. It belongs to the io thread;
// submit() and cancel() may be called from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/tokenizer.h"
#include "node/admission.h"
#include "node/cache_slots.h"
#include "node/fidelity.h"
#include "node/generation_request.h"
#include "node/pipeline_host.h"
#include "node/pipeline_layout.h"
#include "node/scheduler.h"
#include "node/trace.h"
#include "node/verifier.h"

namespace shoal {

class Coordinator {
 public:
  // `tokenizer` may be null: then nothing ends an answer but its length.
  // `model`: what the pipeline is expected to take; the running steps correct it.
  Coordinator(PipelineHost& host, const PipelineLayout& layout, const SchedulerLimits& limits,
              PipelineModel model, const Tokenizer* tokenizer);
  ~Coordinator();  // requests under way end without an event; the host outlives the coordinator
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
  // Tokens that were computed again after a pipeline was lost.
  uint64_t replayed() const { return replayed_; }

  // ---- For who keeps the pipeline (node/pipeline_keeper.h); on the io thread ----
  // `broken`: a step failed, or none is answered. `answered`: one was. `overflowed`: behind an adapter the
  // same answer came to numbers that are not finite, twice. Without a keeper a failure ends everything.
  struct Keeper {
    std::function<void(const Error&)> broken;
    std::function<void()> answered;
    std::function<void()> overflowed;
  };
  void set_keeper(Keeper keeper) { keeper_ = std::move(keeper); }
  // The pipeline is gone: what is under way in it is forgotten, requests wait.
  void suspend();
  // Here is another: all go on.
  void resume(uint64_t epoch, const PipelineLayout& layout, const SchedulerLimits& limits,
              PipelineModel model);
  // Requests under way end with this error. close() refuses later ones too, until resume().
  void end_all(const Error& error, double retry_after_s);
  void close(const Error& error, double retry_after_s);
  bool idle() const { return running_.empty() && waiting_.empty(); }
  // Like set_fidelity, for what was resumed.
  void compare_with(Fidelity* fidelity);
  // Steps are sampled for it from now on; null ends it.
  void set_verifier(Verifier* verifier) { verifier_ = verifier; }
  // Why requests are refused, if they are; from any thread but the io thread.
  std::optional<Error> refuses();
  // When a step last came back from this pipeline, computed: by the host's clock.
  std::optional<double> last_step_s() const { return last_step_s_; }

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
    bool was_lost = false;    // with its pipeline, and has not been begun again
    uint64_t first_step = 0;  // that can have rows of it since it was begun last
    int overflows = 0;
    bool begins_anew = false;  // once what is under way of it has come back; no row is sent until then
  };
  struct Waiting {
    GenerationRequest request;
    double deadline_s;
    double since_s;
  };
  struct StepInFlight {
    ScheduledStep step;
    std::vector<std::pair<int32_t, uint64_t>> wanted;  // row index, sequence
    std::map<uint64_t, std::string> cache_owners;      // of its sequences behind adapters: those may overflow
    double sent_s = 0;
    bool all_logits =
        false;  // somebody wants those of the whole vocabulary: a far larger answer than planned
    std::optional<SampledStep> sampled;  // of one sequence's rows
    uint64_t sampled_sequence = 0;
  };

  void start(uint64_t id, GenerationRequest request);
  void admit();
  const Sequence* readmit();
  bool is_being_computed(const Sequence& sequence, int held) const;
  bool goes_before(uint64_t id, const GenerationRequest& request, const Sequence& taken_off) const;
  void run(uint64_t id, Waiting waiting, const CacheSlots::Prefix& prefix);
  void begin(Sequence& sequence, const CacheSlots::Prefix& prefix);
  int prompt_positions(const GenerationRequest& request) const;
  std::vector<int32_t> first_tokens(const GenerationRequest& request) const;
  CacheSlots::Prefix prefix_of(const GenerationRequest& request, std::span<const int32_t> tokens) const;
  std::vector<Resident> residents() const;
  bool take_one_off(uint64_t needy);
  bool make_way(const Waiting& waiting, int length);
  void take_off(uint64_t id);
  void watch_deadlines();
  double row_seconds() const;
  void pump();
  void pump_at(double time_s);
  void learn(const StepInFlight& in_flight, const std::vector<StageTime>& times);
  void compare(const StepInFlight& in_flight, double answered_s, const std::vector<StageTime>& times);
  void send(ScheduledStep step);
  void sample(StepJob& job, StepInFlight& in_flight);
  bool hand_over(StepInFlight& in_flight, const StepOutcome& outcome);
  void on_outcome(StepOutcome outcome);
  Result<int32_t> choose(Sequence& sequence, const RowOutput& output);
  void take_token(Sequence& sequence, const RowOutput& output);
  void take_embedding(Sequence& sequence, const RowOutput& output);
  void mark(uint64_t id, TracedRequest::Mark mark, int tokens = 0,
            TracedRequest::Mark reached = TracedRequest::Mark::kArrived);
  void trace_step(uint64_t id, const StepInFlight& in_flight, const std::vector<StageTime>& times);
  void finish(uint64_t id, FinishReason reason, const Error& error = {}, double retry_after_s = 0);
  void broken(Error error);
  std::string why_overflow_unusable(const StepInFlight& in_flight, std::span<const int32_t> rows) const;
  void take_overflows(const StepInFlight& in_flight, uint64_t step_id, std::span<const int32_t> rows);
  void take_overflow(Sequence& sequence);
  void compute_anew(Sequence& sequence);
  void begin_anew();
  void watch();

  PipelineHost& host_;
  PipelineLayout layout_;
  uint64_t epoch_ = 1;  // of the layout
  const Tokenizer* tokenizer_;
  Scheduler scheduler_;
  std::atomic<uint64_t> next_id_{1};
  uint64_t next_step_ = 1;
  AdmissionQueue queue_;
  std::map<uint64_t, Waiting> waiting_;  // the requests in queue_
  std::map<uint64_t, std::unique_ptr<Sequence>> running_;
  std::map<uint64_t, StepInFlight> steps_;
  CacheSlots cache_;
  Trace* trace_ = nullptr;        // null: nothing is recorded
  Fidelity* fidelity_ = nullptr;  // null: nothing is compared
  Verifier* verifier_ = nullptr;  // null: nothing is computed again
  Keeper keeper_;
  bool suspended_ = false;        // there is no pipeline now
  double suspended_s_ = 0;        // since when
  std::optional<Error> refusal_;  // and none to come soon: requests end at once
  double refusal_retry_s_ = 0;
  std::atomic<uint64_t> preempted_{0}, replayed_{0};
  uint64_t overflowed_ = 0;  // answers that ended for it
  bool watching_ = false;    // steps that are not answered are noticed: a node that hangs closes nothing
  double last_outcome_s_ = 0;
  std::optional<double> last_step_s_;                     // of the present pipeline
  std::shared_ptr<int> alive_ = std::make_shared<int>();  // gone with the coordinator; a timer may outlast it
};

}  // namespace shoal
