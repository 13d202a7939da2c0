// The bodies of /v1/chat/completions and /v1/completions, checked field by field. JSON text in, a typed
// request or an error that names the field out; nothing here knows sockets, tokenizer or model. Unknown
// fields are let pass, known ones of a wrong type or out of range are refused, and so is every known field
// that asks for what Shoal does not do (images, best_of, other servers' grammars): never silently ignored.
// Bounded: json_fields.h, and the limits below. Field names and ranges: OpenAI's public API reference;
// extensions are top_k, min_p, repetition_penalty, ignore_eos, priority and timeout.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "model/json_grammar.h"
#include "model/sampler.h"
#include "node/http/answer_parser.h"
#include "node/http/api_error.h"

namespace shoal {

inline constexpr size_t kMessagesMax = 4096;   // of one conversation
inline constexpr size_t kToolsMax = 128;       // and calls in one message
inline constexpr int kChoicesMax = 16;         // answers to one request: prompts times n
inline constexpr size_t kStopsMax = 16;        // stop strings
inline constexpr size_t kStopBytesMax = 256;   // of one of them
inline constexpr size_t kLogitBiasMax = 1024;  // biased tokens
inline constexpr int kTopLogprobsMax = 20;
inline constexpr int kPriorityMax = 3;        // and -3; 0 where none is given
inline constexpr double kTimeoutMaxS = 3600;  // that a request may allow itself
inline constexpr double kTimeoutMinS = 0.001;

using PromptInput = std::variant<std::string, std::vector<int32_t>>;  // text, or token ids

struct CompletionRequest {
  bool chat = false;
  std::string model;                 // empty: not given
  ChatConversation conversation;     // chat: at least one message
  size_t message_bytes = 0;          // in them
  bool has_tool_messages = false;    // earlier calls, or their results
  std::vector<PromptInput> prompts;  // otherwise: at least one, none empty
  int n = 1;                         // answers to each prompt
  std::optional<int> max_tokens;     // absent: chat goes on to the end of the context
  std::vector<std::string> stop;
  SamplerOptions sampling;  // seed is set where `seeded`
  bool seeded = false;
  bool stream = false;
  bool include_usage = false;
  int logprobs = -1;  // so many of the best candidates are told with each token; -1: no log-probabilities
  std::vector<std::pair<int32_t, float>> logit_bias;  // token, added to its logit; ids not yet checked
  std::string lora;         // NAME or NAME:SCALE of an adapter; empty: as `model` says, or none
  int adapter = 0;          // which one that is: set by the service, which knows them
  float adapter_scale = 1;  // likewise
  std::string user;
  int priority = 0;      // higher goes first
  double timeout_s = 0;  // from arrival to the last token; 0: no limit
  bool ignore_end = false;
  AnswerForm answer_form;                      // of a chat; tools are the request's, the rest its model's
  std::vector<int32_t> shown_tokens;           // control tokens whose text the answer keeps
  std::shared_ptr<const JsonGrammar> grammar;  // that answers are kept within; null: none
};

ApiResult<CompletionRequest> parse_chat_request(std::string_view body);
ApiResult<CompletionRequest> parse_text_request(std::string_view body);

}  // namespace shoal
