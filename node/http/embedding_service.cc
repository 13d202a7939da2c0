#include "node/http/embedding_service.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json.hpp>
#include <cmath>
#include <numeric>

#include "node/http/completion_service.h"
#include "node/http/notifier.h"

namespace shoal {

namespace asio = boost::asio;
namespace json = boost::json;
using asio::awaitable;
using asio::use_awaitable;

// One request's texts on their way through the coordinator: a few at a time, so that one list of texts does
// not fill the queue for everybody. Ends on the first error.
class EmbeddingService::Job : public std::enable_shared_from_this<Job> {
 public:
  Job(IoThread& io, Coordinator& coordinator, const PoolingRequest& request, Inputs inputs, int at_once,
      std::string user)
      : coordinator_(coordinator),
        request_(request),
        inputs_(std::move(inputs)),
        user_(std::move(user)),
        vectors(inputs_.size()),
        at_once_(static_cast<size_t>(at_once)),
        changed_(io.executor()) {}

  void start() {
    while (!ended() && next_ < inputs_.size() && next_ - done_ < at_once_) submit(next_++);
  }
  void cancel() {
    if (ended()) return;
    error = Error{Errc::kCancelled, "the request was cancelled"};
    for (const uint64_t id : ids_) coordinator_.cancel(id);
    changed_.notify();
  }
  bool ended() const { return error || done_ == inputs_.size(); }
  awaitable<void> wait() { return changed_.wait(); }
  size_t tokens() const {
    return std::accumulate(inputs_.begin(), inputs_.end(), size_t{0},
                           [](size_t sum, const auto& input) { return sum + input.size(); });
  }

 private:
  void submit(size_t index) {
    GenerationRequest request;
    request.prompt = inputs_[index];
    request.embeds = true;
    request.user = user_;
    request.priority = request_.priority;
    request.deadline_s = request_.timeout_s;
    request.on_event = [self = shared_from_this(), index](const GenerationEvent& event) {
      self->on_event(index, event);
    };
    ids_.push_back(coordinator_.submit(std::move(request)));
  }
  void on_event(size_t index, const GenerationEvent& event) {
    if (!event.embedding.empty()) vectors[index] = event.embedding;
    if (!event.finished || ended()) return;
    if (event.reason == FinishReason::kError) {
      error = event.error;
      retry_after_s = event.retry_after_s;
      for (const uint64_t id : ids_) coordinator_.cancel(id);
    } else {
      ++done_;
      start();
    }
    if (ended()) changed_.notify();
  }

  Coordinator& coordinator_;
  const PoolingRequest request_;
  const Inputs inputs_;
  const std::string user_;

 public:
  std::vector<std::vector<float>> vectors;  // by input
  std::optional<Error> error;               // the first
  double retry_after_s = 0;                 // with it

 private:
  const size_t at_once_;
  size_t next_ = 0, done_ = 0;
  std::vector<uint64_t> ids_;  // at the coordinator; those that ended are cancelled to no effect
  Notifier changed_;
};

struct EmbeddingService::Prepared {
  Inputs inputs;
  PoolingRequest common;
  EmbeddingRequest embedding;
  RerankRequest rerank;
};

std::vector<float> normalised(const std::vector<float>& vector) {
  double squares = 0;
  for (const float x : vector) squares += static_cast<double>(x) * x;
  std::vector<float> out = vector;
  if (squares == 0) return out;
  for (float& x : out) x = static_cast<float>(x / std::sqrt(squares));
  return out;
}

std::string to_base64(const std::vector<float>& vector) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  for (const float x : vector) {
    const auto bits = std::bit_cast<uint32_t>(x);
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(bits >> shift & 255);
  }
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t three = 0;
    for (size_t j = 0; j < 3; ++j)
      three = three << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0);
    for (size_t j = 0; j < 4; ++j)
      text += i + j > bytes.size() ? '=' : kDigits[three >> (18 - 6 * static_cast<int>(j)) & 63];
  }
  return text;
}

EmbeddingService::EmbeddingService(Cluster& cluster, std::shared_ptr<ApiMetrics> metrics,
                                   std::string model_id)
    : cluster_(cluster), metrics_(std::move(metrics)), model_id_(std::move(model_id)) {}

EmbeddingService::~EmbeddingService() {
  worker_.join();
}

// ---- From a body to tokens, on the worker thread ----

std::optional<ApiError> EmbeddingService::check_model(const std::string& model, bool ranks) const {
  if (model.starts_with(model_id_ + ":"))
    return ApiError{400, "model: adapters are for answers and change no embeddings; name the model alone",
                    "model", "unsupported_model", 0};
  if (!model.empty() && model != model_id_ && model != "default")
    return ApiError{404,
                    fmt::format("model: this server has \"{}\" alone (\"default\" means it too)", model_id_),
                    "model", "model_not_found", 0};
  const ModelConfig& config = cluster_.model;
  if (config.encodes() && config.decodes())
    return ApiError{400, "model: its encoder serves its decoder: it gives no embeddings", "model",
                    "unsupported_model", 0};
  if (ranks && !config.ranks())
    return ApiError{400, "model: it has no classifier to rank with (pooling_type rank): it gives embeddings",
                    "model", "unsupported_model", 0};
  if (!ranks && config.ranks())
    return ApiError{400, "model: it ranks documents and gives no embeddings: use /v1/rerank", "model",
                    "unsupported_model", 0};
  return std::nullopt;
}

std::optional<ApiError> EmbeddingService::check_length(const std::vector<int32_t>& tokens,
                                                       const std::string& field) const {
  const PipelineLayout& layout = cluster_.layout;
  const int most = layout.inputs > 0 ? layout.inputs : layout.context;
  if (tokens.empty()) return ApiError{400, field + ": is empty", field, "", 0};
  if (tokens.size() <= static_cast<size_t>(most)) return std::nullopt;
  return ApiError{400,
                  fmt::format("{}: {} tokens, and the model reads at most {}", field, tokens.size(), most),
                  field, "context_length_exceeded", 0};
}

// Text models that were trained to embed say so by the token that ends a text.
std::vector<int32_t> EmbeddingService::input_tokens(const std::string& text) const {
  std::vector<int32_t> tokens = cluster_.tokenizer->encode_input(text);
  const int32_t eos = cluster_.tokenizer->eos();
  const bool adds_eos =
      cluster_.model.n_encoder == 0 && cluster_.file->get_bool("tokenizer.ggml.add_eos_token", false);
  if (adds_eos && eos >= 0 && (tokens.empty() || tokens.back() != eos)) tokens.push_back(eos);
  return tokens;
}

ApiResult<EmbeddingService::Prepared> EmbeddingService::prepare_embedding(const std::string& body) const {
  ApiResult<EmbeddingRequest> request = parse_embedding_request(body);
  if (request.has_error()) return request.error();
  if (const auto refused = check_model(request->model, false)) return *refused;
  if (request->dimensions && *request->dimensions != cluster_.layout.n_embd)
    return ApiError{
        400,
        fmt::format("dimensions: this model's embeddings have {}, no other number", cluster_.layout.n_embd),
        "dimensions", "", 0};
  Prepared prepared;
  for (size_t i = 0; i < request->inputs.size(); ++i) {
    const std::string field = request->several ? fmt::format("input[{}]", i) : "input";
    std::vector<int32_t> tokens;
    if (const auto* text = std::get_if<std::string>(&request->inputs[i])) {
      tokens = input_tokens(*text);
    } else {
      tokens = std::get<std::vector<int32_t>>(request->inputs[i]);
      for (const int32_t token : tokens) {
        if (token >= cluster_.layout.n_vocab)
          return ApiError{400, fmt::format("{}: the vocabulary has no token {}", field, token), field, "", 0};
      }
    }
    if (const auto refused = check_length(tokens, field)) return *refused;
    prepared.inputs.push_back(std::move(tokens));
  }
  prepared.common = *request;
  prepared.embedding = std::move(*request);
  return prepared;
}

// Query and document as one input.
ApiResult<EmbeddingService::Prepared> EmbeddingService::prepare_rerank(const std::string& body) const {
  ApiResult<RerankRequest> request = parse_rerank_request(body);
  if (request.has_error()) return request.error();
  if (const auto refused = check_model(request->model, true)) return *refused;
  Prepared prepared;
  for (size_t i = 0; i < request->documents.size(); ++i) {
    std::vector<int32_t> tokens = cluster_.tokenizer->encode_pair(request->query, request->documents[i]);
    if (const auto refused = check_length(tokens, fmt::format("documents[{}]", i))) return *refused;
    prepared.inputs.push_back(std::move(tokens));
  }
  prepared.common = *request;
  prepared.rerank = std::move(*request);
  return prepared;
}

awaitable<ApiResult<EmbeddingService::Prepared>> EmbeddingService::prepare_aside(std::string body,
                                                                                 bool ranks) {
  auto work = [](const EmbeddingService* self, std::string text,
                 bool rank) -> awaitable<ApiResult<Prepared>> {
    co_return rank ? self->prepare_rerank(text) : self->prepare_embedding(text);
  };
  co_return co_await asio::co_spawn(worker_.get_executor(), work(this, std::move(body), ranks),
                                    use_awaitable);
}

// ---- Answering ----

awaitable<int> EmbeddingService::refuse(HttpExchange& exchange, const ApiError& error) {
  co_await exchange.respond(to_response(error));
  co_return error.status;
}

awaitable<int> EmbeddingService::embed(HttpExchange& exchange, std::string user) {
  return answer(exchange, std::move(user), false);
}

awaitable<int> EmbeddingService::rerank(HttpExchange& exchange, std::string user) {
  return answer(exchange, std::move(user), true);
}

awaitable<int> EmbeddingService::answer(HttpExchange& exchange, std::string user, bool ranks) {
  ApiResult<Prepared> prepared = co_await prepare_aside(exchange.request().body, ranks);
  if (prepared.has_error()) co_return co_await refuse(exchange, prepared.error());
  constexpr int kClientGone = 499;  // as nginx logs it; nobody receives it
  if (exchange.gone()) co_return kClientGone;
  const auto job =
      std::make_shared<Job>(cluster_.node->io(), *cluster_.coordinator, prepared->common,
                            std::move(prepared->inputs), 2 * cluster_.layout.slots, std::move(user));
  exchange.on_gone([weak = std::weak_ptr<Job>(job)] {
    if (const auto held = weak.lock()) held->cancel();
  });
  std::erase_if(under_way_, [](const auto& other) { return other.expired(); });
  under_way_.push_back(job);
  metrics_->change_in_flight(1);
  job->start();
  while (!job->ended()) co_await job->wait();
  metrics_->change_in_flight(-1);
  if (exchange.gone()) co_return kClientGone;
  if (job->error) {
    log_failure(*job->error);
    co_return co_await refuse(exchange,
                              to_api_error(*job->error, static_cast<int>(std::ceil(job->retry_after_s))));
  }
  metrics_->count_prompt(static_cast<int>(job->tokens()), 0);
  HttpResponse response;
  response.body = ranks ? ranking_json(*prepared, *job) : embeddings_json(*prepared, *job);
  co_await exchange.respond(std::move(response));
  co_return 200;
}

std::string EmbeddingService::embeddings_json(const Prepared& prepared, const Job& job) const {
  json::array data;
  for (size_t i = 0; i < job.vectors.size(); ++i) {
    const std::vector<float> vector = normalised(job.vectors[i]);
    json::value embedding;
    if (prepared.embedding.base64) {
      embedding = to_base64(vector);
    } else {
      embedding = json::array(vector.begin(), vector.end());
    }
    data.push_back(json::object{{"object", "embedding"}, {"index", i}, {"embedding", std::move(embedding)}});
  }
  return json::serialize(
      json::object{{"object", "list"},
                   {"data", std::move(data)},
                   {"model", model_id_},
                   {"usage", {{"prompt_tokens", job.tokens()}, {"total_tokens", job.tokens()}}}});
}

// The best first; the first of equals first.
std::string EmbeddingService::ranking_json(const Prepared& prepared, const Job& job) const {
  std::vector<size_t> order(job.vectors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return job.vectors[a].front() > job.vectors[b].front(); });
  if (prepared.rerank.top_n > 0) order.resize(std::min(order.size(), prepared.rerank.top_n));
  json::array results;
  for (const size_t i : order) {
    json::object result{{"index", i}, {"relevance_score", job.vectors[i].front()}};
    if (prepared.rerank.return_documents)
      result["document"] = json::object{{"text", prepared.rerank.documents[i]}};
    results.push_back(std::move(result));
  }
  return json::serialize(
      json::object{{"object", "list"},
                   {"model", model_id_},
                   {"results", std::move(results)},
                   {"usage", {{"prompt_tokens", job.tokens()}, {"total_tokens", job.tokens()}}}});
}

void EmbeddingService::cancel_all() {
  for (const auto& weak : under_way_) {
    if (const auto job = weak.lock()) job->cancel();
  }
}

}  // namespace shoal
