#include "node/http/chat_messages.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <set>

#include "model/template_json.h"

namespace shoal {

namespace json = boost::json;

namespace {

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

}  // namespace

void read_conversation(const Fields& fields, CompletionRequest& request) {
  read_messages(fields, request);
  read_tools(fields, request);
  read_template_variables(fields, request);
}

}  // namespace shoal
