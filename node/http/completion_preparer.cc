#include "node/http/completion_preparer.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <variant>

#include "node/command_support.h"
#include "node/http/random_bits.h"
#include "node/plain_prompt.h"

namespace shoal {
namespace {

bool ends_in_thought(std::string_view prompt) {
  const size_t end = prompt.find_last_not_of(" \n");
  return end != std::string_view::npos && prompt.substr(0, end + 1).ends_with("<think>");
}

const char* prompt_field(bool chat) {
  return chat ? "messages" : "prompt";
}

}  // namespace

CompletionPreparer::CompletionPreparer(const Cluster& cluster, std::string model_id)
    : cluster_(cluster), model_id_(std::move(model_id)) {
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
}

// Sets the adapter that "BASE:NAME" or the field lora means.
std::optional<ApiError> CompletionPreparer::choose_model(CompletionRequest& request) const {
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

ApiResult<PreparedCompletion> CompletionPreparer::prepare(const std::string& body, bool chat) const {
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
  PreparedCompletion prepared;
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
std::optional<ApiError> CompletionPreparer::fit_tools(CompletionRequest& request) const {
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
void CompletionPreparer::set_answer_form(CompletionRequest& request) const {
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
ApiResult<std::vector<int32_t>> CompletionPreparer::encode(CompletionRequest& request, size_t prompt) const {
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
    if (cannot_fit(bytes)) return too_long(fmt::format("its {} bytes are more tokens than would fit", bytes));
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
      return too_long(fmt::format("its {} bytes are more tokens than would fit", text->size()));
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

}  // namespace shoal
