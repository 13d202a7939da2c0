// Bodies of requests: the first byte chooses which.
#include "node/http/embedding_request.h"
#include "node/http/openai_request.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace shoal;

template <class Request>
const Request* taken(const ApiResult<Request>& read) {
  if (read.has_value()) return &*read;
  fuzz::require(read.error().status >= 400 && read.error().status < 500, "it is the request's fault");
  fuzz::require(!read.error().message.empty() && read.error().message.size() < 4096,
                "a refusal says why, briefly");
  return nullptr;
}

void check_bounds(const CompletionRequest& request) {
  fuzz::require(request.n >= 1 && request.n <= kChoicesMax, "n is bounded");
  fuzz::require(request.stop.size() <= kStopsMax, "stop strings are bounded");
  for (const std::string& stop : request.stop)
    fuzz::require(!stop.empty() && stop.size() <= kStopBytesMax, "a stop string is bounded");
  fuzz::require(request.logit_bias.size() <= kLogitBiasMax, "biases are bounded");
  fuzz::require(request.logprobs <= kTopLogprobsMax, "log-probabilities are bounded");
  fuzz::require(request.timeout_s >= 0 && request.timeout_s <= kTimeoutMaxS, "the time limit is a time");
  fuzz::require(request.sampling.temperature >= 0, "the temperature is a number");
  fuzz::require(request.chat || !request.prompts.empty(), "there is a prompt");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const uint8_t which = input.byte();
  const std::string_view body = input.text();
  if (which % 4 == 0) {
    const auto read = parse_chat_request(body);
    if (const auto* request = taken(read)) check_bounds(*request);
  } else if (which % 4 == 1) {
    const auto read = parse_text_request(body);
    if (const auto* request = taken(read)) check_bounds(*request);
  } else if (which % 4 == 2) {
    const auto read = parse_embedding_request(body);
    if (const auto* request = taken(read))
      fuzz::require(!request->inputs.empty() && request->inputs.size() <= kEmbeddingInputsMax,
                    "inputs are bounded");
  } else {
    const auto read = parse_rerank_request(body);
    if (const auto* request = taken(read))
      fuzz::require(!request->documents.empty() && request->documents.size() <= kDocumentsMax,
                    "documents are bounded");
  }
  return 0;
}
