// The endpoints: which path does what, who may, and in what words the rest is refused. Belongs to the io
// thread.
#pragma once

#include <string>

#include "node/cluster.h"
#include "node/http/api_keys.h"
#include "node/http/api_metrics.h"
#include "node/http/completion_service.h"
#include "node/http/cors.h"
#include "node/http/embedding_service.h"
#include "node/http/http_server.h"
#include "node/http/stats_collector.h"
#include "node/rate_limit.h"
#include "node/strangers.h"

namespace shoal {

class ApiHandler : public HttpHandler {
 public:
  // All of them outlive the handler.
  ApiHandler(Cluster& cluster, CompletionService& service, EmbeddingService& embeddings, ApiMetrics& metrics,
             StatsCollector& stats, ApiKeys keys, ApiKeys admins, AllowedOrigins origins,
             int requests_per_minute);
  void set_server(const HttpServer& server) { server_ = &server; }  // before it listens
  void set_stopping() { stopping_ = true; }

  std::optional<HttpResponse> refuse_early(const HttpRequest& head) override;
  boost::asio::awaitable<void> handle(HttpExchange& exchange) override;
  std::vector<std::pair<std::string, std::string>> common_headers(const HttpRequest& request) override;
  HttpResponse refusal(int status, const std::string& problem) override;

 private:
  std::optional<HttpResponse> find_refusal(const HttpRequest& head);
  void note_wrong_key(const HttpRequest& head);
  std::optional<HttpResponse> too_often(const HttpRequest& head);
  boost::asio::awaitable<int> answer(HttpExchange& exchange);
  boost::asio::awaitable<HttpResponse> ready();
  boost::asio::awaitable<HttpResponse> metrics();
  boost::asio::awaitable<HttpResponse> status();
  HttpResponse drain(const std::string& body);
  HttpResponse models(const std::string& path) const;
  ClusterCounts cluster_counts() const;

  Cluster& cluster_;
  CompletionService& service_;
  EmbeddingService& embeddings_;
  ApiMetrics& metrics_;
  StatsCollector& stats_;
  const ApiKeys keys_;
  const ApiKeys admins_;  // who may drain nodes; empty: whoever is on this machine (and has a key of keys_)
  const AllowedOrigins origins_;
  RateLimit rate_;
  StrangerLines wrong_keys_;
  const HttpServer* server_ = nullptr;
  bool stopping_ = false;
};

}  // namespace shoal
