// What stands behind /v1/chat/completions and /v1/completions: a body becomes tokens on a thread of its own
// (completion_preparer.h; a long text must not hold up the io thread), the coordinator generates, the answer
// goes back whole or as it comes. Belongs to the io thread; the cluster outlives it.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "node/cluster.h"
#include "node/http/api_metrics.h"
#include "node/http/completion_preparer.h"
#include "node/http/generation.h"
#include "node/http/http_server.h"

namespace shoal {

class CompletionService {
 public:
  CompletionService(Cluster& cluster, std::shared_ptr<ApiMetrics> metrics);
  ~CompletionService();  // from another thread than the io thread, when no request is under way

  const std::string& model_id() const { return model_id_; }
  int64_t created() const { return created_; }

  // Answers a request of `user`, who takes turns with others and shares no cache with them; the status it was
  // answered with.
  boost::asio::awaitable<int> complete(HttpExchange& exchange, bool chat, std::string user);
  // Whether a token has passed through the whole pipeline lately; asks for one if none has.
  boost::asio::awaitable<bool> ready();
  void cancel_all();

  // For /status.json: one object a request under way.
  struct Active {
    uint64_t number = 0;
    bool chat = false, stream = false;
    double age_s = 0;
    Usage usage;
  };
  std::vector<Active> active() const;

 private:
  struct UnderWay {
    uint64_t number;
    bool chat, stream;
    std::shared_ptr<Generation> generation;
  };

  boost::asio::awaitable<ApiResult<PreparedCompletion>> prepare_aside(std::string body, bool chat);
  boost::asio::awaitable<int> answer_whole(HttpExchange& exchange, Generation& generation, ResponseHead head);
  boost::asio::awaitable<int> answer_stream(HttpExchange& exchange, Generation& generation, ResponseHead head,
                                            const CompletionRequest& request);
  boost::asio::awaitable<int> refuse(HttpExchange& exchange, const ApiError& error);
  ResponseHead new_head(bool chat);
  void probe();
  boost::asio::awaitable<bool> embeds_now();

  Cluster& cluster_;
  const std::shared_ptr<ApiMetrics> metrics_;
  const std::string model_id_;
  const CompletionPreparer preparer_;  // works on the worker's thread
  std::string fingerprint_;
  std::shared_ptr<const TokenBytes> token_bytes_;  // for answers within a grammar
  const int64_t created_;
  boost::asio::thread_pool worker_{1};
  std::list<UnderWay> under_way_;
  uint64_t next_number_ = 1;
  void note(const Generation& generation);
  std::optional<double> last_failure_s_;  // of the node's clock
  std::shared_ptr<Generation> probe_;     // a token of our own on its way
};

// A response that refuses.
HttpResponse to_response(const ApiError& error);

}  // namespace shoal
