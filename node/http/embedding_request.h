// Bodies of /v1/embeddings and /v1/rerank as checked values. Pure functions; what is wrong is an ApiError
// that names the field.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "node/http/openai_request.h"

namespace shoal {

inline constexpr size_t kEmbeddingInputsMax = 2048;  // as OpenAI's
inline constexpr size_t kDocumentsMax = 1024;

// What both have.
struct PoolingRequest {
  std::string model;  // empty: not given
  int priority = 0;
  double timeout_s = 0;
};

struct EmbeddingRequest : PoolingRequest {
  std::vector<PromptInput> inputs;  // none empty
  bool several = false;             // they came as a list, whose elements errors name
  bool base64 = false;              // little-endian f32, as OpenAI's Python client asks for
  std::optional<int> dimensions;
};

struct RerankRequest : PoolingRequest {
  std::string query;
  std::vector<std::string> documents;  // at least one
  size_t top_n = 0;                    // so many of the best; 0: all
  bool return_documents = false;
};

ApiResult<EmbeddingRequest> parse_embedding_request(std::string_view body);
ApiResult<RerankRequest> parse_rerank_request(std::string_view body);

}  // namespace shoal
