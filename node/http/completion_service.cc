#include "node/http/completion_service.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <filesystem>
#include <random>

#include "node/command_support.h"
#include "node/plain_prompt.h"

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

uint64_t random_bits() {
  static thread_local std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

bool ends_in_thought(std::string_view prompt) {
  const size_t end = prompt.find_last_not_of(" \n");
  return end != std::string_view::npos && prompt.substr(0, end + 1).ends_with("<think>");
}

const char* prompt_field(bool chat) {
  return chat ? "messages" : "prompt";
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
    : cluster_(cluster), metrics_(std::move(metrics)), created_(unix_seconds()) {
  model_id_ = std::filesystem::path(cluster.config.model).stem().string();
  const NodeIdentity& identity = cluster.node->identity();
  fingerprint_ = identity.numeric_class + "-" + identity.model_fingerprint.substr(0, 16);
  try {
    if (!takes_plain_text(cluster)) chat_template_ = chat_template_of(cluster);
    if (chat_template_ && !chat_template_->takes_tools())
      spdlog::info("the chat template takes no tools: requests that offer some are answered without them");
  } catch (const SetupError& error) {
    no_template_ = error.what();
    spdlog::warn("/v1/chat/completions is not offered: {}", no_template_);
  }
  const Tokenizer& tokenizer = *cluster.tokenizer;
  for (int32_t token = 0; token < tokenizer.vocab_size(); ++token) {
    piece_bytes_max_ = std::max(piece_bytes_max_, tokenizer.piece(token, /*show_special=*/true).size());
    has_brace_ = has_brace_ || tokenizer.piece(token, /*show_special=*/false).find('{') != std::string::npos;
  }
  token_bytes_ = std::make_shared<const TokenBytes>(tokenizer);
}

CompletionService::~CompletionService() {
  worker_.join();
}

// ---- From a body to tokens ----

// Sets the adapter that "BASE:NAME" or the field lora means.
std::optional<ApiError> CompletionService::choose_model(CompletionRequest& request) const {
  std::string field = "lora", adapter = request.lora;
  for (const std::string& base : {model_id_, std::string("default")}) {
    if (!request.model.starts_with(base + ":")) continue;
    if (!adapter.empty()) return ApiError{400, "lora: the model names an adapter already", "lora", "", 0};
    field = "model";
    adapter = request.model.substr(base.size() + 1);
    request.model = base;
  }
  if (!request.model.empty() && request.model != model_id_ && request.model != "default") {
    return ApiError{404,
                    fmt::format("model: this server has \"{}\" alone (\"default\" means it too){}", model_id_,
                                cluster_.config.adapters.empty() ? "" : ", and its adapters as MODEL:NAME"),
                    "model", "model_not_found", 0};
  }
  const Result<AdapterChoice> choice = choose_adapter(cluster_.config, adapter);
  if (!choice) {
    return field == "model" ? ApiError{404, "model: " + choice.error().message, "model", "model_not_found", 0}
                            : ApiError{400, "lora: " + choice.error().message, "lora", "", 0};
  }
  request.adapter = choice->index;
  request.adapter_scale = choice->scale;
  return std::nullopt;
}

ApiResult<CompletionService::Prepared> CompletionService::prepare(const std::string& body, bool chat) const {
  ApiResult<CompletionRequest> request = chat ? parse_chat_request(body) : parse_text_request(body);
  if (request.has_error()) return request.error();
  if (const auto refused = choose_model(*request)) return *refused;
  if (!cluster_.model.decodes()) {
    return ApiError{400,
                    fmt::format("model: it generates no text: use {}",
                                cluster_.model.ranks() ? "/v1/rerank" : "/v1/embeddings"),
                    "model", "unsupported_model", 0};
  }
  if (chat && !chat_template_ && !takes_plain_text(cluster_))
    return ApiError{400, fmt::format("messages: {}; /v1/completions takes text as it is", no_template_),
                    "messages", "", 0};
  if (request->grammar && !has_brace_)
    return ApiError{400,
                    "response_format: the model's vocabulary has no { and so it can write no JSON object",
                    "response_format", "", 0};
  for (const auto& [token, bias] : request->logit_bias) {
    if (token >= cluster_.layout.n_vocab)
      return ApiError{400, fmt::format("logit_bias: the vocabulary has no token {}", token), "logit_bias", "",
                      0};
  }
  if (chat) {
    if (const auto refused = fit_tools(*request)) return *refused;
    if (chat_template_) set_answer_form(*request);
  }
  if (!request->seeded) request->sampling.seed = random_bits();
  Prepared prepared;
  for (size_t i = 0; i < (chat ? 1 : request->prompts.size()); ++i) {
    ApiResult<std::vector<int32_t>> tokens = encode(*request, i);
    if (tokens.has_error()) return tokens.error();
    prepared.prompts.push_back(std::move(*tokens));
  }
  prepared.request = std::move(*request);
  return prepared;
}

// A template without a place for tools: nobody can say that the model must call, so it answers without them,
// as it might with them. Earlier calls and their results cannot be left out.
std::optional<ApiError> CompletionService::fit_tools(CompletionRequest& request) const {
  if (!(chat_template_ && chat_template_->takes_tools())) {
    request.answer_form.tools.clear();
    request.conversation.tools = jinja::Value(jinja::None{});
  }
  if (request.has_tool_messages && !(chat_template_ && chat_template_->takes_tool_messages()))
    return ApiError{400, "messages: this model's chat template takes no tool calls or their results",
                    "messages", "", 0};
  return std::nullopt;
}

// How the answer is divided, and the control tokens that this needs to see.
void CompletionService::set_answer_form(CompletionRequest& request) const {
  AnswerForm& form = request.answer_form;
  form.splits_reasoning = chat_template_->thinks();
  if (!form.tools.empty()) form.calls = chat_template_->tool_call_form();
  form.id_seed = random_bits();
  const auto show = [&](std::string_view text) {
    const std::vector<int32_t> tokens =
        cluster_.tokenizer->encode(text, /*parse_special=*/true, /*add_bos=*/false);
    if (tokens.size() == 1) request.shown_tokens.push_back(tokens[0]);
  };
  if (form.splits_reasoning) {
    for (const char* text : {"<think>", "</think>"}) show(text);
  }
  if (form.calls == ToolCallForm::kNone) return;
  for (const char* text : {"<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]",
                           "<|python_tag|>", "<|tool_call|>", "<|/tool_call|>"})
    show(text);
}

// One prompt's tokens, if they fit the context.
ApiResult<std::vector<int32_t>> CompletionService::encode(CompletionRequest& request, size_t prompt) const {
  const Tokenizer& tokenizer = *cluster_.tokenizer;
  const bool encoder = cluster_.layout.inputs > 0;
  const auto most =  // tokens of a prompt
      static_cast<size_t>(encoder ? cluster_.layout.inputs : cluster_.layout.context - 1);
  const char* field = prompt_field(request.chat);
  auto too_long = [&](const std::string& length) {
    const std::string limit =
        encoder ? fmt::format("the model's encoder reads at most {}, all at once", most)
                : fmt::format("the context holds {}, the answer included", cluster_.layout.context);
    return ApiError{400, fmt::format("{}: {}, and {}", field, length, limit), field,
                    "context_length_exceeded", 0};
  };
  auto cannot_fit = [&](size_t bytes) { return bytes / piece_bytes_max_ > most; };
  std::vector<int32_t> tokens;
  if (request.chat) {
    const size_t bytes = request.message_bytes;
    if (cannot_fit(bytes)) return too_long(fmt::format("{} bytes are more tokens than that", bytes));
    if (!chat_template_) {
      const std::optional<std::string> text = last_user_text(request.conversation);
      if (!text) return ApiError{400, "messages: none of the role user says anything", "messages", "", 0};
      tokens = tokenizer.encode_input(*text);
      if (tokens.size() > most) return too_long(fmt::format("{} tokens", tokens.size()));
      return tokens;
    }
    const Result<std::vector<PromptPiece>> prompt_text = chat_template_->render(request.conversation);
    if (!prompt_text) return ApiError{400, "messages: " + prompt_text.error().message, "messages", "", 0};
    if (!prompt_text->empty() && ends_in_thought(prompt_text->back().text))
      request.answer_form.begins_in_reasoning = true;
    tokens = tokenizer.encode(*prompt_text, /*add_bos=*/true);
  } else if (const auto* text = std::get_if<std::string>(&request.prompts[prompt])) {
    if (cannot_fit(text->size()))
      return too_long(fmt::format("{} bytes are more tokens than that", text->size()));
    tokens = text_prompt(cluster_, *text);
  } else {
    tokens = std::get<std::vector<int32_t>>(request.prompts[prompt]);
    for (const int32_t token : tokens) {
      if (token >= cluster_.layout.n_vocab)
        return ApiError{400, fmt::format("{}: the vocabulary has no token {}", field, token), field, "", 0};
    }
  }
  if (tokens.empty()) return ApiError{400, fmt::format("{}: is empty", field), field, "", 0};
  if (tokens.size() > most) return too_long(fmt::format("{} tokens", tokens.size()));
  return tokens;
}

awaitable<ApiResult<CompletionService::Prepared>> CompletionService::prepare_aside(std::string body,
                                                                                   bool chat) {
  auto work = [](const CompletionService* self, std::string text,
                 bool is_chat) -> awaitable<ApiResult<Prepared>> { co_return self->prepare(text, is_chat); };
  co_return co_await asio::co_spawn(worker_.get_executor(), work(this, std::move(body), chat), use_awaitable);
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
  ApiResult<Prepared> prepared = co_await prepare_aside(exchange.request().body, chat);
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
      if (!exchange.gone())
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
