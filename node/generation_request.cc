#include "node/generation_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "transport/messages.h"

namespace shoal {

int candidates_wanted(const GenerationRequest& request) {
  if (request.grammar.json) return 0;  // the tokens that it allows may be anywhere
  const int needed = candidates_for_bias(request.logit_bias, request.sampling.candidates_needed());
  return needed == 0 ? 0 : std::max(needed, request.logprobs);
}

std::string cache_owner(const GenerationRequest& request) {
  return fmt::format("{} {:a} {}", request.adapter.index, request.adapter.scale, request.user);
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

Result<void> check_request(const GenerationRequest& request, const PipelineLayout& layout) {
  const int length = static_cast<int>(request.prompt.size());
  if (request.prompt.empty())
    return Error{Errc::kInvalidInput, "the prompt is empty: it needs at least one token"};
  if (request.embeds && layout.inputs > 0 && layout.decodes)
    return Error{Errc::kInvalidInput, "the model's encoder serves its decoder: it gives no embeddings"};
  if (!request.embeds && !layout.decodes)
    return Error{Errc::kInvalidInput, "the model gives embeddings and generates no text"};
  if (request.max_tokens < 1) {
    return Error{
        Errc::kInvalidInput,
        fmt::format("-n (--max-tokens) is {} but an answer has at least 1 token", request.max_tokens)};
  }
  if (layout.inputs > 0 && length > layout.inputs) {
    return Error{
        Errc::kContextFull,
        fmt::format("the prompt has {} tokens and the model's encoder reads at most {}, all at once: "
                    "shorten the prompt",
                    length, layout.inputs)};
  }
  if (layout.inputs == 0 && length + !request.embeds > layout.context) {
    return Error{
        Errc::kContextFull,
        fmt::format("the prompt has {} tokens and the context holds {}, the answer included: shorten the "
                    "prompt or raise the context (--context, or context: in the cluster file)",
                    length, layout.context)};
  }
  for (const int32_t token : request.prompt) {
    if (token < 0 || token >= layout.n_vocab) {
      return Error{Errc::kInvalidInput,
                   fmt::format("the prompt has token {}, and the vocabulary has {}", token, layout.n_vocab)};
    }
  }
  if (request.adapter.index < 0 || request.adapter.index > layout.adapters ||
      !(std::abs(request.adapter.scale) <= kAdapterScaleMax)) {
    return Error{Errc::kInvalidInput, fmt::format("there is no adapter {} with scale {}",
                                                  request.adapter.index, request.adapter.scale)};
  }
  try {
    request.sampling.validate();
  } catch (const SetupError& error) {
    return Error{Errc::kInvalidInput, error.what()};
  }
  return {};
}

}  // namespace shoal
