#include "node/coordinator.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "base/check.h"
#include "node/answer_check.h"

namespace shoal {
namespace {

// What stages may tell of a step, by the time that it was away: their clocks are not the head's.
constexpr double kToldOfLap = 1.5, kToldSlack_s = 0.1;

}  // namespace

Coordinator::Coordinator(PipelineHost& host, const PipelineLayout& layout, const SchedulerLimits& limits,
                         PipelineModel model, const Tokenizer* tokenizer)
    : host_(host),
      layout_(layout),
      tokenizer_(tokenizer),
      scheduler_(limits, std::move(model)),
      queue_({}),
      cache_(layout.slots, layout.context, layout.kv_cells) {
  host_.set_on_outcome([this](StepOutcome outcome) { on_outcome(std::move(outcome)); });
}

Coordinator::~Coordinator() {
  host_.set_on_outcome({});  // on the io thread, after all that was posted there before
  host_.call([this] {
    alive_.reset();
    for (const auto timer :
         {PipelineHost::Timer::kDeadlines, PipelineHost::Timer::kPacing, PipelineHost::Timer::kSilence})
      host_.set_timer(timer, PipelineHost::kNever, {});
  });
}

uint64_t Coordinator::submit(GenerationRequest request) {
  const uint64_t id = next_id_++;
  auto shared = std::make_shared<GenerationRequest>(std::move(request));
  host_.post([this, id, shared] { start(id, std::move(*shared)); });
  return id;
}

void Coordinator::cancel(uint64_t request) {
  host_.post([this, request] {
    finish(request, FinishReason::kCancelled);
    admit();
    pump();
  });
}

void Coordinator::set_trace(Trace* trace) {
  host_.call([this, trace] { trace_ = trace; });
}

void Coordinator::set_fidelity(Fidelity* fidelity) {
  host_.call([this, fidelity] { compare_with(fidelity); });
}

void Coordinator::compare_with(Fidelity* fidelity) {
  fidelity_ = fidelity;
  if (fidelity_ != nullptr) host_.ask_clocks();
}

void Coordinator::mark(uint64_t id, TracedRequest::Mark mark, int tokens, TracedRequest::Mark reached) {
  if (trace_ != nullptr) trace_->add(TracedRequest{id, mark, host_.now_s(), reached, tokens});
}

void Coordinator::trace_step(uint64_t id, const StepInFlight& in_flight,
                             const std::vector<StageTime>& times) {
  if (trace_ == nullptr) return;
  TracedStep step{id, in_flight.sent_s, host_.now_s(), 0, 0, {}, times};
  for (const StepPart& part : in_flight.step.parts) {
    const auto sequence = running_.find(part.sequence);
    const bool decodes = sequence != running_.end() &&
                         part.first_position >= prompt_positions(sequence->second->request) && part.rows == 1;
    (decodes ? step.decode_rows : step.prompt_rows) += part.rows;
    step.requests.push_back(part.sequence);
  }
  trace_->add(std::move(step));
}

void Coordinator::pump() {
  const Scheduler::Reserve reserve = [this](uint64_t id, int first, int rows) {
    return cache_.reserve(running_.at(id)->slot, first, rows);
  };
  while (!suspended_) {
    std::optional<ScheduledStep> step = scheduler_.next_step(host_.now_s(), reserve);
    if (step) {
      send(std::move(*step));
    } else if (!scheduler_.needy() || !take_one_off(*scheduler_.needy())) {
      return pump_at(scheduler_.wake_s());
    }
  }
}

void Coordinator::pump_at(double time_s) {
  if (time_s == Scheduler::kNever) return;
  host_.set_timer(PipelineHost::Timer::kPacing, time_s, [this, alive = std::weak_ptr<int>(alive_)] {
    if (!alive.expired()) pump();
  });
}

void Coordinator::send(ScheduledStep step) {
  auto job = std::make_unique<StepJob>();
  job->epoch = epoch_;
  job->step_id = next_step_++;
  job->candidates = 1;
  job->kind = step.kind;
  job->ops = cache_.take_ops();
  StepInFlight in_flight;
  for (const StepPart& part : step.parts) {
    const Sequence& sequence = *running_.at(part.sequence);
    if (sequence.request.adapter.index > 0)
      in_flight.cache_owners[sequence.id] = cache_owner(sequence.request);
    for (int i = 0; i < part.rows; ++i) {
      const int position = part.first_position + i;
      const bool wants = part.wants_logits && i + 1 == part.rows;
      const std::vector<int32_t>& tokens = step.whole_inputs ? sequence.request.prompt : sequence.tokens;
      const int32_t token = tokens[static_cast<size_t>(position)];
      if (wants) in_flight.wanted.emplace_back(static_cast<int32_t>(job->rows.size()), sequence.id);
      const AdapterChoice& adapter = sequence.request.adapter;
      job->rows.push_back({token, position, sequence.slot, wants, adapter.index, adapter.scale});
      if (!step.whole_inputs) cache_.hold(sequence.slot, position, token);
    }
    if (part.wants_logits) {
      const int need = candidates_wanted(sequence.request);
      job->candidates = need == 0 || job->candidates == 0 ? 0 : std::max(job->candidates, need);
    }
  }
  in_flight.all_logits = job->candidates == 0;
  in_flight.step = std::move(step);
  in_flight.sent_s = host_.now_s();
  if (verifier_ != nullptr) sample(*job, in_flight);
  steps_[job->step_id] = std::move(in_flight);
  if (!watching_ && layout_.step_deadline_s > 0) {
    watching_ = true;
    last_outcome_s_ = host_.now_s();
    watch();
  }
  // The head's own first stage computes in a buffer; for another node's, only token ids travel.
  if (layout_.node_of_stage.front() == layout_.head) {
    job->buffer = host_.take_buffer();
    SHOAL_CHECK(job->buffer != nullptr);  // there is one for every step in flight
  }
  host_.send_step(std::move(job));
}

// Now and then one sequence's rows are to be computed once more elsewhere: its stages hash them.
void Coordinator::sample(StepJob& job, StepInFlight& in_flight) {
  if (job.kind != StepKind::kDecode || layout_.inputs > 0) return;
  for (const StepPart& part : in_flight.step.parts) {
    const Sequence& sequence = *running_.at(part.sequence);
    const int end = part.first_position + part.rows;
    if (sequence.request.adapter.index != 0 || !verifier_->wants(part.rows, end)) continue;
    SampledStep sampled;
    sampled.layout = layout_;
    sampled.epoch = epoch_;
    sampled.tokens.assign(sequence.tokens.begin(), sequence.tokens.begin() + end);
    sampled.first = part.first_position;
    sampled.candidates = job.candidates;
    in_flight.sampled = std::move(sampled);
    in_flight.sampled_sequence = part.sequence;
    job.verify_slot = sequence.slot;
    return;
  }
}

// To who computes it again. False where the stages have not hashed it.
bool Coordinator::hand_over(StepInFlight& in_flight, const StepOutcome& outcome) {
  if (!in_flight.sampled) return true;
  SampledStep& sampled = *in_flight.sampled;
  if (outcome.digests.size() != layout_.node_of_stage.size()) return false;
  sampled.digests = outcome.digests;
  for (size_t i = 0; i < in_flight.wanted.size(); ++i) {
    if (in_flight.wanted[i].second == in_flight.sampled_sequence) sampled.output = outcome.rows[i];
  }
  if (verifier_ != nullptr) verifier_->take(std::move(sampled));
  return true;
}

void Coordinator::on_outcome(StepOutcome outcome) {
  if (suspended_) return;  // it belongs to the pipeline before
  last_outcome_s_ = host_.now_s();
  if (outcome.failed) {
    // What a stage refuses is not the asker's fault: requests were checked before anything was sent.
    // Nor is kTimeout of a node's own telling the watch's, which means that nobody told anything.
    const bool lost = outcome.error.code == Errc::kPeerLost || outcome.error.code == Errc::kTimeout;
    broken({lost ? Errc::kPeerLost : Errc::kIo, std::move(outcome.error.message)});
    return;
  }
  // kBadFrame means this alone: the node of the last stage is at fault.
  const auto unusable = [this](const std::string& why) {
    broken({Errc::kBadFrame, fmt::format("an answer from {} cannot be used: {}",
                                         layout_.stage_text(layout_.last_stage()), why)});
  };
  const auto found = steps_.find(outcome.step_id);
  if (found == steps_.end())
    return unusable(fmt::format("it is to step {}, which is not under way", outcome.step_id));
  StepInFlight in_flight = std::move(found->second);
  steps_.erase(found);
  std::vector<AskedRow> asked;
  for (const auto& [row, id] : in_flight.wanted) {
    const auto sequence = running_.find(id);
    const size_t needed = sequence == running_.end()
                              ? 1  // cancelled meanwhile
                              : static_cast<size_t>(candidates_wanted(sequence->second->request));
    const bool all = in_flight.all_logits || needed == 0;
    asked.push_back(
        {row, all ? static_cast<size_t>(layout_.n_vocab) : needed, in_flight.step.kind == StepKind::kEmbed});
  }
  std::string wrong = why_unusable(outcome, asked, layout_);
  if (wrong.empty() && !hand_over(in_flight, outcome))
    wrong = "it lacks the hashes that the stages were asked for";
  if (wrong.empty()) wrong = why_overflow_unusable(in_flight, outcome.overflowed);
  if (!wrong.empty()) return unusable(wrong);
  last_step_s_ = last_outcome_s_;
  learn(in_flight, outcome.stage_times);
  trace_step(outcome.step_id, in_flight, outcome.stage_times);
  take_overflows(in_flight, outcome.step_id, outcome.overflowed);
  for (size_t i = 0; i < outcome.rows.size(); ++i) {
    const auto sequence = running_.find(in_flight.wanted[i].second);
    if (sequence == running_.end() || sequence->second->begins_anew) continue;  // ended meanwhile
    if (in_flight.step.kind == StepKind::kEmbed) {
      take_embedding(*sequence->second, outcome.rows[i]);
    } else {
      take_token(*sequence->second, outcome.rows[i]);
    }
  }
  if (keeper_.answered) keeper_.answered();
  begin_anew();
  admit();
  pump();
}

// What the stages say of the step, and the rest of its lap: the links, with what they add to each message.
void Coordinator::learn(const StepInFlight& in_flight, const std::vector<StageTime>& times) {
  const double answered_s = host_.now_s();
  compare(in_flight, answered_s, times);
  double rest_s = answered_s - in_flight.sent_s;
  std::vector<double> stage_seconds;
  double told_s = 0;
  for (const StageTime& time : times) {
    stage_seconds.push_back(time.busy_us * 1e-6);
    told_s += (static_cast<double>(time.waited_us) + time.busy_us) * 1e-6;
  }
  // More than the step was away: nothing is learned from it.
  if (told_s > kToldOfLap * rest_s + kToldSlack_s) stage_seconds.clear();
  rest_s -= told_s;
  scheduler_.step_done(in_flight.step, stage_seconds, std::max(0.0, rest_s));
}

// With the plan's prediction, where the step only decoded.
void Coordinator::compare(const StepInFlight& in_flight, double answered_s,
                          const std::vector<StageTime>& times) {
  if (fidelity_ == nullptr) return;
  const std::vector<StepPart>& parts = in_flight.step.parts;
  const bool one_each = std::all_of(parts.begin(), parts.end(), [](const auto& p) { return p.rows == 1; });
  if (!in_flight.step.decodes || !one_each || in_flight.all_logits) return;
  std::vector<std::optional<double>> ahead_s;
  for (const std::string& node : layout_.node_of_stage) ahead_s.push_back(host_.clock_ahead_s(node));
  const auto drift =
      fidelity_->observe(static_cast<int>(parts.size()), in_flight.sent_s, answered_s, times, ahead_s);
  if (drift) spdlog::warn("{}", drift->text);
  host_.ask_clocks();
}

// The next token of a sequence.
Result<int32_t> Coordinator::choose(Sequence& sequence, const RowOutput& output) {
  std::span<const Candidate> candidates = output.candidates;
  std::vector<Candidate> changed;
  if (!sequence.request.logit_bias.empty()) {
    changed = biased(candidates, sequence.request.logit_bias);
    candidates = changed;
  }
  if (sequence.grammar) {
    changed = sequence.grammar->allowed(candidates, sequence.request.sampling.candidates_needed());
    candidates = changed;
    if (candidates.empty())
      return Error{Errc::kInvalidInput,
                   "no token of the vocabulary can go on in the form that was asked for"};
  }
  const int32_t token = sequence.sampler.sample(candidates);
  SHOAL_CHECK(token >= 0 && token < layout_.n_vocab);  // each candidate is a token, and the best is finite
  return token;
}

void Coordinator::take_token(Sequence& sequence, const RowOutput& output) {
  const uint64_t id = sequence.id;
  const Result<int32_t> chosen = choose(sequence, output);
  if (chosen.has_error()) return finish(id, FinishReason::kError, chosen.error());
  const int32_t token = *chosen;
  sequence.sampler.accept(token);
  const bool end = tokenizer_ != nullptr && tokenizer_->is_end_of_generation(token);
  if (end && (sequence.grammar || !sequence.request.ignore_end)) return finish(id, FinishReason::kStop);
  if (sequence.grammar) sequence.grammar->accept(token);
  sequence.tokens.push_back(token);
  ++sequence.answered;
  GenerationEvent event;
  event.request = id;
  event.token = token;
  if (sequence.answered == 1) {
    event.prompt_rows = static_cast<int>(sequence.request.prompt.size()) - sequence.reused;
    mark(id, TracedRequest::Mark::kFirstToken, 0);
  }
  if (sequence.request.logprobs >= 0) tell_logprobs(output, sequence.request.logprobs, event);
  sequence.request.on_event(event);
  if (sequence.grammar && sequence.grammar->ended()) return finish(id, FinishReason::kStop);
  const bool full = static_cast<int>(sequence.tokens.size()) >= layout_.context;
  if (sequence.answered >= sequence.request.max_tokens) return finish(id, FinishReason::kLength);
  if (full) return finish(id, FinishReason::kContextFull);
  cache_.grow(sequence.slot, static_cast<int>(sequence.tokens.size()));
  scheduler_.extend(id);
}

void Coordinator::take_embedding(Sequence& sequence, const RowOutput& output) {
  const uint64_t id = sequence.id;
  GenerationEvent event;
  event.request = id;
  event.embedding = output.embedding;
  event.prompt_rows = static_cast<int>(sequence.request.prompt.size());
  sequence.request.on_event(event);
  finish(id, FinishReason::kStop);
}

void Coordinator::finish(uint64_t id, FinishReason reason, const Error& error, double retry_after_s) {
  if (const auto waiting = waiting_.find(id); waiting != waiting_.end()) {
    queue_.remove(id);
    mark(id, TracedRequest::Mark::kEnded, 0);
    const Waiting over = std::move(waiting->second);
    waiting_.erase(waiting);
    return over.request.on_event({id, -1, true, reason, error, retry_after_s});
  }
  const auto found = running_.find(id);
  if (found == running_.end()) return;
  const std::unique_ptr<Sequence> sequence = std::move(found->second);
  running_.erase(found);
  using Mark = TracedRequest::Mark;
  const Mark reached = sequence->answered > 0 ? Mark::kFirstToken
                       : sequence->slot >= 0  ? Mark::kStarted
                                              : Mark::kArrived;
  mark(id, Mark::kEnded, sequence->answered, reached);
  scheduler_.remove(id);
  queue_.ended(sequence->request.user, host_.now_s(), sequence->answered);
  if (sequence->slot >= 0) cache_.give_back(sequence->slot);
  sequence->request.on_event({id, -1, true, reason, error, retry_after_s});
}

// Looks once a second whether the pipeline still answers.
void Coordinator::watch() {
  const double look_s = host_.now_s() + 1;
  host_.set_timer(PipelineHost::Timer::kSilence, look_s, [this, alive = std::weak_ptr<int>(alive_)] {
    if (alive.expired()) return;
    watching_ = !steps_.empty() && !suspended_ && layout_.step_deadline_s > 0;
    if (!watching_) return;
    const double silence_s = host_.now_s() - last_outcome_s_;
    if (silence_s <= layout_.step_deadline_s) return watch();
    watching_ = false;
    broken({Errc::kTimeout,
            fmt::format("no answer from the pipeline ({}) for {:.0f} s (stall-timeout: {:g}s)",
                        fmt::join(layout_.node_of_stage, ", "), silence_s, layout_.step_deadline_s)});
  });
}

// ---- A pipeline is lost, another comes ----

void Coordinator::broken(Error error) {
  if (keeper_.broken) return keeper_.broken(error);
  close(error, 0);
}

void Coordinator::suspend() {
  if (suspended_) return;
  suspended_ = true;
  suspended_s_ = host_.now_s();
  watching_ = false;
  host_.set_timer(PipelineHost::Timer::kSilence, PipelineHost::kNever, {});
  last_step_s_.reset();
  steps_.clear();
  for (const auto& [id, sequence] : running_) {
    if (sequence->slot >= 0 && sequence->answered == 0) mark(id, TracedRequest::Mark::kTakenOff);
    sequence->slot = -1;
    sequence->was_lost = true;
    sequence->begins_anew = false;
  }
}

void Coordinator::resume(uint64_t epoch, const PipelineLayout& layout, const SchedulerLimits& limits,
                         PipelineModel model) {
  suspend();
  layout_ = layout;
  epoch_ = epoch;
  next_step_ = 1;
  scheduler_ = Scheduler(limits, std::move(model));
  cache_ = CacheSlots(layout.slots, layout.context, layout.kv_cells);
  suspended_ = false;
  queue_.stood_still(suspended_s_, host_.now_s());
  refusal_.reset();
  admit();
  pump();
}

void Coordinator::end_all(const Error& error, double retry_after_s) {
  while (!running_.empty()) finish(running_.begin()->first, FinishReason::kError, error, retry_after_s);
  while (!waiting_.empty()) finish(waiting_.begin()->first, FinishReason::kError, error, retry_after_s);
}

void Coordinator::close(const Error& error, double retry_after_s) {
  if (!refusal_) refusal_ = error;  // what follows the first failure is its consequence
  refusal_retry_s_ = retry_after_s;
  suspended_s_ = suspended_ ? suspended_s_ : host_.now_s();
  suspended_ = true;
  end_all(*refusal_, retry_after_s);
}

std::optional<Error> Coordinator::refuses() {
  std::optional<Error> refusal;
  host_.call([&] { refusal = refusal_; });
  return refusal;
}

}  // namespace shoal
