// From the body of a request for a completion to the tokens of its prompts: which model and adapter is meant,
// the chat template, the form of the answer, and whether it all fits. Const once made, and so for any thread:
// a long text is prepared on another than the io thread. The cluster outlives it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "node/cluster.h"
#include "node/http/openai_request.h"

namespace shoal {

struct PreparedCompletion {
  CompletionRequest request;
  std::vector<std::vector<int32_t>> prompts;  // tokens
};

class CompletionPreparer {
 public:
  CompletionPreparer(const Cluster& cluster, std::string model_id);

  // An error says which field asks for what cannot be.
  ApiResult<PreparedCompletion> prepare(const std::string& body, bool chat) const;

 private:
  std::optional<ApiError> choose_model(CompletionRequest& request) const;
  std::optional<ApiError> fit_tools(CompletionRequest& request) const;
  void set_answer_form(CompletionRequest& request) const;
  ApiResult<std::vector<int32_t>> encode(CompletionRequest& request, size_t prompt) const;

  const Cluster& cluster_;
  const std::string model_id_;
  std::string no_template_;  // why there is none
  std::optional<ChatTemplate> chat_template_;
  size_t piece_bytes_max_ = 1;  // of any token: a text this many times longer than the context cannot fit
  bool has_brace_ = false;      // in some token: without one no JSON object can be written
};

}  // namespace shoal
