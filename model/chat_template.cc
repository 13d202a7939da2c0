#include "model/chat_template.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>

#include "base/printable.h"
#include "model/gguf_file.h"
#include "model/template_interpreter.h"
#include "model/template_parser.h"
#include "model/tokenizer.h"

namespace shoal {

using jinja::MarkedText;
using jinja::Value;

namespace {

constexpr size_t kMessageBytesMax = 4096;  // of a template's own words in an error

// What one rendering may use, beside what goes with the length of the conversation.
constexpr size_t kStepsMax = 1'000'000;
constexpr size_t kBytesMax = size_t{16} << 20;
constexpr size_t kBytesPerByte = 48, kBytesPerStep = 4;

Value text(std::string_view bytes, bool trusted = false) {
  return Value(std::string(bytes), trusted);
}
Value mapping(std::vector<std::pair<const char*, Value>> members) {
  std::vector<std::pair<MarkedText, Value>> items;
  for (auto& [key, value] : members) items.emplace_back(MarkedText(key, true), std::move(value));
  return jinja::given_dict(std::move(items));
}

const Value* member(const Value& value, std::string_view key) {
  return value.is(Value::Kind::kDict) ? value.dict().find(key) : nullptr;
}
bool has_role(const Value& message, std::string_view role) {
  const Value* found = member(message, "role");
  return found != nullptr && found->is(Value::Kind::kString) && found->text().bytes == role;
}

Value with_member(const Value& mapping, std::string_view key, Value value) {
  auto items = mapping.dict().items;
  const auto at =
      std::find_if(items.begin(), items.end(), [&](const auto& item) { return item.first.bytes == key; });
  if (at != items.end()) {
    at->second = std::move(value);
  } else {
    items.emplace_back(MarkedText(std::string(key), true), std::move(value));
  }
  return jinja::given_dict(std::move(items));
}

// The first message, of the system, goes in front of the first user message.
Value fold_system(const Value& messages) {
  const auto& items = messages.list().items;
  if (items.empty() || !has_role(items[0], "system")) return messages;
  const Value* system = member(items[0], "content");
  if (system == nullptr || !system->is(Value::Kind::kString)) return messages;
  std::vector<Value> rest(items.begin() + 1, items.end());
  const auto user =
      std::find_if(rest.begin(), rest.end(), [](const Value& m) { return has_role(m, "user"); });
  if (user == rest.end()) {
    rest.insert(rest.begin(), mapping({{"role", text("user", true)}, {"content", *system}}));
    return jinja::given_list(std::move(rest));
  }
  const Value* content = member(*user, "content");
  if (content == nullptr || !content->is(Value::Kind::kString)) return messages;
  MarkedText joined = system->text();
  if (joined.size() > 0) joined.append("\n\n", true);
  joined.append(content->text());
  *user = with_member(*user, "content", Value(std::move(joined)));
  return jinja::given_list(std::move(rest));
}

// The arguments of earlier tool calls as JSON texts, for templates that write them as they are.
Value arguments_as_text(const Value& messages) {
  jinja::Budget budget(SIZE_MAX, SIZE_MAX);
  std::vector<Value> out;
  for (const Value& message : messages.list().items) {
    const Value* calls = member(message, "tool_calls");
    if (calls == nullptr || !calls->is(Value::Kind::kList)) {
      out.push_back(message);
      continue;
    }
    std::vector<Value> changed;
    for (const Value& call : calls->list().items) {
      const Value* function = member(call, "function");
      const Value* arguments = function != nullptr ? member(*function, "arguments") : nullptr;
      changed.push_back(arguments == nullptr
                            ? call
                            : with_member(call, "function",
                                          with_member(*function, "arguments",
                                                      Value(jinja::to_json(*arguments, {}, budget)))));
    }
    out.push_back(with_member(message, "tool_calls", jinja::given_list(std::move(changed))));
  }
  return jinja::given_list(std::move(out));
}

// A text, if an empty one, in every message, for templates that look into it.
Value without_null_content(const Value& messages) {
  std::vector<Value> out;
  for (const Value& message : messages.list().items) {
    const Value* content = member(message, "content");
    const bool null = content != nullptr && content->is(Value::Kind::kNone);
    out.push_back(null ? with_member(message, "content", text("", true)) : message);
  }
  return jinja::given_list(std::move(out));
}

// The definitions as JSON in the first message, of the system, which is made if there is none.
Value with_tools_in_system(const Value& messages, const Value& tools) {
  jinja::Budget budget(SIZE_MAX, SIZE_MAX);
  std::vector<Value> items = messages.list().items;
  if (items.empty() || !has_role(items[0], "system")) {
    items.insert(items.begin(), mapping({{"role", text("system", true)}, {"content", text("", true)}}));
  }
  items[0] = with_member(items[0], "tools", Value(jinja::to_json(tools, {}, budget)));
  return jinja::given_list(std::move(items));
}

// Earlier tool calls as the end of their message's content, written as ToolCallForm::kMarked says.
Value calls_as_content(const Value& messages, bool closed) {
  jinja::Budget budget(SIZE_MAX, SIZE_MAX);
  std::vector<Value> out;
  for (const Value& message : messages.list().items) {
    const Value* calls = member(message, "tool_calls");
    if (calls == nullptr || !calls->is(Value::Kind::kList) || calls->list().items.empty()) {
      out.push_back(message);
      continue;
    }
    std::vector<Value> functions;
    for (const Value& call : calls->list().items) {
      const Value* function = member(call, "function");
      if (function != nullptr) functions.push_back(*function);
    }
    const Value* content = member(message, "content");
    MarkedText written =
        content != nullptr && content->is(Value::Kind::kString) ? content->text() : MarkedText();
    written.append("<|tool_call|>", true);
    written.append(jinja::to_json(jinja::given_list(std::move(functions)), {}, budget));
    if (closed) written.append("<|/tool_call|>", true);
    out.push_back(with_member(message, "content", Value(std::move(written))));
  }
  return jinja::given_list(std::move(out));
}

std::vector<PromptPiece> pieces_of(const MarkedText& rendered) {
  std::vector<PromptPiece> pieces;
  for (size_t begin = 0; begin < rendered.size();) {
    const char trust = rendered.trust[begin];
    const size_t end = std::min(rendered.trust.find(trust == 1 ? '\0' : '\1', begin), rendered.size());
    pieces.push_back({rendered.bytes.substr(begin, end - begin), trust == MarkedText::kTrusted});
    begin = end;
  }
  return pieces;
}

ToolCallForm form_in(std::string_view jinja) {
  const auto writes = [&](std::string_view part) { return jinja.find(part) != std::string_view::npos; };
  if (writes("<tool_call>")) return ToolCallForm::kHermes;
  if (writes("<|tool_call|>") || writes("<|tool|>")) return ToolCallForm::kMarked;
  if (writes("[TOOL_CALLS]")) return ToolCallForm::kMistral;
  if (writes("<|python_tag|>") || writes("Environment: ipython")) return ToolCallForm::kLlama;
  return ToolCallForm::kNone;
}

}  // namespace

Value role_value(std::string_view role) {
  const bool known = role == "system" || role == "user" || role == "assistant" || role == "tool";
  return text(role, known);
}

ChatConversation conversation_of(const std::vector<ChatMessage>& messages) {
  std::vector<Value> items;
  for (const ChatMessage& message : messages)
    items.push_back(mapping({{"role", role_value(message.role)}, {"content", text(message.content)}}));
  return {.messages = jinja::given_list(std::move(items))};
}

struct ChatTemplate::Impl {
  ChatTemplateSource source;
  jinja::Block block, block_for_tools;
  bool folds_system = false, takes_tools = false, takes_tool_messages = false;
  // What is changed for the template's sake.
  bool tools_in_system = false, arguments_as_text = false, no_null_content = false, calls_as_content = false;

  explicit Impl(ChatTemplateSource given) : source(std::move(given)) {
    block = parse(source.jinja, "tokenizer.chat_template");
    if (!source.jinja_for_tools.empty())
      block_for_tools = parse(source.jinja_for_tools, "tokenizer.chat_template.tool_use");
    probe();
  }

  static constexpr const char* kWayOut = "; `shoal run --raw` sends prompts as they are, without one";
  std::string model() const {
    return source.model_name.empty() ? "the model" : "model '" + source.model_name + "'";
  }

  jinja::Block parse(const std::string& jinja, const char* key) const {
    if (source.jinja.empty()) {
      throw SetupError(
          model() + " has no chat template (tokenizer.chat_template): it may not be a chat model" + kWayOut);
    }
    try {
      return jinja::parse(jinja);
    } catch (const jinja::TemplateError& error) {
      throw SetupError("the chat template of " + model() + " (" + key + "), line " +
                       std::to_string(error.line) + ": " + printable(error.message, kMessageBytesMax) +
                       kWayOut);
    }
  }

  const std::string& jinja_of(bool with_tools) const {
    return with_tools && !source.jinja_for_tools.empty() ? source.jinja_for_tools : source.jinja;
  }

  // As the caller's conversation is, but for what this template needs changed.
  MarkedText run(const ChatConversation& conversation) const {
    jinja::Variables variables;
    const auto set = [&](const char* name, Value value) {
      variables.values.emplace_back(name, std::move(value));
    };
    Value messages = folds_system ? fold_system(conversation.messages) : conversation.messages;
    if (arguments_as_text) messages = shoal::arguments_as_text(messages);
    if (no_null_content) messages = without_null_content(messages);
    if (calls_as_content) {
      messages =
          shoal::calls_as_content(messages, /*closed=*/source.jinja.find("<|/tool") != std::string::npos);
    }
    if (tools_in_system && conversation.tools.is(Value::Kind::kList)) {
      messages = with_tools_in_system(messages, conversation.tools);
    }
    size_t size = jinja::weight(messages) + jinja::weight(conversation.tools);
    set("messages", std::move(messages));
    set("tools", conversation.tools);
    set("documents", Value(jinja::None{}));
    set("add_generation_prompt", Value(conversation.add_generation_prompt));
    set("bos_token", text(source.bos_text, true));
    set("eos_token", text(source.eos_text, true));
    for (const auto& variable : conversation.variables) {
      size += jinja::weight(variable.second);
      variables.values.push_back(variable);
    }
    using std::chrono::system_clock;
    variables.now = conversation.now != 0 ? conversation.now : system_clock::to_time_t(system_clock::now());
    jinja::Budget budget(kStepsMax + size / kBytesPerStep, kBytesMax + kBytesPerByte * size);
    const bool for_tools = conversation.tools.is(Value::Kind::kList) && !source.jinja_for_tools.empty();
    return jinja::render(for_tools ? block_for_tools : block, variables, budget);
  }

  // Whether a conversation is rendered, and all of `marks` reach the prompt.
  bool shows(const ChatConversation& conversation, std::initializer_list<std::string_view> marks) const {
    try {
      const MarkedText rendered = run(conversation);
      return std::all_of(marks.begin(), marks.end(), [&](std::string_view mark) {
        return rendered.bytes.find(mark) != std::string::npos;
      });
    } catch (const jinja::TemplateError&) {
      return false;
    }
  }

  // The same with one of the changes, which stays if it helps.
  bool shows_with(bool& change, const ChatConversation& conversation,
                  std::initializer_list<std::string_view> marks) {
    change = true;
    change = shows(conversation, marks);
    return change;
  }

  bool shows_calls(const ChatConversation& conversation) const {
    return shows(conversation, {"probe-value", "probe-result"});
  }
  bool shows_calls_with(bool& change, const ChatConversation& conversation) {
    change = true;
    change = shows_calls(conversation);
    return change;
  }

  void probe() {
    const std::vector<ChatMessage> with_system = {{"system", "probe-system"}, {"user", "probe-user"}};
    if (!shows(conversation_of(with_system), {"probe-system", "probe-user"})) {
      if (shows_with(folds_system, conversation_of(with_system), {"probe-system", "probe-user"})) {
        spdlog::info(
            "the chat template of {} takes no system message: its text goes in front of the first user "
            "message",
            model());
      }
    }
    const Value parameters = mapping({{"type", text("object")}, {"properties", mapping({})}});
    const Value tool = mapping({{"type", text("function")},
                                {"function", mapping({{"name", text("probe_tool")},
                                                      {"description", text("probe-description")},
                                                      {"parameters", parameters}})}});
    ChatConversation conversation = conversation_of({{"user", "probe-user"}});
    conversation.tools = jinja::given_list({tool});
    const std::initializer_list<std::string_view> tool_marks = {"probe_tool", "probe-user"};
    takes_tools = shows(conversation, tool_marks) || shows_with(tools_in_system, conversation, tool_marks);

    // An id as Mistral's templates insist on: nine letters and digits.
    const Value call = mapping(
        {{"id", text("probe1234")},
         {"type", text("function")},
         {"function",
          mapping({{"name", text("probe_tool")}, {"arguments", mapping({{"key", text("probe-value")}})}})}});
    std::vector<Value> items = conversation.messages.list().items;
    items.push_back(mapping({{"role", text("assistant", true)},
                             {"content", Value(jinja::None{})},
                             {"tool_calls", jinja::given_list({call})}}));
    items.push_back(mapping({{"role", text("tool", true)},
                             {"name", text("probe_tool")},
                             {"tool_call_id", text("probe1234")},
                             {"content", text("probe-result")}}));
    conversation.messages = jinja::given_list(std::move(items));
    takes_tool_messages = shows_calls(conversation) || shows_calls_with(arguments_as_text, conversation) ||
                          shows_calls_with(no_null_content, conversation);
    if (takes_tool_messages) return;
    arguments_as_text = true;
    takes_tool_messages = arguments_as_text = shows_calls_with(no_null_content, conversation);
    if (!takes_tool_messages && takes_tools &&
        form_in(jinja_of(/*with_tools=*/true)) == ToolCallForm::kMarked) {
      takes_tool_messages = shows_calls_with(calls_as_content, conversation);
    }
  }
};

ChatTemplate::ChatTemplate(ChatTemplateSource source) : impl_(std::make_unique<Impl>(std::move(source))) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

ChatTemplate ChatTemplate::from(const GgufFile& file, const Tokenizer& tokenizer,
                                const std::string& model_name) {
  return ChatTemplate({file.get_string("tokenizer.chat_template", ""),
                       file.get_string("tokenizer.chat_template.tool_use", ""), model_name,
                       tokenizer.piece(tokenizer.bos(), /*show_special=*/true),
                       tokenizer.piece(tokenizer.eos(), /*show_special=*/true)});
}

Result<std::vector<PromptPiece>> ChatTemplate::render(const ChatConversation& conversation) const {
  try {
    return pieces_of(impl_->run(conversation));
  } catch (const jinja::TemplateError& error) {
    return Error{Errc::kInvalidInput, "the model's chat template cannot render this conversation (line " +
                                          std::to_string(error.line) +
                                          "): " + printable(error.message, kMessageBytesMax)};
  }
}

bool ChatTemplate::takes_tools() const {
  return impl_->takes_tools;
}
bool ChatTemplate::takes_tool_messages() const {
  return impl_->takes_tool_messages;
}
bool ChatTemplate::folds_system() const {
  return impl_->folds_system;
}
bool ChatTemplate::thinks() const {
  return impl_->source.jinja.find("</think>") != std::string::npos;
}
ToolCallForm ChatTemplate::tool_call_form() const {
  return form_in(impl_->jinja_of(/*with_tools=*/true));
}

}  // namespace shoal
