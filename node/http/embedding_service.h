// What stands behind /v1/embeddings and /v1/rerank: texts become tokens on a thread of its own, the
// coordinator has each read through the pipeline, and the vectors or scores go back together. Belongs to the
// io thread; the cluster outlives it.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <memory>
#include <string>
#include <vector>

#include "node/cluster.h"
#include "node/http/api_metrics.h"
#include "node/http/embedding_request.h"
#include "node/http/http_server.h"

namespace shoal {

class EmbeddingService {
 public:
  EmbeddingService(Cluster& cluster, std::shared_ptr<ApiMetrics> metrics, std::string model_id);
  ~EmbeddingService();  // from another thread than the io thread, when no request is under way

  // Answer a request of `user`; the status it was answered with.
  boost::asio::awaitable<int> embed(HttpExchange& exchange, std::string user);
  boost::asio::awaitable<int> rerank(HttpExchange& exchange, std::string user);
  void cancel_all();

 private:
  class Job;
  // The tokens of every text, or why not all can be read.
  using Inputs = std::vector<std::vector<int32_t>>;
  struct Prepared;
  ApiResult<Prepared> prepare_embedding(const std::string& body) const;
  ApiResult<Prepared> prepare_rerank(const std::string& body) const;
  std::vector<int32_t> input_tokens(const std::string& text) const;
  std::optional<ApiError> check_model(const std::string& model, bool ranks) const;
  std::optional<ApiError> check_length(const std::vector<int32_t>& tokens, const std::string& field) const;
  boost::asio::awaitable<ApiResult<Prepared>> prepare_aside(std::string body, bool ranks);
  boost::asio::awaitable<int> answer(HttpExchange& exchange, std::string user, bool ranks);
  boost::asio::awaitable<int> refuse(HttpExchange& exchange, const ApiError& error);
  std::string embeddings_json(const Prepared& prepared, const Job& job) const;
  std::string ranking_json(const Prepared& prepared, const Job& job) const;

  Cluster& cluster_;
  const std::shared_ptr<ApiMetrics> metrics_;
  const std::string model_id_;
  boost::asio::thread_pool worker_{1};
  std::vector<std::weak_ptr<Job>> under_way_;
};

// A vector of length 1, as OpenAI's are; zeros stay zeros.
std::vector<float> normalised(const std::vector<float>& vector);
// Its elements as little-endian f32, in base64.
std::string to_base64(const std::vector<float>& vector);

}  // namespace shoal
