#include "node/http/openai_request.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <charconv>
#include <limits>

#include "model/template_json.h"
#include "node/http/json_fields.h"
#include "node/http/json_schema.h"

namespace shoal {

namespace json = boost::json;

namespace {

bool blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
}

// ---- chat messages ----

// A string, or parts of which each is a text.
std::string content_of(const json::value& value, const std::string& path) {
  if (value.is_string()) return std::string(value.get_string());
  if (!value.is_array())
    refuse_field(path, fmt::format("must be a string or an array of parts, not {}", kind_name(value)));
  std::string text;
  for (size_t i = 0; i < value.get_array().size(); ++i) {
    const std::string here = fmt::format("{}[{}]", path, i);
    const json::object* part = value.get_array()[i].if_object();
    if (part == nullptr) refuse_field(here, "must be an object with type and text");
    const Fields fields(*part, here);
    const std::string type = fields.text("type");
    if (type != "text")
      refuse_field(here + ".type", fmt::format("only \"text\" parts are offered, not \"{}\"", brief(type)));
    if (fields.find("text") == nullptr) refuse_field(here + ".text", "is missing");
    text += fields.text("text");
  }
  return text;
}

// A mapping as chat templates expect it.
class Mapping {
 public:
  void add(const char* key, jinja::Value value) {
    items_.emplace_back(jinja::MarkedText(key, /*trusted=*/true), std::move(value));
  }
  void add(const char* key, const std::string& text) { add(key, jinja::Value(text, /*trusted=*/false)); }
  jinja::Value take() { return jinja::given_dict(std::move(items_)); }

 private:
  std::vector<std::pair<jinja::MarkedText, jinja::Value>> items_;
};

// OpenAI's clients send the arguments as JSON text; templates want what it says.
jinja::Value arguments_of(const Fields& function) {
  const json::value* given = function.find("arguments");
  const bool none = given == nullptr || (given->is_string() && blank(given->get_string()));
  if (none) return jinja::given_dict({});
  if (!given->is_string()) return jinja::value_of(object_of(*given, function.path("arguments")));
  json::parse_options options;
  options.max_depth = kJsonDepthMax;
  json::error_code code;
  const json::value parsed = json::parse(given->get_string(), code, {}, options);
  if (code || !parsed.is_object())
    refuse_field(function.path("arguments"), "must be the text of a JSON object");
  return jinja::value_of(parsed);
}

jinja::Value call_of(const json::value& value, const std::string& path) {
  const Fields fields(object_of(value, path), path);
  const json::value* inner = fields.find("function");
  if (inner == nullptr) refuse_field(fields.path("function"), "is missing");
  const Fields function(object_of(*inner, fields.path("function")), fields.path("function"));
  Mapping said, call;
  said.add("name", function.required_text("name"));
  said.add("arguments", arguments_of(function));
  if (const std::string id = fields.text("id"); !id.empty()) call.add("id", id);
  call.add("type", std::string("function"));
  call.add("function", said.take());
  return call.take();
}

jinja::Value calls_of(const json::value& value, const std::string& path) {
  const json::array* list = value.if_array();
  if (list == nullptr) refuse_field(path, fmt::format("must be an array, not {}", kind_name(value)));
  if (list->size() > kToolsMax) refuse_field(path, fmt::format("holds more than {} calls", kToolsMax));
  std::vector<jinja::Value> calls;
  for (size_t i = 0; i < list->size(); ++i)
    calls.push_back(call_of((*list)[i], fmt::format("{}[{}]", path, i)));
  return jinja::given_list(std::move(calls));
}

// True: the message says something.
bool read_message(const json::value& value, const std::string& path, CompletionRequest& request,
                  std::vector<jinja::Value>& messages) {
  const json::object& object = object_of(value, path);
  const Fields fields(object, path);
  std::string role = fields.text("role");
  if (role == "developer") role = "system";  // OpenAI's newer name for it
  if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
    refuse_field(path + ".role", role.empty()
                                     ? "is missing"
                                     : fmt::format("must be system, developer, user, assistant or tool, not "
                                                   "\"{}\"",
                                                   brief(role)));
  }
  Mapping message;
  message.add("role", role_value(role));
  const json::value* calls = fields.find("tool_calls");
  if (calls != nullptr && calls->is_array() && calls->get_array().empty()) calls = nullptr;
  if (calls != nullptr && role != "assistant")
    refuse_field(path + ".tool_calls", "is for the assistant's messages");
  const json::value* content = fields.find("content");
  if (!object.contains("content") && calls == nullptr) refuse_field(path + ".content", "is missing");
  const std::string text = content != nullptr ? content_of(*content, path + ".content") : "";
  request.message_bytes += text.size();
  // Beside calls templates ask whether there is content; elsewhere they join it to other text.
  const bool none = content == nullptr && calls != nullptr;
  message.add("content", none ? jinja::Value(jinja::None{}) : jinja::Value(text, /*trusted=*/false));
  for (const char* key : {"name", "reasoning_content", "tool_call_id"}) {
    if (const std::string more = fields.text(key); !more.empty()) message.add(key, more);
  }
  if (role == "tool") (void)fields.required_text("tool_call_id");
  if (calls != nullptr) message.add("tool_calls", calls_of(*calls, path + ".tool_calls"));
  request.has_tool_messages = request.has_tool_messages || calls != nullptr || role == "tool";
  messages.push_back(message.take());
  return calls != nullptr || !blank(text);
}

void read_messages(const Fields& fields, CompletionRequest& request) {
  const json::value* messages = fields.find("messages");
  if (messages == nullptr) refuse_field("messages", "is missing");
  if (!messages->is_array())
    refuse_field("messages", fmt::format("must be an array, not {}", kind_name(*messages)));
  const json::array& list = messages->get_array();
  if (list.empty()) refuse_field("messages", "must hold at least one message");
  if (list.size() > kMessagesMax)
    refuse_field("messages", fmt::format("holds more than {} messages", kMessagesMax));
  bool any = false;
  std::vector<jinja::Value> values;
  for (size_t i = 0; i < list.size(); ++i)
    any = read_message(list[i], fmt::format("messages[{}]", i), request, values) || any;
  if (!any) refuse_field("messages", "say nothing: all contents are empty");
  request.conversation.messages = jinja::given_list(std::move(values));
}

// ---- tools ----

// Whether a schema takes strings; `depth`: of alternatives within alternatives.
bool takes_text(const json::value& schema, int depth = 0) {
  const json::object* object = schema.if_object();
  if (object == nullptr || depth > 8) return false;
  const auto is_text = [](const json::value& value) { return value.is_string(); };
  const auto any = [&](const char* key, const auto& holds) {
    const json::value* list = object->if_contains(key);
    return list != nullptr && list->is_array() &&
           std::any_of(list->get_array().begin(), list->get_array().end(), holds);
  };
  if (const json::value* type = object->if_contains("type"); type != nullptr && *type == "string")
    return true;
  if (const json::value* only = object->if_contains("const"); only != nullptr && is_text(*only)) return true;
  const auto takes = [&](const json::value& one) { return takes_text(one, depth + 1); };
  return any("type", [](const json::value& type) { return type == "string"; }) || any("enum", is_text) ||
         any("anyOf", takes) || any("oneOf", takes) || any("allOf", takes);
}

// Which parameters of a tool's schema take strings.
std::set<std::string> text_parameters(const json::object& schema) {
  std::set<std::string> names;
  const json::value* properties = schema.if_contains("properties");
  if (properties == nullptr || !properties->is_object()) return names;
  for (const auto& property : properties->get_object()) {
    if (takes_text(property.value())) names.emplace(property.key());
  }
  return names;
}

void read_tools(const Fields& fields, CompletionRequest& request) {
  const json::value* choice = fields.find("tool_choice");
  const bool none = choice != nullptr && *choice == "none";
  if (choice != nullptr && !none && *choice != "auto")
    refuse_field("tool_choice", "must be \"auto\" or \"none\": the model cannot be made to call");
  request.answer_form.single_call = !fields.boolean("parallel_tool_calls", true);
  const json::value* tools = fields.find("tools");
  if (tools == nullptr) return;
  if (!tools->is_array()) refuse_field("tools", fmt::format("must be an array, not {}", kind_name(*tools)));
  const json::array& list = tools->get_array();
  if (list.size() > kToolsMax) refuse_field("tools", fmt::format("holds more than {} tools", kToolsMax));
  std::vector<CallableTool> callable;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string path = fmt::format("tools[{}]", i);
    const Fields tool(object_of(list[i], path), path);
    if (tool.text("type") != "function") refuse_field(tool.path("type"), "must be \"function\"");
    const json::value* function = tool.find("function");
    if (function == nullptr) refuse_field(tool.path("function"), "is missing");
    const Fields inner(object_of(*function, tool.path("function")), tool.path("function"));
    callable.push_back({inner.required_text("name")});
    if (const json::value* parameters = inner.find("parameters"))
      callable.back().text_parameters = text_parameters(object_of(*parameters, inner.path("parameters")));
  }
  if (none || callable.empty()) return;
  request.answer_form.tools = std::move(callable);
  request.conversation.tools = jinja::value_of(*tools);
}

// Variables of the model's own template, as enable_thinking.
void read_template_variables(const Fields& fields, CompletionRequest& request) {
  const json::value* given = fields.find("chat_template_kwargs");
  if (given == nullptr) return;
  for (const auto& [key, value] : object_of(*given, "chat_template_kwargs")) {
    const std::string name(key);
    for (const char* own :
         {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"}) {
      if (name == own) refuse_field("chat_template_kwargs." + name, "is not the request's to set");
    }
    request.conversation.variables.emplace_back(name, jinja::value_of(value));
  }
}

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

// Other servers' fields, and older ones of OpenAI's, that would change the answer: to ignore one would answer
// another question than was asked.
void refuse_foreign(const Fields& fields, int n) {
  for (const char* key : {"grammar", "json_schema", "guided_json", "guided_regex", "guided_choice",
                          "guided_grammar", "structured_outputs", "regex", "ebnf"})
    fields.not_offered(key, {""}, "is not offered: response_format keeps answers to a JSON schema");
  fields.not_offered("functions", {json::array{}}, "functions are not offered: use tools");
  fields.not_offered("function_call", {"none", "auto"}, "functions are not offered: use tools");
  fields.not_offered("best_of", {1, n}, "only best_of equal to n is offered");
  fields.not_offered("prompt_embeds", {}, "prompt_embeds is not offered: send text or token ids");
  fields.not_offered("echo", {false}, "echo is not offered");
  fields.not_offered("suffix", {""}, "suffix is not offered");
  fields.not_offered("stop_token_ids", {json::array{}}, "is not offered: use stop");
  fields.not_offered("bad_words", {json::array{}}, "is not offered: use logit_bias");
  fields.not_offered("min_tokens", {0}, "min_tokens is not offered");
  fields.not_offered("use_beam_search", {false}, "beams are not offered");
  fields.not_offered("continue_final_message", {false}, "is not offered: the answer is a new message");
  fields.not_offered("n_discard", {0}, "is not offered: a text that fills the context ends");
  fields.not_offered("chat_template", {""}, "is not offered: the template in the model file is used");
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
  read_messages(fields, request);
  read_tools(fields, request);
  read_template_variables(fields, request);
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
