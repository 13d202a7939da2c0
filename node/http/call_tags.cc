#include "node/http/call_tags.h"

#include <algorithm>
#include <boost/json.hpp>
#include <optional>

#include "base/trimmed.h"

namespace shoal {

namespace json = boost::json;

namespace {

constexpr std::string_view kFunction = "<function=", kFunctionEnds = "</function>";
constexpr std::string_view kParameter = "<parameter=", kParameterEnds = "</parameter>";

void skip_spaces(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(kSpaces), text.size()));
}

bool take(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return false;
  text.remove_prefix(word.size());
  return true;
}

// What stands in front of `end`, which is taken too; nothing where there is no `end`.
std::optional<std::string_view> take_until(std::string_view& text, std::string_view end) {
  const size_t at = text.find(end);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view before = text.substr(0, at);
  text.remove_prefix(at + end.size());
  return before;
}

// A parameter's value, which may hold its closing tag: the one counts that a tag follows.
std::optional<std::string_view> take_value(std::string_view& text) {
  for (size_t at = text.find(kParameterEnds); at != std::string_view::npos;
       at = text.find(kParameterEnds, at + 1)) {
    std::string_view rest = text.substr(at + kParameterEnds.size());
    skip_spaces(rest);
    if (!rest.starts_with(kParameter) && !rest.starts_with(kFunctionEnds)) continue;
    const std::string_view value = text.substr(0, at);
    text = rest;
    return value;
  }
  return std::nullopt;
}

// A parameter's value as JSON. The line ends beside the tags are not part of it.
std::string json_of(std::string_view value, bool is_text) {
  if (value.starts_with("\r\n")) value.remove_prefix(1);
  if (value.starts_with('\n')) value.remove_prefix(1);
  if (value.ends_with('\n')) value.remove_suffix(1);
  if (value.ends_with('\r')) value.remove_suffix(1);
  if (!is_text) {
    // The template writes an earlier call's values as Python does.
    if (value == "True") return "true";
    if (value == "False") return "false";
    if (value == "None") return "null";
    json::error_code code;
    const json::value parsed = json::parse(json::string_view(value.data(), value.size()), code);
    if (!code) return std::string(value);
  }
  return json::serialize(json::string(value.data(), value.size()));
}

std::optional<ToolCall> take_call(std::string_view& text, const std::vector<CallableTool>& tools) {
  if (!take(text, kFunction)) return std::nullopt;
  const std::optional<std::string_view> name = take_until(text, ">");
  if (!name || name->empty() || name->find_first_of(" \n\"<") != std::string_view::npos) return std::nullopt;
  const auto tool =
      std::find_if(tools.begin(), tools.end(), [&](const CallableTool& one) { return one.name == *name; });
  std::string arguments;
  for (skip_spaces(text); take(text, kParameter); skip_spaces(text)) {
    const std::optional<std::string_view> key = take_until(text, ">");
    const std::optional<std::string_view> value = take_value(text);
    if (!key || key->empty() || !value) return std::nullopt;
    const bool is_text = tool != tools.end() && tool->text_parameters.count(std::string(*key)) > 0;
    arguments += (arguments.empty() ? "" : ", ") + json::serialize(json::string(key->data(), key->size())) +
                 ": " + json_of(*value, is_text);
  }
  if (!take(text, kFunctionEnds)) return std::nullopt;
  return ToolCall{"", std::string(*name), "{" + arguments + "}"};
}

}  // namespace

bool begins_call_in_tags(std::string_view text) {
  return text.starts_with(kFunction);
}

std::vector<ToolCall> take_calls_in_tags(std::string_view& text, const std::vector<CallableTool>& tools) {
  std::vector<ToolCall> calls;
  while (true) {
    std::string_view rest = text;
    skip_spaces(rest);
    std::optional<ToolCall> call = take_call(rest, tools);
    if (!call) return calls;
    calls.push_back(std::move(*call));
    text = rest;
  }
}

}  // namespace shoal
