// Answers as OpenAI's clients read them: chat.completion, chat.completion.chunk and text_completion objects,
// and server-sent events. Pure functions from plain values to text; all text that goes in is UTF-8 or is made
// so here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "node/http/answer_parser.h"
#include "node/http/api_error.h"

namespace shoal {

// What all parts of one answer have in common.
struct ResponseHead {
  bool chat = false;
  std::string id;
  int64_t created = 0;  // seconds since 1970
  std::string model;
  std::string fingerprint;  // of model and numeric class: equal fingerprints give equal text for a seed
};

struct TokenLogprob {
  std::string bytes;  // of the token; not always UTF-8
  double logprob = 0;
  std::vector<std::pair<std::string, double>> top;  // best first
  size_t text_offset = 0;                           // in the answer's text, bytes
  size_t character_offset = 0;                      // the same in characters, as clients count
};

// A part of one answer, or all of it. `finish_reason` is empty before the end.
struct ChoicePart {
  int index = 0;
  std::string text;
  bool with_logprobs = false;
  std::vector<TokenLogprob> logprobs;
  std::string finish_reason;
  std::string reasoning = {};
  std::vector<ToolCall> calls = {};
  int calls_before = 0;  // of this answer, in earlier parts
};

struct Usage {
  int prompt_tokens = 0;
  int completion_tokens = 0;
  int cached_tokens = 0;  // of the prompt: found in the cache and not computed
};

std::string whole_answer_json(const ResponseHead& head, const std::vector<ChoicePart>& choices,
                              const Usage& usage);
// `opens`: the first chunk of a chat choice, which tells the role. `usage_follows`: "usage": null is added,
// as clients that asked for usage expect.
std::string chunk_json(const ResponseHead& head, const ChoicePart& part, bool opens, bool usage_follows);
std::string usage_chunk_json(const ResponseHead& head, const Usage& usage);

std::string server_sent_event(std::string_view json);
inline constexpr std::string_view kLastServerSentEvent = "data: [DONE]\n\n";

// `bytes` with what is not UTF-8 replaced by U+FFFD.
std::string to_valid_utf8(std::string_view bytes);

}  // namespace shoal
