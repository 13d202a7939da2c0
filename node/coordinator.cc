#include "node/coordinator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace shoal {
namespace {

// Candidates that the last stage must return for a row of this request; 0: all.
int candidates_wanted(const GenerationRequest& request) {
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

}  // namespace

Coordinator::Coordinator(Node& node, const PipelineLayout& layout, const SchedulerLimits& limits,
                         const Tokenizer* tokenizer)
    : node_(node),
      layout_(layout),
      tokenizer_(tokenizer),
      scheduler_(limits),
      slot_used_(static_cast<size_t>(layout.slots)),
      slot_tokens_(static_cast<size_t>(layout.slots)),
      watchdog_(node.io().executor()) {
  node_.set_on_outcome([this](StepOutcome outcome) { on_outcome(std::move(outcome)); });
}

Coordinator::~Coordinator() {
  node_.set_on_outcome({});  // on the io thread, after all that was posted there before
  node_.io().call([this] {
    alive_.reset();
    watchdog_.cancel();
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
    std::erase_if(waiting_, [&](auto& entry) {
      if (entry.first != request) return false;
      entry.second.on_event({request, -1, true, FinishReason::kCancelled, {}});
      return true;
    });
    finish(request, FinishReason::kCancelled);
    admit();
    pump();
  });
}

void Coordinator::start(uint64_t id, GenerationRequest request) {
  auto refuse = [&](Errc code, std::string text) {
    request.on_event({id, -1, true, FinishReason::kError, {code, std::move(text)}});
  };
  if (is_broken_) return refuse(broken_.code, broken_.message);
  if (request.prompt.empty()) return refuse(Errc::kInvalidInput, "the prompt is empty");
  const int length = static_cast<int>(request.prompt.size());
  if (length >= layout_.context) {
    return refuse(
        Errc::kContextFull,
        fmt::format("the prompt has {} tokens and the context holds {}, the answer included: shorten the "
                    "prompt or raise the context (--context, or context: in the cluster file)",
                    length, layout_.context));
  }
  for (const int32_t token : request.prompt) {
    if (token < 0 || token >= layout_.n_vocab) {
      return refuse(Errc::kInvalidInput, fmt::format("the prompt has token {}, and the vocabulary has {}",
                                                     token, layout_.n_vocab));
    }
  }
  try {
    request.sampling.validate();
  } catch (const SetupError& error) {
    return refuse(Errc::kInvalidInput, error.what());
  }
  if (waiting_.size() >= kRequestsQueuedMax) {
    return refuse(Errc::kQueueFull,
                  fmt::format("{} requests wait already; try again later", waiting_.size()));
  }
  waiting_.emplace_back(id, std::move(request));
  admit();
  pump();
}

// Gives waiting requests the free slots, oldest first.
void Coordinator::admit() {
  while (!waiting_.empty()) {
    int reused = 0;
    const int slot = best_slot(waiting_.front().second.prompt, reused);
    if (slot < 0) return;
    auto [id, request] = std::move(waiting_.front());
    waiting_.pop_front();
    auto sequence = std::make_unique<Sequence>(
        Sequence{id, std::move(request), Sampler(SamplerOptions{}), {}, slot, reused});
    sequence->sampler = Sampler(sequence->request.sampling);
    sequence->tokens = sequence->request.prompt;
    for (const int32_t token : sequence->tokens) sequence->sampler.accept(token);
    slot_used_[static_cast<size_t>(slot)] = true;
    slot_tokens_[static_cast<size_t>(slot)].resize(static_cast<size_t>(reused));
    scheduler_.add(id, reused, static_cast<int>(sequence->tokens.size()));
    running_[id] = std::move(sequence);
  }
}

// The free slot whose cache begins most like the prompt: those positions need not be computed again. The
// prompt's last token always is, for its logits.
int Coordinator::best_slot(const std::vector<int32_t>& prompt, int& reused) const {
  int best = -1;
  for (size_t slot = 0; slot < slot_used_.size(); ++slot) {
    if (slot_used_[slot]) continue;
    const std::vector<int32_t>& held = slot_tokens_[slot];
    const size_t limit = std::min(held.size(), prompt.size() - 1);
    const auto differ =
        std::mismatch(held.begin(), held.begin() + static_cast<long>(limit), prompt.begin()).first;
    const int same = static_cast<int>(differ - held.begin());
    if (best < 0 || same > reused) best = static_cast<int>(slot), reused = same;
  }
  return best;
}

void Coordinator::pump() {
  while (!is_broken_) {
    std::optional<ScheduledStep> step = scheduler_.next_step();
    if (!step) return;
    send(std::move(*step));
  }
}

void Coordinator::send(ScheduledStep step) {
  auto job = std::make_unique<StepJob>();
  job->epoch = 1;
  job->step_id = next_step_++;
  job->candidates = 1;
  StepInFlight in_flight;
  for (const StepPart& part : step.parts) {
    const Sequence& sequence = *running_.at(part.sequence);
    std::vector<int32_t>& held = slot_tokens_[static_cast<size_t>(sequence.slot)];
    held.resize(static_cast<size_t>(part.first_position));
    for (int i = 0; i < part.rows; ++i) {
      const int position = part.first_position + i;
      const bool wants = part.wants_logits && i + 1 == part.rows;
      const int32_t token = sequence.tokens[static_cast<size_t>(position)];
      if (wants) in_flight.wanted.emplace_back(static_cast<int32_t>(job->rows.size()), sequence.id);
      job->rows.push_back({token, position, sequence.slot, wants});
      held.push_back(token);
    }
    if (part.wants_logits) {
      const int need = candidates_wanted(sequence.request);
      job->candidates = need == 0 || job->candidates == 0 ? 0 : std::max(job->candidates, need);
    }
  }
  in_flight.step = std::move(step);
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
    fail_all(outcome.error);
    return;
  }
  const auto found = steps_.find(outcome.step_id);
  if (found == steps_.end()) {
    fail_all({Errc::kBadFrame, fmt::format("an answer to step {}, which is not under way", outcome.step_id)});
    return;
  }
  const StepInFlight in_flight = std::move(found->second);
  steps_.erase(found);
  scheduler_.step_done(in_flight.step);
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
    take_token(*sequence->second, outcome.rows[i]);
  }
  admit();
  pump();
}

void Coordinator::take_token(Sequence& sequence, const RowOutput& output) {
  const uint64_t id = sequence.id;
  if (output.candidates.empty()) {
    return finish(id, FinishReason::kError, {Errc::kBadFrame, "an answer without candidates"});
  }
  const LogitBias& bias = sequence.request.logit_bias;
  const int32_t token =
      sequence.sampler.sample(bias.empty() ? output.candidates : biased(output.candidates, bias));
  if (token < 0 || token >= layout_.n_vocab) {  // -1: no logit is a number
    return finish(id, FinishReason::kError, {Errc::kBadFrame, "an answer without a token of the vocabulary"});
  }
  sequence.sampler.accept(token);
  const bool end = tokenizer_ != nullptr && tokenizer_->is_end_of_generation(token);
  if (end && !sequence.request.ignore_end) return finish(id, FinishReason::kStop);
  sequence.tokens.push_back(token);
  ++sequence.answered;
  GenerationEvent event;
  event.request = id;
  event.token = token;
  if (sequence.answered == 1)
    event.prompt_rows = static_cast<int>(sequence.request.prompt.size()) - sequence.reused;
  if (sequence.request.logprobs >= 0) tell_logprobs(output, sequence.request.logprobs, event);
  sequence.request.on_event(event);
  const bool full = static_cast<int>(sequence.tokens.size()) >= layout_.context;
  if (sequence.answered >= sequence.request.max_tokens || full) return finish(id, FinishReason::kLength);
  scheduler_.extend(id);
}

void Coordinator::finish(uint64_t id, FinishReason reason, const Error& error) {
  const auto found = running_.find(id);
  if (found == running_.end()) return;
  const std::unique_ptr<Sequence> sequence = std::move(found->second);
  running_.erase(found);
  scheduler_.remove(id);
  slot_used_[static_cast<size_t>(sequence->slot)] = false;
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
    if (silence.count() > layout_.step_deadline_s) {
      return fail_all(
          {Errc::kTimeout, fmt::format("no answer from the pipeline for {:.0f} s: one of {} hangs or is cut "
                                       "off",
                                       silence.count(), fmt::join(layout_.node_of_stage, ", "))});
    }
    watch();
  });
}

void Coordinator::fail_all(const Error& error) {
  if (!is_broken_) broken_ = error;  // what follows the first failure is its consequence
  is_broken_ = true;
  while (!running_.empty()) finish(running_.begin()->first, FinishReason::kError, error);
  while (!waiting_.empty()) {
    const auto [id, request] = std::move(waiting_.front());
    waiting_.pop_front();
    request.on_event({id, -1, true, FinishReason::kError, error});
  }
}

}  // namespace shoal
