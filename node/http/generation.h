// The answers to one API request while they are generated: tokens come in from the coordinator, text goes out
// in parts. Ends an answer at its stop strings and takes it off the pipeline at once. Belongs to the io
// thread; lives until the last of its requests has ended.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/tokenizer.h"
#include "node/coordinator.h"
#include "node/http/api_metrics.h"
#include "node/http/notifier.h"
#include "node/http/openai_request.h"
#include "node/http/openai_response.h"
#include "node/http/stop_filter.h"

namespace shoal {

// Of a streamed answer that waits for its client to read: one who falls further behind loses it.
inline constexpr size_t kStreamBacklogMax = size_t{256} << 10;

class Generation : public std::enable_shared_from_this<Generation> {
 public:
  using Clock = std::chrono::steady_clock;
  // Each prompt gets request.n answers; `prompts` hold at least one token each. `user`: whose turn it is.
  Generation(IoThread& io, Coordinator& coordinator, const Tokenizer& tokenizer,
             std::shared_ptr<const TokenBytes> token_bytes, std::shared_ptr<ApiMetrics> metrics,
             const CompletionRequest& request, const std::vector<std::vector<int32_t>>& prompts,
             std::string user);
  ~Generation();

  void start();
  void cancel();  // the client is gone, or the server ends

  // Returns when there is something to take or all has ended.
  boost::asio::awaitable<void> wait() { return changed_.wait(); }
  bool finished() const { return unfinished_ == 0; }
  const std::optional<Error>& error() const { return error_; }
  ApiError api_error() const;  // error() as the client is told it
  // What has come since the last time: at most one part a choice, its end included.
  std::vector<ChoicePart> take();
  Usage usage() const;

  Clock::time_point begun() const { return begun_; }
  std::optional<Clock::time_point> last_token() const { return last_token_; }

 private:
  struct Choice {
    Choice(const Tokenizer& tokenizer, const CompletionRequest& request, AnswerForm form)
        : decoder(tokenizer, request.shown_tokens), filter(request.stop), parser(std::move(form)) {}
    StreamDecoder decoder;
    StopFilter filter;
    AnswerParser parser;
    uint64_t id = 0;  // at the coordinator
    bool ended = false, told = false;
    std::string text, reasoning;         // not yet taken
    std::vector<ToolCall> calls;         // not yet taken
    std::string finish_reason;           // once ended
    std::vector<TokenLogprob> logprobs;  // of tokens whose text has not all been taken
    size_t text_bytes = 0;               // of the answer so far, held back text included
    size_t text_characters = 0;
    size_t released_bytes = 0;  // of it, known to belong to the answer
    int tokens = 0, prompt_tokens = 0, cached = 0;
    std::optional<Clock::time_point> last_token;
  };

  void bound_backlog();
  void on_event(size_t index, const GenerationEvent& event);
  void on_token(Choice& choice, const GenerationEvent& event);
  void release(Choice& choice, const std::string& text);
  void add(Choice& choice, AnswerDelta delta);
  void end(Choice& choice, std::string reason);
  TokenLogprob logprob_of(const GenerationEvent& event, const Choice& choice) const;

  Coordinator& coordinator_;
  const Tokenizer& tokenizer_;
  const std::shared_ptr<const TokenBytes> token_bytes_;
  const std::shared_ptr<ApiMetrics> metrics_;  // shared: a request may end after the server has
  const CompletionRequest request_;
  const std::string user_;
  std::vector<std::vector<int32_t>> prompts_;
  std::vector<Choice> choices_;
  size_t unfinished_ = 0;
  size_t backlog_bytes_ = 0;  // not yet taken, of all choices
  bool cancelled_ = false;
  std::optional<Error> error_;  // the first
  double retry_after_s_ = 0;    // with it
  Notifier changed_;
  const Clock::time_point begun_ = Clock::now();
  std::optional<Clock::time_point> last_token_;
};

}  // namespace shoal
