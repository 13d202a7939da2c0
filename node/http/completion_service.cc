#include "node/http/completion_service.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <filesystem>

#include "node/http/random_bits.h"

namespace shoal {

namespace asio = boost::asio;
using asio::awaitable;
using asio::use_awaitable;
using std::chrono::steady_clock;
using namespace std::chrono_literals;

namespace {

constexpr double kStepFresh_s = 10;  // a step this old still shows that the pipeline answers
constexpr auto kProbeDeadline = 5s;  // for a token of our own

constexpr const char* kOwnUser = "shoal";  // no beginning of a digest

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

HttpResponse to_response(const ApiError& error) {
  HttpResponse response{error.status, "application/json", to_json(error), {}};
  if (error.retry_after_s > 0)
    response.headers.emplace_back("Retry-After", std::to_string(error.retry_after_s));
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

CompletionService::CompletionService(Cluster& cluster, std::shared_ptr<ApiMetrics> metrics)
    : cluster_(cluster),
      metrics_(std::move(metrics)),
      model_id_(std::filesystem::path(cluster.config.model).stem().string()),
      preparer_(cluster, model_id_),
      created_(unix_seconds()) {
  const NodeIdentity& identity = cluster.node->identity();
  fingerprint_ = identity.numeric_class + "-" + identity.model_fingerprint.substr(0, 16);
  token_bytes_ = std::make_shared<const TokenBytes>(*cluster.tokenizer);
}

CompletionService::~CompletionService() {
  worker_.join();
}

awaitable<ApiResult<PreparedCompletion>> CompletionService::prepare_aside(std::string body, bool chat) {
  auto work = [](const CompletionPreparer* preparer, std::string text,
                 bool is_chat) -> awaitable<ApiResult<PreparedCompletion>> {
    co_return preparer->prepare(text, is_chat);
  };
  co_return co_await asio::co_spawn(worker_.get_executor(), work(&preparer_, std::move(body), chat),
                                    use_awaitable);
}

// ---- Answering ----

ResponseHead CompletionService::new_head(bool chat) {
  ResponseHead head;
  head.chat = chat;
  head.id = fmt::format("{}-{:016x}", chat ? "chatcmpl" : "cmpl", random_bits());
  head.created = unix_seconds();
  head.model = model_id_;
  head.fingerprint = fingerprint_;
  return head;
}

awaitable<int> CompletionService::refuse(HttpExchange& exchange, const ApiError& error) {
  co_await exchange.respond(to_response(error));
  co_return error.status;
}

awaitable<int> CompletionService::complete(HttpExchange& exchange, bool chat, std::string user) {
  ApiResult<PreparedCompletion> prepared = co_await prepare_aside(exchange.request().body, chat);
  if (prepared.has_error()) co_return co_await refuse(exchange, prepared.error());
  constexpr int kClientGone = 499;  // as nginx logs it; nobody receives it
  if (exchange.gone()) co_return kClientGone;

  const CompletionRequest& request = prepared->request;
  const auto generation =
      std::make_shared<Generation>(cluster_.node->io(), *cluster_.coordinator, *cluster_.tokenizer,
                                   token_bytes_, metrics_, request, prepared->prompts, std::move(user));
  exchange.on_gone([weak = std::weak_ptr<Generation>(generation)] {
    if (const auto held = weak.lock()) held->cancel();
  });
  const auto entry = under_way_.insert(under_way_.end(), {next_number_++, chat, request.stream, generation});
  generation->start();
  // Not in one conditional expression: g++ 12 would destroy its temporaries twice.
  const ResponseHead head = new_head(chat);
  int status = 0;
  if (request.stream) {
    status = co_await answer_stream(exchange, *generation, head, request);
  } else {
    status = co_await answer_whole(exchange, *generation, head);
  }
  generation->cancel();  // where the client went while it was being written to
  note(*generation);
  under_way_.erase(entry);
  co_return exchange.gone() ? kClientGone : status;
}

awaitable<int> CompletionService::answer_whole(HttpExchange& exchange, Generation& generation,
                                               ResponseHead head) {
  std::vector<ChoicePart> choices;
  while (!generation.finished()) {
    co_await generation.wait();
    for (ChoicePart& part : generation.take()) {
      const auto index = static_cast<size_t>(part.index);
      if (choices.size() <= index) choices.resize(index + 1);
      ChoicePart& whole = choices[index];
      whole.index = part.index;
      whole.text += part.text;
      whole.reasoning += part.reasoning;
      whole.calls.insert(whole.calls.end(), std::make_move_iterator(part.calls.begin()),
                         std::make_move_iterator(part.calls.end()));
      whole.with_logprobs = part.with_logprobs;
      whole.logprobs.insert(whole.logprobs.end(), std::make_move_iterator(part.logprobs.begin()),
                            std::make_move_iterator(part.logprobs.end()));
      whole.finish_reason = part.finish_reason;
    }
  }
  if (generation.error()) {
    if (!exchange.gone()) log_failure(*generation.error());
    co_return co_await refuse(exchange, generation.api_error());
  }
  HttpResponse response;
  response.body = whole_answer_json(head, choices, generation.usage());
  co_await exchange.respond(std::move(response));
  co_return 200;
}

awaitable<int> CompletionService::answer_stream(HttpExchange& exchange, Generation& generation,
                                                ResponseHead head, const CompletionRequest& request) {
  // The first part is awaited before the status is said: what is refused at once is refused with its status.
  co_await generation.wait();
  while (generation.error() && !generation.finished()) co_await generation.wait();
  if (generation.error() && !generation.last_token())
    co_return co_await refuse(exchange, generation.api_error());
  bool open = co_await exchange.begin_stream("text/event-stream");
  std::vector<bool> opened(request.prompts.empty() ? static_cast<size_t>(request.n)
                                                   : request.prompts.size() * static_cast<size_t>(request.n));
  while (open) {
    const bool last = generation.finished();
    std::string events;
    for (const ChoicePart& part : generation.take()) {
      if (last && generation.error() && part.finish_reason.empty() && part.text.empty()) continue;
      const auto index = static_cast<size_t>(part.index);
      events += server_sent_event(chunk_json(head, part, !opened[index], request.include_usage));
      opened[index] = true;
    }
    if (last && generation.error()) {
      const bool own_doing = generation.api_error().status < 500;  // which it may repeat as often as it likes
      if (!exchange.gone() && !own_doing)
        spdlog::warn("a request failed after its answer had begun: {}", generation.error()->message);
      events += server_sent_event(to_json(generation.api_error()));
    } else if (last && request.include_usage) {
      events += server_sent_event(usage_chunk_json(head, generation.usage()));
    }
    if (last) events += kLastServerSentEvent;
    open = co_await exchange.send(std::move(events));
    if (last) break;
    if (open) co_await generation.wait();
  }
  if (open) co_await exchange.end_stream();
  co_return 200;
}

// ---- What others ask ----

// Keeps when the pipeline last failed rather than refused.
void CompletionService::note(const Generation& generation) {
  if (generation.error() && generation.api_error().code == kPipelineUnavailable)
    last_failure_s_ = cluster_.node->now_s();
}

awaitable<bool> CompletionService::ready() {
  if (!cluster_.model.decodes()) co_return co_await embeds_now();
  auto fresh = [&] {
    for (const UnderWay& entry : under_way_) note(*entry.generation);
    // Steps, not tokens: a long prompt gives none for a while, but its rows pass through every stage.
    const std::optional<double> step_s = cluster_.coordinator->last_step_s();
    return step_s && (!last_failure_s_ || *step_s > *last_failure_s_) &&
           cluster_.node->now_s() - *step_s < kStepFresh_s;
  };
  if (fresh()) co_return true;
  if (!probe_) probe();
  const std::shared_ptr<Generation> probe = probe_;  // shared with others who ask meanwhile
  asio::steady_timer pause(cluster_.node->io().executor());
  while (!probe->finished() && steady_clock::now() - probe->begun() < kProbeDeadline) {
    pause.expires_after(10ms);
    co_await pause.async_wait(use_awaitable);
  }
  note(*probe);
  if (!probe->finished()) probe->cancel();
  if (probe_ == probe) probe_.reset();
  co_return fresh();
}

// A model that generates no text: whether the embedding of one token comes back.
awaitable<bool> CompletionService::embeds_now() {
  const auto done = std::make_shared<std::optional<bool>>();
  GenerationRequest request;
  request.prompt = {std::max(cluster_.tokenizer->bos(), 0)};
  request.embeds = true;
  request.user = kOwnUser;
  request.priority = kPriorityMax;
  request.on_event = [done](const GenerationEvent& event) {
    if (event.finished) *done = event.reason == FinishReason::kStop;
  };
  const uint64_t id = cluster_.coordinator->submit(std::move(request));
  asio::steady_timer pause(cluster_.node->io().executor());
  const steady_clock::time_point begun = steady_clock::now();
  while (!*done && steady_clock::now() - begun < kProbeDeadline) {
    pause.expires_after(10ms);
    co_await pause.async_wait(use_awaitable);
  }
  if (!*done) cluster_.coordinator->cancel(id);
  co_return done->value_or(false);
}

// One token from a prompt of one token. It is nobody's traffic: what it counts is thrown away with it.
void CompletionService::probe() {
  CompletionRequest request;
  request.max_tokens = 1;
  request.sampling.temperature = 0;
  request.ignore_end = true;
  request.priority = kPriorityMax;
  const int32_t bos = cluster_.tokenizer->bos();
  probe_ = std::make_shared<Generation>(cluster_.node->io(), *cluster_.coordinator, *cluster_.tokenizer,
                                        token_bytes_, std::make_shared<ApiMetrics>(), request,
                                        std::vector<std::vector<int32_t>>{{std::max(bos, 0)}}, kOwnUser);
  probe_->start();
}

void CompletionService::cancel_all() {
  for (const UnderWay& entry : under_way_) entry.generation->cancel();
}

std::vector<CompletionService::Active> CompletionService::active() const {
  std::vector<Active> list;
  for (const UnderWay& entry : under_way_) {
    const std::chrono::duration<double> age = steady_clock::now() - entry.generation->begun();
    list.push_back({entry.number, entry.chat, entry.stream, age.count(), entry.generation->usage()});
  }
  return list;
}

}  // namespace shoal
