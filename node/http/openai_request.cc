#include "node/http/openai_request.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <charconv>
#include <limits>

#include "node/http/chat_messages.h"
#include "node/http/json_fields.h"
#include "node/http/json_schema.h"

namespace shoal {

namespace json = boost::json;

namespace {

// ---- prompts ----

std::vector<int32_t> tokens_of(const json::array& list, const std::string& path) {
  std::vector<int32_t> tokens;
  tokens.reserve(list.size());
  for (const json::value& item : list) {
    const int64_t* token = item.if_int64();
    if (token == nullptr) refuse_field(path, fmt::format("an array of token ids holds {}", kind_name(item)));
    if (*token < 0 || *token > std::numeric_limits<int32_t>::max())
      refuse_field(path, fmt::format("{} is not a token id", *token));
    tokens.push_back(static_cast<int32_t>(*token));
  }
  return tokens;
}

PromptInput prompt_of(const json::value& value, const std::string& path) {
  if (value.is_string()) {
    if (blank(value.get_string())) refuse_field(path, "is empty, or blank");
    return std::string(value.get_string());
  }
  if (!value.is_array())
    refuse_field(path, fmt::format("must be a string or token ids, not {}", kind_name(value)));
  if (value.get_array().empty()) refuse_field(path, "is empty");
  return tokens_of(value.get_array(), path);
}

void read_prompts(const Fields& fields, CompletionRequest& request) {
  const json::value* prompt = fields.find("prompt");
  if (prompt == nullptr) refuse_field("prompt", "is missing");
  const json::array* list = prompt->if_array();
  const bool several = list != nullptr && !list->empty() && !list->front().is_number();
  if (!several) {
    request.prompts.push_back(prompt_of(*prompt, "prompt"));
    return;
  }
  if (list->size() > kChoicesMax)
    refuse_field("prompt", fmt::format("holds more than {} prompts", kChoicesMax));
  for (size_t i = 0; i < list->size(); ++i)
    request.prompts.push_back(prompt_of((*list)[i], fmt::format("prompt[{}]", i)));
}

// ---- fields of both endpoints ----

void read_stop(const Fields& fields, CompletionRequest& request) {
  const json::value* stop = fields.find("stop");
  if (stop == nullptr) return;
  auto add = [&](const json::value& value, const std::string& path) {
    if (!value.is_string()) refuse_field(path, fmt::format("must be a string, not {}", kind_name(value)));
    const json::string& text = value.get_string();
    if (text.empty()) refuse_field(path, "is empty");
    if (text.size() > kStopBytesMax)
      refuse_field(path, fmt::format("is longer than {} bytes", kStopBytesMax));
    request.stop.emplace_back(text);
  };
  if (!stop->is_array()) return add(*stop, "stop");
  const json::array& list = stop->get_array();
  if (list.size() > kStopsMax) refuse_field("stop", fmt::format("holds more than {} strings", kStopsMax));
  for (size_t i = 0; i < list.size(); ++i) add(list[i], fmt::format("stop[{}]", i));
}

void read_logit_bias(const Fields& fields, CompletionRequest& request) {
  const json::value* bias = fields.find("logit_bias");
  if (bias == nullptr) return;
  const json::object* map = bias->if_object();
  if (map == nullptr) refuse_field("logit_bias", fmt::format("must be an object, not {}", kind_name(*bias)));
  if (map->size() > kLogitBiasMax)
    refuse_field("logit_bias", fmt::format("names more than {} tokens", kLogitBiasMax));
  for (const auto& [key, value] : *map) {
    int32_t token = -1;
    const auto [rest, errc] = std::from_chars(key.data(), key.data() + key.size(), token);
    // "01" would be a second way to write "1", and two biases of one token would add up.
    if (errc != std::errc() || rest != key.data() + key.size() || token < 0 || fmt::to_string(token) != key)
      refuse_field("logit_bias", "its keys must be token ids");
    request.logit_bias.emplace_back(token,
                                    Fields::number_of(value, fmt::format("logit_bias.{}", token), -100, 100));
  }
}

void read_sampling(const Fields& fields, CompletionRequest& request) {
  SamplerOptions& s = request.sampling;
  s.temperature = fields.number("temperature", s.temperature, 0, 2);
  s.top_p = fields.number("top_p", s.top_p, 0, 1);
  if (s.top_p == 0) s.top_p = std::numeric_limits<float>::min();  // only the best token is left
  s.min_p = fields.number("min_p", s.min_p, 0, 1);
  s.top_k = fields.integer("top_k", 0, 1 << 20).value_or(s.top_k);
  s.frequency_penalty = fields.number("frequency_penalty", 0, -2, 2);
  s.presence_penalty = fields.number("presence_penalty", 0, -2, 2);
  s.repeat_penalty = fields.number("repetition_penalty", 1, 0.01, 100);
  const json::value* seed = fields.find("seed");
  if (seed == nullptr) return;
  if (!seed->is_int64() && !seed->is_uint64())
    refuse_field("seed", fmt::format("must be an integer of 64 bits, not {}", kind_name(*seed)));
  request.seeded = true;
  s.seed = seed->is_int64() ? static_cast<uint64_t>(seed->get_int64()) : seed->get_uint64();
}

std::shared_ptr<const JsonGrammar> grammar_of(const Fields& fields) {
  const json::value* schema = fields.find("schema");
  if (schema == nullptr) return nullptr;
  ApiResult<std::shared_ptr<const JsonGrammar>> grammar = compile_json_schema(*schema, fields.path("schema"));
  if (grammar.has_error()) throw FieldError{grammar.error()};
  return *grammar;
}

// What form answers are to have: any text, any JSON object, or JSON by a schema.
void read_response_format(const Fields& fields, CompletionRequest& request) {
  const json::value* format = fields.find("response_format");
  if (format == nullptr) return;
  const Fields inner(object_of(*format, "response_format"), "response_format");
  const std::string type = inner.text("type");
  if (type == "text") return;
  if (type == "json_object") {
    request.grammar = grammar_of(inner);  // a schema may stand here too, as other servers have it
    if (request.grammar == nullptr) request.grammar = any_json_object();
    return;
  }
  if (type != "json_schema")
    refuse_field("response_format",
                 fmt::format("its type must be text, json_object or json_schema, not \"{}\"", brief(type)));
  const json::value* given = inner.find("json_schema");
  if (given == nullptr) refuse_field("response_format.json_schema", "is missing");
  const Fields schema(object_of(*given, "response_format.json_schema"), "response_format.json_schema");
  (void)schema.text("name");
  (void)schema.boolean("strict", true);  // it always is
  request.grammar = grammar_of(schema);
  if (request.grammar == nullptr) refuse_field("response_format.json_schema.schema", "is missing");
}

// A field of another server, or an older one of OpenAI's, that would change the answer.
struct ForeignField {
  const char* key;
  json::value harmless;  // asks for nothing; null: nothing but null does
  const char* why;
};

void refuse_foreign(const Fields& fields, int n) {
  constexpr const char* kUseSchema = "is not offered: response_format keeps answers to a JSON schema";
  constexpr const char* kNotSampled = "is not offered: sample with temperature, top_k, top_p and min_p";
  static const ForeignField kForeign[] = {
      {"grammar", "", kUseSchema},
      {"json_schema", "", kUseSchema},
      {"guided_json", "", kUseSchema},
      {"guided_regex", "", kUseSchema},
      {"guided_choice", "", kUseSchema},
      {"guided_grammar", "", kUseSchema},
      {"structured_outputs", "", kUseSchema},
      {"regex", "", kUseSchema},
      {"ebnf", "", kUseSchema},
      {"typical_p", 1, kNotSampled},
      {"tfs_z", 1, kNotSampled},
      {"mirostat", 0, kNotSampled},
      {"mirostat_mode", 0, kNotSampled},
      {"dynatemp_range", 0, kNotSampled},
      {"xtc_probability", 0, kNotSampled},
      {"dry_multiplier", 0, "is not offered: use repetition_penalty"},
      {"functions", json::array{}, "functions are not offered: use tools"},
      {"prompt_embeds", nullptr, "prompt_embeds is not offered: send text or token ids"},
      {"echo", false, "echo is not offered"},
      {"suffix", "", "suffix is not offered"},
      {"stop_token_ids", json::array{}, "is not offered: use stop"},
      {"bad_words", json::array{}, "is not offered: use logit_bias"},
      {"allowed_token_ids", json::array{}, "is not offered: use logit_bias"},
      {"min_tokens", 0, "min_tokens is not offered"},
      {"use_beam_search", false, "beams are not offered"},
      {"continue_final_message", false, "is not offered: the answer is a new message"},
      {"add_generation_prompt", true, "is not offered: the answer is a new message"},
      {"n_discard", 0, "is not offered: a text that fills the context ends"},
      {"truncate_prompt_tokens", nullptr, "is not offered: a prompt that is too long is refused"},
      {"include_stop_str_in_output", false, "is not offered: an answer ends before a stop string"},
      {"chat_template", "", "is not offered: the template in the model file is used"},
  };
  // To ignore one would answer another question than was asked.
  for (const ForeignField& field : kForeign) fields.not_offered(field.key, {field.harmless}, field.why);
  fields.not_offered("top_n_sigma", {-1, 0}, kNotSampled);
  fields.not_offered("function_call", {"none", "auto"}, "functions are not offered: use tools");
  fields.not_offered("best_of", {1, n}, "only best_of equal to n is offered");
}

void read_common(const Fields& fields, CompletionRequest& request) {
  request.model = fields.text("model");
  request.lora = fields.text("lora");
  request.user = fields.text("user");
  request.priority = fields.integer("priority", -kPriorityMax, kPriorityMax).value_or(0);
  request.timeout_s = fields.number("timeout", 0, kTimeoutMinS, kTimeoutMaxS);
  request.n = fields.integer("n", 1, kChoicesMax).value_or(1);
  request.stream = fields.boolean("stream", false);
  request.ignore_end = fields.boolean("ignore_eos", false);
  if (const json::value* options = fields.find("stream_options")) {
    if (!options->is_object())
      refuse_field("stream_options", fmt::format("must be an object, not {}", kind_name(*options)));
    if (!request.stream) refuse_field("stream_options", "is for streaming: set stream to true");
    request.include_usage = Fields(options->get_object(), "stream_options").boolean("include_usage", false);
  }
  request.max_tokens = fields.integer("max_tokens", 1, std::numeric_limits<int>::max());
  read_sampling(fields, request);
  read_stop(fields, request);
  read_logit_bias(fields, request);
  read_response_format(fields, request);
  refuse_foreign(fields, request.n);
}

CompletionRequest read_chat(std::string_view body) {
  const json::object object = parse_json_body(body);
  const Fields fields(object, "");
  CompletionRequest request;
  request.chat = true;
  read_conversation(fields, request);
  read_common(fields, request);
  if (request.grammar && !request.answer_form.tools.empty())
    refuse_field("response_format", "is not offered together with tools: a call has a form of its own");
  const std::optional<int> newer =
      fields.integer("max_completion_tokens", 1, std::numeric_limits<int>::max());
  if (newer) request.max_tokens = newer;
  const bool wants = fields.boolean("logprobs", false);
  const std::optional<int> top = fields.integer("top_logprobs", 0, kTopLogprobsMax);
  if (top.value_or(0) > 0 && !wants) refuse_field("top_logprobs", "needs logprobs: true");
  if (wants) request.logprobs = top.value_or(0);
  fields.not_offered("modalities", {json::array{"text"}}, "only text is offered");
  fields.not_offered("audio", {}, "only text is offered");
  return request;
}

CompletionRequest read_text(std::string_view body) {
  const json::object object = parse_json_body(body);
  const Fields fields(object, "");
  CompletionRequest request;
  read_prompts(fields, request);
  fields.not_offered("tools", {json::array{}}, "is for /v1/chat/completions");
  read_common(fields, request);
  if (static_cast<int>(request.prompts.size()) * request.n > kChoicesMax)
    refuse_field("n", fmt::format("prompts times n may be at most {}", kChoicesMax));
  if (!request.max_tokens) request.max_tokens = 16;  // as OpenAI's reference says
  request.logprobs = fields.integer("logprobs", 0, kTopLogprobsMax).value_or(-1);
  return request;
}

}  // namespace

ApiResult<CompletionRequest> parse_chat_request(std::string_view body) {
  return guarded(read_chat, body);
}
ApiResult<CompletionRequest> parse_text_request(std::string_view body) {
  return guarded(read_text, body);
}

}  // namespace shoal
