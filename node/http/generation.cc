#include "node/http/generation.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace shoal {

namespace {

size_t bytes_of(const TokenLogprob& token) {
  return sizeof token + token.bytes.size() + token.top.size() * sizeof token.top.front();
}

}  // namespace

Generation::Generation(IoThread& io, Coordinator& coordinator, const Tokenizer& tokenizer,
                       std::shared_ptr<const TokenBytes> token_bytes, std::shared_ptr<ApiMetrics> metrics,
                       const CompletionRequest& request, const std::vector<std::vector<int32_t>>& prompts,
                       std::string user)
    : coordinator_(coordinator),
      tokenizer_(tokenizer),
      token_bytes_(std::move(token_bytes)),
      metrics_(std::move(metrics)),
      request_(request),
      user_(std::move(user)),
      prompts_(prompts),
      changed_(io.executor()) {
  for (const std::vector<int32_t>& prompt : prompts_) {
    for (int i = 0; i < request_.n; ++i) {
      AnswerForm form = request_.answer_form;
      form.id_seed += uint64_t{choices_.size()} << 32;  // calls of different answers have different ids
      choices_.emplace_back(tokenizer_, request_, std::move(form));
      choices_.back().prompt_tokens = static_cast<int>(prompt.size());
    }
  }
  unfinished_ = choices_.size();
  metrics_->change_in_flight(static_cast<int>(unfinished_));
}

Generation::~Generation() {
  metrics_->change_in_flight(-static_cast<int>(unfinished_));
}

void Generation::start() {
  for (size_t i = 0; i < choices_.size(); ++i) {
    GenerationRequest request;
    request.prompt = prompts_[i / static_cast<size_t>(request_.n)];
    request.max_tokens = request_.max_tokens.value_or(std::numeric_limits<int>::max());
    request.sampling = request_.sampling;
    request.sampling.seed += i;  // several answers to one prompt are to differ
    request.logit_bias = request_.logit_bias;
    request.logprobs = request_.logprobs;
    request.adapter = {request_.adapter, request_.adapter_scale};
    request.ignore_end = request_.ignore_end;
    if (request_.grammar) request.grammar = {request_.grammar, token_bytes_};
    request.user = user_;
    request.priority = request_.priority;
    request.together = static_cast<int>(choices_.size() - i);
    request.follows = i > 0;
    request.deadline_s = request_.timeout_s;
    request.on_event = [self = shared_from_this(), i](const GenerationEvent& event) {
      self->on_event(i, event);
    };
    choices_[i].id = coordinator_.submit(std::move(request));
  }
  prompts_.clear();
}

void Generation::cancel() {
  if (cancelled_ || finished()) return;
  cancelled_ = true;
  metrics_->count_cancelled();
  for (const Choice& choice : choices_) {
    if (!choice.ended) coordinator_.cancel(choice.id);
  }
}

void Generation::on_event(size_t index, const GenerationEvent& event) {
  Choice& choice = choices_[index];
  if (choice.ended) return;  // by a stop string; the pipeline had not heard of it yet
  if (event.token >= 0) {
    on_token(choice, event);
    bound_backlog();
  }
  if (event.finished && !choice.ended) {
    if (event.reason == FinishReason::kError || event.reason == FinishReason::kCancelled) {
      const bool first = !error_;
      if (first) {
        error_ = event.reason == FinishReason::kError
                     ? event.error
                     : Error{Errc::kCancelled, "the request was cancelled: the server is stopping"};
        retry_after_s_ = event.retry_after_s;
      }
      end(choice, "");
      // Without one answer the others are of no use: none is computed to be thrown away.
      for (const Choice& other : choices_) {
        if (first && !other.ended) coordinator_.cancel(other.id);
      }
    } else {
      release(choice, choice.filter.push(choice.decoder.finish()));
      if (!choice.filter.stopped()) release(choice, choice.filter.finish());
      end(choice, event.reason == FinishReason::kStop || choice.filter.stopped() ? "stop" : "length");
    }
  }
  changed_.notify();
}

// What a client does not read is kept for it, but not without end; its place in the pipeline is for others.
void Generation::bound_backlog() {
  if (!request_.stream || backlog_bytes_ <= kStreamBacklogMax || error_) return;
  error_ = Error{Errc::kCancelled, "the answer is cut off: its client reads more slowly than it is written"};
  cancel();
}

void Generation::on_token(Choice& choice, const GenerationEvent& event) {
  const Clock::time_point now = Clock::now();
  auto seconds_since = [&](Clock::time_point then) {
    return std::chrono::duration<double>(now - then).count();
  };
  if (choice.last_token) {
    metrics_->observe_between_tokens(seconds_since(*choice.last_token));
  } else {
    choice.cached = choice.prompt_tokens - event.prompt_rows;
    metrics_->observe_first_token(seconds_since(begun_));
    metrics_->count_prompt(choice.prompt_tokens, choice.cached);
  }
  choice.last_token = last_token_ = now;
  metrics_->count_token();
  ++choice.tokens;
  if (request_.logprobs >= 0) {
    choice.logprobs.push_back(logprob_of(event, choice));
    backlog_bytes_ += bytes_of(choice.logprobs.back());
  }
  const std::string text = choice.decoder.push(event.token);
  choice.text_bytes += text.size();
  choice.text_characters +=
      static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
  release(choice, choice.filter.push(text));
  if (!choice.filter.stopped()) return;
  coordinator_.cancel(choice.id);
  std::erase_if(choice.logprobs,
                [&](const TokenLogprob& t) { return t.text_offset >= choice.released_bytes; });
  end(choice, "stop");
}

void Generation::release(Choice& choice, const std::string& text) {
  choice.released_bytes += text.size();
  backlog_bytes_ += text.size();
  if (request_.chat) {
    add(choice, choice.parser.push(text));
  } else {
    choice.text += text;
  }
}

void Generation::add(Choice& choice, AnswerDelta delta) {
  choice.text += delta.content;
  choice.reasoning += delta.reasoning;
  choice.calls.insert(choice.calls.end(), std::make_move_iterator(delta.calls.begin()),
                      std::make_move_iterator(delta.calls.end()));
}

void Generation::end(Choice& choice, std::string reason) {
  choice.ended = true;
  if (request_.chat) add(choice, choice.parser.finish());
  if (reason == "stop" && choice.parser.calls() > 0) reason = "tool_calls";
  choice.finish_reason = std::move(reason);
  --unfinished_;
  metrics_->change_in_flight(-1);
}

TokenLogprob Generation::logprob_of(const GenerationEvent& event, const Choice& choice) const {
  TokenLogprob token;
  token.bytes = tokenizer_.piece(event.token, /*show_special=*/true);
  token.logprob = event.logprob;
  token.text_offset = choice.text_bytes;
  token.character_offset = choice.text_characters;
  for (const auto& [id, logprob] : event.best)
    token.top.emplace_back(tokenizer_.piece(id, /*show_special=*/true), logprob);
  return token;
}

std::vector<ChoicePart> Generation::take() {
  std::vector<ChoicePart> parts;
  backlog_bytes_ = 0;
  for (size_t i = 0; i < choices_.size(); ++i) {
    Choice& choice = choices_[i];
    const bool end = choice.ended && !choice.told;
    if (choice.text.empty() && choice.reasoning.empty() && choice.calls.empty() && !end) continue;
    ChoicePart part;
    part.index = static_cast<int>(i);
    part.text = std::exchange(choice.text, {});
    part.reasoning = std::exchange(choice.reasoning, {});
    part.calls = std::exchange(choice.calls, {});
    part.calls_before = choice.parser.calls() - static_cast<int>(part.calls.size());
    part.with_logprobs = request_.logprobs >= 0;
    part.logprobs = std::exchange(choice.logprobs, {});
    if (end) part.finish_reason = choice.finish_reason;
    choice.told = choice.ended;
    parts.push_back(std::move(part));
  }
  return parts;
}

ApiError Generation::api_error() const {
  return to_api_error(*error_, static_cast<int>(std::ceil(retry_after_s_)));
}

Usage Generation::usage() const {
  Usage usage;
  for (size_t i = 0; i < choices_.size(); ++i) {
    usage.completion_tokens += choices_[i].tokens;
    if (i % static_cast<size_t>(request_.n) != 0) continue;  // a prompt counts once
    usage.prompt_tokens += choices_[i].prompt_tokens;
    usage.cached_tokens += choices_[i].cached;
  }
  return usage;
}

}  // namespace shoal
