// What is asked of the coordinator and what it tells: plain values, and the checks that need no pipeline.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "model/grammar_filter.h"
#include "model/sampler.h"
#include "node/logit_bias.h"
#include "node/pipeline_layout.h"
#include "sharding/stage.h"

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
  double retry_after_s = 0;  // where it may be asked again: when there is room, or a pipeline, as predicted
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
  int together = 1;      // it and those submitted next that are of no use without it: all find places or none
  bool follows = false;  // of such: not the first
  double deadline_s = 0;                                 // from submission to the last token; 0: none
  std::function<void(const GenerationEvent&)> on_event;  // called on the io thread; must not block
};

// Whether a request can be answered by such a model at all; the error says what to change.
Result<void> check_request(const GenerationRequest& request, const PipelineLayout& layout);

// Candidates that the last stage must return for a row of this request; 0: all.
int candidates_wanted(const GenerationRequest& request);

// Whom what a request leaves in the cache may serve: the same user, and behind the same adapter, whose K and
// V they are.
std::string cache_owner(const GenerationRequest& request);

// Fills the event's log-probability and the `count` best.
void tell_logprobs(const RowOutput& output, int count, GenerationEvent& event);

}  // namespace shoal
