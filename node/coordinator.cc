#include "node/coordinator.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace shoal {
namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Candidates that the last stage must return for a row of this request; 0: all.
int candidates_wanted(const GenerationRequest& request) {
  if (request.grammar.json) return 0;  // the tokens that it allows may be anywhere
  const int needed = candidates_for_bias(request.logit_bias, request.sampling.candidates_needed());
  return needed == 0 ? 0 : std::max(needed, request.logprobs);
}

void tell_logprobs(const RowOutput& output, int count, GenerationEvent& event) {
  auto logprob = [&](const Candidate& candidate) {
    const double value = static_cast<double>(candidate.logit) - output.log_sum_exp;
    return std::isfinite(value) ? std::min(value, 0.0) : kLogprobMin;
  };
  for (const Candidate& candidate : output.candidates) {
    if (candidate.token == event.token) event.logprob = logprob(candidate);
    if (static_cast<int>(event.best.size()) < count)
      event.best.emplace_back(candidate.token, logprob(candidate));
  }
}

// Whom what a request leaves in the cache may serve: the same user, and behind the same adapter, whose K and
// V they are.
std::string cache_owner(const GenerationRequest& request) {
  return fmt::format("{} {:a} {}", request.adapter.index, request.adapter.scale, request.user);
}

}  // namespace

Coordinator::Coordinator(Node& node, const PipelineLayout& layout, const SchedulerLimits& limits,
                         PipelineModel model, const Tokenizer* tokenizer)
    : node_(node),
      layout_(layout),
      tokenizer_(tokenizer),
      scheduler_(limits, std::move(model)),
      queue_({}),
      cache_(layout.slots, layout.context, layout.kv_cells),
      deadlines_(node.io().executor()),
      pacing_(node.io().executor()),
      watchdog_(node.io().executor()) {
  node_.set_on_outcome([this](StepOutcome outcome) { on_outcome(std::move(outcome)); });
}

Coordinator::~Coordinator() {
  node_.set_on_outcome({});  // on the io thread, after all that was posted there before
  node_.io().call([this] {
    alive_.reset();
    watchdog_.cancel();
    pacing_.cancel();
    deadlines_.cancel();
    return 0;
  });
}

uint64_t Coordinator::submit(GenerationRequest request) {
  const uint64_t id = next_id_++;
  auto shared = std::make_shared<GenerationRequest>(std::move(request));
  node_.io().post([this, id, shared] { start(id, std::move(*shared)); });
  return id;
}

void Coordinator::cancel(uint64_t request) {
  node_.io().post([this, request] {
    finish(request, FinishReason::kCancelled);
    admit();
    pump();
  });
}

void Coordinator::set_trace(Trace* trace) {
  node_.io().call([this, trace] {
    trace_ = trace;
    return 0;
  });
}

void Coordinator::set_fidelity(Fidelity* fidelity) {
  node_.io().call([this, fidelity] {
    fidelity_ = fidelity;
    if (fidelity_ != nullptr) node_.ask_clocks();
    return 0;
  });
}

void Coordinator::mark(uint64_t id, TracedRequest::Mark mark, int tokens, TracedRequest::Mark reached) {
  if (trace_ != nullptr) trace_->add(TracedRequest{id, mark, now_s(), reached, tokens});
}

void Coordinator::trace_step(uint64_t id, const StepInFlight& in_flight,
                             const std::vector<StageTime>& times) {
  if (trace_ == nullptr) return;
  TracedStep step{id, in_flight.sent_s, now_s(), 0, 0, {}, times};
  for (const StepPart& part : in_flight.step.parts) {
    const auto sequence = running_.find(part.sequence);
    const bool decodes = sequence != running_.end() &&
                         part.first_position >= prompt_positions(sequence->second->request) && part.rows == 1;
    (decodes ? step.decode_rows : step.prompt_rows) += part.rows;
    step.requests.push_back(part.sequence);
  }
  trace_->add(std::move(step));
}

void Coordinator::start(uint64_t id, GenerationRequest request) {
  auto refuse = [&](Errc code, std::string text) {
    request.on_event({id, -1, true, FinishReason::kError, {code, std::move(text)}});
  };
  if (is_broken_) return refuse(broken_.code, broken_.message);
  if (const std::optional<Error> refused = refusal_of(request))
    return refuse(refused->code, refused->message);
  const int length = static_cast<int>(request.prompt.size());
  for (const int32_t token : request.prompt) {
    if (token < 0 || token >= layout_.n_vocab) {
      return refuse(Errc::kInvalidInput, fmt::format("the prompt has token {}, and the vocabulary has {}",
                                                     token, layout_.n_vocab));
    }
  }
  if (request.adapter.index < 0 || request.adapter.index > layout_.adapters ||
      !(std::abs(request.adapter.scale) <= kAdapterScaleMax))
    return refuse(Errc::kInvalidInput, fmt::format("there is no adapter {} with scale {}",
                                                   request.adapter.index, request.adapter.scale));
  try {
    request.sampling.validate();
  } catch (const SetupError& error) {
    return refuse(Errc::kInvalidInput, error.what());
  }
  const double now = now_s();
  const double deadline_s = request.deadline_s > 0 ? now + request.deadline_s : Scheduler::kNever;
  const Result<void> queued =
      queue_.offer({id, request.user, request.priority, length, now, deadline_s}, row_seconds());
  if (queued.has_error()) {
    GenerationEvent event{id, -1, true, FinishReason::kError, queued.error()};
    event.retry_after_s = queue_.retry_after_s(length, row_seconds());
    return request.on_event(event);
  }
  mark(id, TracedRequest::Mark::kArrived, length);
  waiting_.emplace(id, Waiting{std::move(request), deadline_s});
  admit();
  watch_deadlines();
  pump();
}

// What the model cannot do with a request, whatever its tokens are.
std::optional<Error> Coordinator::refusal_of(const GenerationRequest& request) const {
  const int length = static_cast<int>(request.prompt.size());
  if (request.prompt.empty())
    return Error{Errc::kInvalidInput, "the prompt is empty: it needs at least one token"};
  if (request.embeds && layout_.inputs > 0 && layout_.decodes)
    return Error{Errc::kInvalidInput, "the model's encoder serves its decoder: it gives no embeddings"};
  if (!request.embeds && !layout_.decodes)
    return Error{Errc::kInvalidInput, "the model gives embeddings and generates no text"};
  if (request.max_tokens < 1) {
    return Error{
        Errc::kInvalidInput,
        fmt::format("-n (--max-tokens) is {} but an answer has at least 1 token", request.max_tokens)};
  }
  if (layout_.inputs > 0 && length > layout_.inputs) {
    return Error{
        Errc::kContextFull,
        fmt::format("the prompt has {} tokens and the model's encoder reads at most {}, all at once: "
                    "shorten the prompt",
                    length, layout_.inputs)};
  }
  if (layout_.inputs == 0 && length + !request.embeds > layout_.context) {
    return Error{
        Errc::kContextFull,
        fmt::format("the prompt has {} tokens and the context holds {}, the answer included: shorten the "
                    "prompt or raise the context (--context, or context: in the cluster file)",
                    length, layout_.context)};
  }
  return std::nullopt;
}

// The tokens that a decoder has to compute before its first answer: the prompt, or where an encoder reads
// that, what answers begin after. An encoder alone computes none.
std::vector<int32_t> Coordinator::first_tokens(const GenerationRequest& request) const {
  return layout_.inputs > 0 ? std::vector<int32_t>{std::max(0, layout_.decoder_start_token)} : request.prompt;
}

int Coordinator::prompt_positions(const GenerationRequest& request) const {
  return layout_.inputs > 0 ? 1 : static_cast<int>(request.prompt.size());
}

// K and V of a decoder behind an encoder depend on all of its input, and a pooled embedding on all rows: then
// no cached beginning serves.
CacheSlots::Prefix Coordinator::prefix_of(const GenerationRequest& request,
                                          std::span<const int32_t> tokens) const {
  const bool reuses = layout_.inputs == 0 && !request.embeds;
  return cache_.best_prefix(reuses ? tokens : tokens.first(1), cache_owner(request));
}

// Seconds a prompt row takes the pipeline when it is full.
double Coordinator::row_seconds() const {
  constexpr double kRows = 32;
  return scheduler_.model().bottleneck_seconds({kRows, 0}) / kRows;
}

// Gives waiting requests the free slots, as far as the cache has room: first those who were taken off.
void Coordinator::admit() {
  while (readmit()) {
    const std::optional<uint64_t> id = queue_.next(now_s(), row_seconds());
    if (!id) return;
    const auto waiting = waiting_.find(*id);
    SHOAL_CHECK(waiting != waiting_.end());
    const GenerationRequest& request = waiting->second.request;
    const std::vector<int32_t> tokens = first_tokens(request);
    const CacheSlots::Prefix prefix = prefix_of(request, tokens);
    if (prefix.slot < 0 || !cache_.has_room(prefix, static_cast<int>(tokens.size()))) return;
    queue_.take(*id);
    Waiting taken = std::move(waiting->second);
    waiting_.erase(waiting);
    run(*id, std::move(taken), prefix);
  }
}

// Lets those who were taken off go on, the first in rank first; whether none is left.
bool Coordinator::readmit() {
  while (true) {
    const bool all_run =
        std::all_of(running_.begin(), running_.end(), [](const auto& r) { return r.second->slot >= 0; });
    if (all_run) return true;
    const std::vector<Resident> ranked = residents();
    const auto next = std::find_if(ranked.begin(), ranked.end(), [](const auto& r) { return !r.holds; });
    Sequence* const first = running_.at(next->id).get();
    const CacheSlots::Prefix prefix = prefix_of(first->request, first->tokens);
    if (prefix.slot < 0 || !cache_.has_room(prefix, static_cast<int>(first->tokens.size()))) return false;
    begin(*first, prefix);
  }
}

void Coordinator::run(uint64_t id, Waiting waiting, const CacheSlots::Prefix& prefix) {
  auto sequence = std::make_unique<Sequence>(
      Sequence{id, std::move(waiting.request), Sampler(SamplerOptions{}), {}, -1, 0, waiting.deadline_s});
  sequence->sampler = Sampler(sequence->request.sampling);
  if (sequence->request.grammar.json) sequence->grammar.emplace(sequence->request.grammar);
  sequence->tokens = first_tokens(sequence->request);
  if (layout_.inputs == 0)
    for (const int32_t token : sequence->tokens) sequence->sampler.accept(token);
  begin(*sequence, prefix);
  running_[id] = std::move(sequence);
}

// From here on the sequence's tokens are computed, but for those of the prefix.
void Coordinator::begin(Sequence& sequence, const CacheSlots::Prefix& prefix) {
  const int length = static_cast<int>(sequence.tokens.size());
  cache_.take(prefix, cache_owner(sequence.request), length);
  sequence.slot = prefix.slot;
  sequence.reused = prefix.length;
  const GenerationRequest& request = sequence.request;
  if (layout_.inputs > 0) {
    scheduler_.add_input(sequence.id, request.embeds ? StepKind::kEmbed : StepKind::kEncode,
                         static_cast<int>(request.prompt.size()), layout_.decodes ? length : 0, now_s(),
                         request.priority);
  } else if (request.embeds) {
    scheduler_.add_embedding(sequence.id, length, now_s(), request.priority);
  } else {
    scheduler_.add(sequence.id, prefix.length, length, now_s(), request.priority);
  }
  if (sequence.answered == 0) mark(sequence.id, TracedRequest::Mark::kStarted, sequence.reused);
}

// All that have begun, as they rank for the cache's pages.
std::vector<Resident> Coordinator::residents() const {
  std::vector<Resident> all;
  for (const auto& [id, sequence] : running_) {
    const GenerationRequest& request = sequence->request;
    all.push_back({id, request.user, request.priority, sequence->slot >= 0, scheduler_.in_flight(id)});
  }
  return by_rank(std::move(all));
}

// The cache is full: a sequence gives its pages to another, and its tokens are computed again when there is
// room. What it has said so far stands: computed again they are the same. Whether one could be taken off now.
bool Coordinator::take_one_off(uint64_t needy) {
  const std::optional<uint64_t> chosen = victim(residents(), needy);
  if (!chosen) return false;
  Sequence& sequence = *running_.at(*chosen);
  scheduler_.remove(*chosen);
  cache_.give_back(sequence.slot);
  sequence.slot = -1;
  ++preempted_;
  return true;
}

// Ends requests whose deadline has passed, and waits for the next one's.
void Coordinator::watch_deadlines() {
  const double now = now_s();
  const Error late{Errc::kDeadline, "the request's deadline has passed"};
  for (const uint64_t id : queue_.expire(now)) {
    const auto found = waiting_.find(id);
    mark(id, TracedRequest::Mark::kEnded, 0);
    found->second.request.on_event({id, -1, true, FinishReason::kError, late});
    waiting_.erase(found);
  }
  std::vector<uint64_t> over;
  double next_s = Scheduler::kNever;
  for (const auto& [id, sequence] : running_) {
    if (sequence->deadline_s <= now) over.push_back(id);
    if (sequence->deadline_s > now) next_s = std::min(next_s, sequence->deadline_s);
  }
  for (const uint64_t id : over) finish(id, FinishReason::kError, late);
  for (const auto& [id, waiting] : waiting_) next_s = std::min(next_s, waiting.deadline_s);
  if (!over.empty()) {
    admit();
    pump();
  }
  if (next_s == Scheduler::kNever) return;
  deadlines_.expires_after(std::chrono::microseconds(static_cast<int64_t>((next_s - now) * 1e6) + 1000));
  deadlines_.async_wait([this, alive = std::weak_ptr<int>(alive_)](const boost::system::error_code& stopped) {
    if (!stopped && !alive.expired()) watch_deadlines();
  });
}

void Coordinator::pump() {
  const Scheduler::Reserve reserve = [this](uint64_t id, int first, int rows) {
    return cache_.reserve(running_.at(id)->slot, first, rows);
  };
  while (!is_broken_) {
    std::optional<ScheduledStep> step = scheduler_.next_step(now_s(), reserve);
    if (step) {
      send(std::move(*step));
    } else if (!scheduler_.needy() || !take_one_off(*scheduler_.needy())) {
      return pump_at(scheduler_.wake_s());
    }
  }
}

void Coordinator::pump_at(double time_s) {
  if (time_s == Scheduler::kNever) return;
  pacing_.expires_after(std::chrono::microseconds(static_cast<int64_t>((time_s - now_s()) * 1e6) + 1));
  pacing_.async_wait([this, alive = std::weak_ptr<int>(alive_)](const boost::system::error_code& stopped) {
    if (!stopped && !alive.expired()) pump();
  });
}

void Coordinator::send(ScheduledStep step) {
  auto job = std::make_unique<StepJob>();
  job->epoch = 1;
  job->step_id = next_step_++;
  job->candidates = 1;
  job->kind = step.kind;
  job->ops = cache_.take_ops();
  StepInFlight in_flight;
  for (const StepPart& part : step.parts) {
    const Sequence& sequence = *running_.at(part.sequence);
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
  in_flight.sent_s = now_s();
  steps_[job->step_id] = std::move(in_flight);
  if (!watching_ && layout_.step_deadline_s > 0) {
    watching_ = true;
    last_outcome_ = std::chrono::steady_clock::now();
    watch();
  }
  // The head's own first stage computes in a buffer; for another node's, only token ids travel.
  if (layout_.node_of_stage.front() == layout_.head) {
    job->buffer = node_.take_buffer();
    SHOAL_CHECK(job->buffer != nullptr);  // there is one for every step in flight
  }
  node_.send_step(std::move(job));
}

void Coordinator::on_outcome(StepOutcome outcome) {
  last_outcome_ = std::chrono::steady_clock::now();
  if (outcome.failed) {
    // What a stage refuses is not the asker's fault: requests were checked before anything was sent.
    const bool of_step =
        outcome.error.code == Errc::kInvalidInput || outcome.error.code == Errc::kContextFull;
    fail_all({of_step ? Errc::kBadFrame : outcome.error.code, std::move(outcome.error.message)});
    return;
  }
  const auto found = steps_.find(outcome.step_id);
  if (found == steps_.end()) {
    fail_all({Errc::kBadFrame, fmt::format("an answer to step {}, which is not under way", outcome.step_id)});
    return;
  }
  const StepInFlight in_flight = std::move(found->second);
  steps_.erase(found);
  last_step_ = last_outcome_;
  learn(in_flight, outcome.stage_times);
  trace_step(outcome.step_id, in_flight, outcome.stage_times);
  if (outcome.rows.size() != in_flight.wanted.size()) {
    fail_all({Errc::kBadFrame, "an answer with another number of rows than was asked for"});
    return;
  }
  for (size_t i = 0; i < outcome.rows.size(); ++i) {
    if (outcome.rows[i].row != in_flight.wanted[i].first) {
      fail_all({Errc::kBadFrame, "an answer with other rows than were asked for"});
      return;
    }
    const auto sequence = running_.find(in_flight.wanted[i].second);
    if (sequence == running_.end()) continue;  // cancelled meanwhile
    if (in_flight.step.kind == StepKind::kEmbed) {
      take_embedding(*sequence->second, outcome.rows[i]);
    } else {
      take_token(*sequence->second, outcome.rows[i]);
    }
  }
  admit();
  pump();
}

// What the stages say of the step, and the rest of its lap: the links, with what they add to each message.
void Coordinator::learn(const StepInFlight& in_flight, const std::vector<StageTime>& times) {
  const double answered_s = now_s();
  compare(in_flight, answered_s, times);
  double rest_s = answered_s - in_flight.sent_s;
  std::vector<double> stage_seconds;
  for (const StageTime& time : times) {
    stage_seconds.push_back(time.busy_us * 1e-6);
    rest_s -= (time.waited_us + time.busy_us) * 1e-6;
  }
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
  for (const std::string& node : layout_.node_of_stage) ahead_s.push_back(node_.clock_ahead_s(node));
  const auto drift =
      fidelity_->observe(static_cast<int>(parts.size()), in_flight.sent_s, answered_s, times, ahead_s);
  if (drift) spdlog::warn("{}", drift->text);
  node_.ask_clocks();
}

// The next token of a sequence.
Result<int32_t> Coordinator::choose(Sequence& sequence, const RowOutput& output) {
  if (output.candidates.empty()) return Error{Errc::kBadFrame, "an answer without candidates"};
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
  if (token >= 0 && token < layout_.n_vocab) return token;
  const char* what = token == -1 ? "no logit is a number" : "its token is not in the vocabulary";
  return Error{Errc::kBadFrame, fmt::format("an answer from {} cannot be used: {}",
                                            layout_.stage_text(layout_.last_stage()), what)};
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
  const bool finite =
      std::all_of(output.embedding.begin(), output.embedding.end(), [](float x) { return std::isfinite(x); });
  if (output.embedding.empty() || !finite)
    return finish(id, FinishReason::kError, {Errc::kBadFrame, "an embedding that is empty or not finite"});
  GenerationEvent event;
  event.request = id;
  event.embedding = output.embedding;
  event.prompt_rows = static_cast<int>(sequence.request.prompt.size());
  sequence.request.on_event(event);
  finish(id, FinishReason::kStop);
}

void Coordinator::finish(uint64_t id, FinishReason reason, const Error& error) {
  if (const auto waiting = waiting_.find(id); waiting != waiting_.end()) {
    queue_.remove(id);
    mark(id, TracedRequest::Mark::kEnded, 0);
    const Waiting over = std::move(waiting->second);
    waiting_.erase(waiting);
    return over.request.on_event({id, -1, true, reason, error});
  }
  const auto found = running_.find(id);
  if (found == running_.end()) return;
  const std::unique_ptr<Sequence> sequence = std::move(found->second);
  running_.erase(found);
  mark(id, TracedRequest::Mark::kEnded, sequence->answered,
       sequence->answered > 0 ? TracedRequest::Mark::kFirstToken : TracedRequest::Mark::kStarted);
  scheduler_.remove(id);
  queue_.ended(sequence->request.user, now_s());
  if (sequence->slot >= 0) cache_.give_back(sequence->slot);
  sequence->request.on_event({id, -1, true, reason, error});
}

// Looks once a second whether the pipeline still answers.
void Coordinator::watch() {
  watchdog_.expires_after(std::chrono::seconds(1));
  watchdog_.async_wait([this, alive = std::weak_ptr<int>(alive_)](const boost::system::error_code& stopped) {
    if (stopped || alive.expired()) return;
    watching_ = !steps_.empty() && !is_broken_;
    if (!watching_) return;
    const std::chrono::duration<double> silence = std::chrono::steady_clock::now() - last_outcome_;
    if (silence.count() > layout_.step_deadline_s) return on_silence(silence.count());
    watch();
  });
}

// Asks every node for a sign of life, so that the message names who gives none.
void Coordinator::on_silence(double seconds) {
  node_.find_silent(
      [this, seconds, alive = std::weak_ptr<int>(alive_)](const std::vector<std::string>& silent) {
        if (alive.expired() || is_broken_) return;
        const std::chrono::duration<double> now_silent = std::chrono::steady_clock::now() - last_outcome_;
        if (now_silent.count() < seconds) return watch();  // it answered after all
        const std::string who =
            silent.empty() ? fmt::format("all nodes are there, but one of {} computes for longer than that",
                                         fmt::join(layout_.node_of_stage, ", "))
                           : fmt::format("{} {} give{} no sign of life (stopped, hanging or cut off)",
                                         silent.size() == 1 ? "node" : "nodes", fmt::join(silent, ", "),
                                         silent.size() == 1 ? "s" : "");
        fail_all({Errc::kTimeout,
                  fmt::format("no answer from the pipeline for {:.0f} s: {} (stall-timeout: {:g}s)", seconds,
                              who, layout_.step_deadline_s)});
      });
}

void Coordinator::fail_all(const Error& error) {
  if (!is_broken_) broken_ = error;  // what follows the first failure is its consequence
  is_broken_ = true;
  while (!running_.empty()) finish(running_.begin()->first, FinishReason::kError, error);
  while (!waiting_.empty()) finish(waiting_.begin()->first, FinishReason::kError, error);
}

}  // namespace shoal
