#include "node/http/answer_parser.h"

#include <algorithm>
#include <boost/json.hpp>
#include <iterator>
#include <optional>

#include "base/trimmed.h"
#include "node/http/call_tags.h"

namespace shoal {

namespace json = boost::json;

namespace {

constexpr std::string_view kThink = "<think>", kThought = "</think>";
constexpr std::string_view kCallOpens = "<tool_call>", kCallCloses = "</tool_call>";
constexpr std::string_view kMarkedOpens = "<|tool_call|>", kMarkedCloses = "<|/tool_call|>";
constexpr std::string_view kArguments = "[ARGS]", kCallId = "[CALL_ID]";
constexpr std::string_view kCallsFollow = "[TOOL_CALLS]", kPythonTag = "<|python_tag|>";
constexpr int kArgumentsDepthMax = 64;

// How many bytes at the end of `text` may be the beginning of `marker`.
size_t open_end(std::string_view text, std::string_view marker) {
  for (size_t length = std::min(text.size(), marker.size() - 1); length > 0; --length) {
    if (text.ends_with(marker.substr(0, length))) return length;
  }
  return 0;
}

// As far as it is settled that `text` is neither a marker's beginning nor white space in front of one.
size_t settled(std::string_view text, std::string_view marker) {
  const size_t open = text.size() - open_end(text, marker);
  const size_t last = text.substr(0, open).find_last_not_of(kSpaces);
  return last == std::string_view::npos ? 0 : last + 1;
}

// The JSON value that `text` begins with, and the bytes of it; 0: there is none.
size_t first_value(std::string_view text, json::value& out) {
  json::parse_options options;
  options.max_depth = kArgumentsDepthMax;
  json::stream_parser parser({}, options);
  json::error_code code;
  const size_t used = parser.write_some(text.data(), text.size(), code);
  if (!code && !parser.done()) parser.finish(code);  // done: something follows the value
  if (code) return 0;
  out = parser.release();
  return used;
}

// A value and how it was written: numbers that no double holds, and 1.50, reach the caller as they are.
struct WrittenValue {
  json::value value;
  std::string_view text;
};

// The values that `text` begins with, one after the other, with ; or white space between. They are taken off
// it.
std::vector<WrittenValue> take_values(std::string_view& text) {
  std::vector<WrittenValue> values;
  for (std::string_view rest = trimmed(text); !rest.empty();) {
    WrittenValue written;
    const size_t used = rest[0] == '{' || rest[0] == '[' ? first_value(rest, written.value) : 0;
    if (used == 0) break;
    written.text = trimmed(rest.substr(0, used));
    values.push_back(std::move(written));
    text = rest.substr(values.back().text.size());  // the white space behind is not the value's
    rest = trimmed(text);
    if (rest.starts_with(';') || rest.starts_with(',')) rest = trimmed(rest.substr(1));
  }
  return values;
}

// The items of an array or the values of an object's members, by `text`, which was parsed before.
std::vector<WrittenValue> items_of(std::string_view text, std::vector<std::string>* names = nullptr) {
  std::vector<WrittenValue> items;
  text = trimmed(text.substr(1, text.size() - 2));  // without the brackets
  while (!text.empty()) {
    if (names != nullptr) {
      json::value name;
      text = trimmed(text.substr(first_value(text, name)));
      names->emplace_back(name.as_string());
      text = trimmed(text.substr(1));  // the colon
    }
    WrittenValue& item = items.emplace_back();
    const size_t used = first_value(text, item.value);
    item.text = trimmed(text.substr(0, used));
    text = trimmed(text.substr(used));
    if (!text.empty()) text = trimmed(text.substr(1));  // the comma
  }
  return items;
}

// Where a call's closing marker stands outside of its JSON strings, which may hold one; npos: nowhere yet.
size_t closing_marker(std::string_view text, std::string_view marker) {
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      in_string = !in_string;
    } else if (text[i] == '\n') {
      in_string = false;  // no JSON string goes over a line's end
    } else if (!in_string && text.substr(i).starts_with(marker)) {
      return i;
    }
  }
  return std::string_view::npos;
}

struct CallMarkers {
  std::string_view opens, closes;  // empty: there is none
  std::string_view begins;         // what a call may begin with behind `opens`; empty: anything
};
CallMarkers markers_of(ToolCallForm form) {
  switch (form) {
    case ToolCallForm::kHermes:
      return {kCallOpens, kCallCloses, "{[<"};
    case ToolCallForm::kMistral:
      return {kCallsFollow, {}, {}};
    case ToolCallForm::kMarked:
      return {kMarkedOpens, kMarkedCloses, "{["};
    case ToolCallForm::kNone:
    case ToolCallForm::kLlama:
      break;
  }
  return {};
}

// The call that an object with `name` and `arguments` or `parameters` is.
std::optional<ToolCall> call_of(const WrittenValue& written, const AnswerForm& form) {
  if (!written.value.is_object()) return std::nullopt;
  std::vector<std::string> names;
  const std::vector<WrittenValue> members = items_of(written.text, &names);
  const auto member = [&](std::string_view name) -> const WrittenValue* {  // the last of that name
    for (size_t i = names.size(); i-- > 0;) {
      if (names[i] == name) return &members[i];
    }
    return nullptr;
  };
  const WrittenValue* name = member("name");
  if (name == nullptr || !name->value.is_string()) return std::nullopt;
  const std::string text_of_name(name->value.get_string());
  const bool known = std::any_of(form.tools.begin(), form.tools.end(),
                                 [&](const CallableTool& tool) { return tool.name == text_of_name; });
  if (form.calls == ToolCallForm::kLlama && !known) return std::nullopt;  // an answer that is a JSON object
  const WrittenValue* arguments = member("arguments");
  if (arguments == nullptr) arguments = member("parameters");
  if (arguments == nullptr) return ToolCall{"", text_of_name, "{}"};
  if (arguments->value.is_object()) return ToolCall{"", text_of_name, std::string(arguments->text)};
  const json::string* as_text = arguments->value.if_string();  // some write the object as a text
  json::value object;
  if (as_text == nullptr || first_value(*as_text, object) == 0 || !object.is_object()) return std::nullopt;
  return ToolCall{"", text_of_name, std::string(*as_text)};
}

}  // namespace

AnswerParser::AnswerParser(AnswerForm form)
    : form_(std::move(form)),
      state_(form_.begins_in_reasoning ? State::kReasoning
             : form_.splits_reasoning  ? State::kBeginning
                                       : State::kContentBegins) {}

AnswerDelta AnswerParser::push(std::string_view text) {
  AnswerDelta out;
  held_ += text;
  while (step(out, /*last=*/false)) {
  }
  return out;
}

AnswerDelta AnswerParser::finish() {
  AnswerDelta out;
  while (step(out, /*last=*/true)) {
  }
  return out;
}

bool AnswerParser::step(AnswerDelta& out, bool last) {
  switch (state_) {
    case State::kBeginning:
      return begin(last);
    case State::kReasoning:
      return reason(out, last);
    case State::kContentBegins:
      return begin_content(last);
    case State::kContent:
      return content(out, last);
    case State::kCall:
      return call(out, last);
  }
  return false;
}

bool AnswerParser::begin(bool last) {
  const size_t begin = std::min(held_.find_first_not_of(kSpaces), held_.size());
  const std::string_view text = std::string_view(held_).substr(begin);
  if (text.starts_with(kThink)) {
    held_.erase(0, begin + kThink.size());
    state_ = State::kReasoning;
    return true;
  }
  if (!last && kThink.starts_with(text)) return false;
  state_ = State::kContentBegins;
  return true;
}

bool AnswerParser::reason(AnswerDelta& out, bool last) {
  if (out.reasoning.empty() && !reasoned_)
    held_.erase(0, std::min(held_.find_first_not_of(kSpaces), held_.size()));
  const size_t end = held_.find(kThought);
  const size_t ready = end != std::string::npos ? trimmed_end(end)
                       : last                   ? trimmed_end(held_.size())
                                                : settled(held_, kThought);
  out.reasoning += held_.substr(0, ready);
  reasoned_ = reasoned_ || ready > 0;
  if (end == std::string::npos) {
    held_.erase(0, last ? held_.size() : ready);
    return false;
  }
  held_.erase(0, end + kThought.size());
  after_reasoning_ = true;
  state_ = State::kContentBegins;
  return true;
}

size_t AnswerParser::trimmed_end(size_t end) const {
  const size_t last = std::string_view(held_).substr(0, end).find_last_not_of(kSpaces);
  return last == std::string_view::npos ? 0 : last + 1;
}

// White space behind reasoning is dropped. A whole answer may be a call in Llama's form.
bool AnswerParser::begin_content(bool last) {
  const size_t begin = std::min(held_.find_first_not_of(kSpaces), held_.size());
  if (after_reasoning_) held_.erase(0, begin);
  const std::string_view text = trimmed(held_);
  if (text.empty() && !last && (after_reasoning_ || form_.calls == ToolCallForm::kLlama)) return false;
  state_ = State::kContent;
  if (form_.calls != ToolCallForm::kLlama) return true;
  if (!last && !text.empty() && kPythonTag.starts_with(text)) {
    state_ = State::kContentBegins;
    return false;
  }
  if (text.starts_with('{') || text.starts_with(kPythonTag)) state_ = State::kCall;
  return true;
}

bool AnswerParser::content(AnswerDelta& out, bool last) {
  const std::string_view marker = markers_of(form_.calls).opens;
  const size_t at = marker.empty() ? std::string::npos : held_.find(marker);
  if (at != std::string::npos) {
    // The white space in front of a call is part of its form: it stays with it until it is one.
    const size_t end = trimmed_end(at);
    out.content += held_.substr(0, end);
    held_.erase(0, end);
    state_ = State::kCall;
    return true;
  }
  const size_t ready = last             ? (calls_ > 0 ? trimmed_end(held_.size()) : held_.size())
                       : marker.empty() ? held_.size()
                                        : settled(held_, marker);
  out.content += held_.substr(0, ready);
  held_.erase(0, last ? held_.size() : ready);
  return false;
}

// held_ is white space, the call's marker and what follows it, or the call alone (Llama). What is no call is
// content up to and with the marker, and behind it a call may follow.
bool AnswerParser::call(AnswerDelta& out, bool last) {
  const CallMarkers markers = markers_of(form_.calls);
  const size_t body = markers.opens.empty() ? 0 : held_.find(markers.opens) + markers.opens.size();
  const auto is_none = [&] {
    const size_t size = markers.opens.empty() ? held_.size() : body;
    out.content += held_.substr(0, size);
    held_.erase(0, size);
    state_ = State::kContent;
    return !held_.empty();
  };
  const size_t first = held_.find_first_not_of(kSpaces, body);
  if (first == std::string::npos && !last) return false;
  if (!markers.begins.empty() && first != std::string::npos &&
      markers.begins.find(held_[first]) == std::string_view::npos)
    return is_none();
  std::string_view text = std::string_view(held_).substr(body);
  size_t closed = markers.closes.empty() ? std::string::npos : closing_marker(text, markers.closes);
  if (closed == std::string::npos && !last) return false;
  if (closed == std::string::npos && !markers.closes.empty())
    closed = text.find(markers.closes);  // behind a quote left open
  text = text.substr(0, closed);
  if (trimmed(text).starts_with(kPythonTag)) text = trimmed(text).substr(kPythonTag.size());
  // Text may follow where nothing closes a call. A JSON object with text behind it is no call of Llama's.
  std::string_view rest = text;
  AnswerDelta calls;
  const int before = calls_;
  const bool any = add_calls(rest, calls);
  const bool whole = trimmed(rest).empty();
  if (!any || (!whole && (closed != std::string::npos || form_.calls == ToolCallForm::kLlama))) {
    calls_ = before;
    return is_none();
  }
  std::move(calls.calls.begin(), calls.calls.end(), std::back_inserter(out.calls));
  if (closed != std::string::npos) {
    held_.erase(0, body + closed + markers.closes.size());
  } else {
    held_.erase(0, whole ? held_.size() : static_cast<size_t>(rest.data() - held_.data()));
  }
  state_ = State::kContent;
  return !held_.empty();
}

// Adds the calls that `text` begins with and takes them off it; false where it begins with none.
bool AnswerParser::add_calls(std::string_view& text, AnswerDelta& out) {
  std::vector<ToolCall> found;
  if (form_.calls == ToolCallForm::kHermes && begins_call_in_tags(trimmed(text))) {
    found = take_calls_in_tags(text, form_.tools);
  } else {
    std::string_view rest = text;
    const std::vector<WrittenValue> values = take_values(rest);
    if (values.empty() && form_.calls == ToolCallForm::kMistral) return add_named_calls(text, out);
    for (const WrittenValue& written : values) {
      const bool several = written.value.is_array();
      for (const WrittenValue& call : several ? items_of(written.text) : std::vector{written}) {
        std::optional<ToolCall> one = call_of(call, form_);
        if (!one) return false;
        found.push_back(std::move(*one));
      }
    }
    text = rest;
  }
  for (ToolCall& call : found) add(std::move(call), out);
  return !found.empty();
}

// name[ARGS]{...}, name[CALL_ID]id[ARGS]{...} or name{...}, of Mistral's later templates; [TOOL_CALLS] in
// front of each further one.
bool AnswerParser::add_named_calls(std::string_view& text, AnswerDelta& out) {
  std::vector<ToolCall> found;
  for (std::string_view rest = trimmed(text); !rest.empty(); rest = trimmed(text)) {
    if (!found.empty()) {
      if (!rest.starts_with(kCallsFollow)) break;
      rest.remove_prefix(kCallsFollow.size());
    }
    const size_t brace = rest.find('{');
    if (brace == std::string_view::npos) break;
    std::string_view name = trimmed(rest.substr(0, brace));
    if (name.ends_with(kArguments)) name = trimmed(name.substr(0, name.size() - kArguments.size()));
    if (const size_t id = name.find(kCallId); id != std::string_view::npos)
      name = trimmed(name.substr(0, id));
    if (name.empty() || name.size() > 256 || name.find_first_of(" \n\"[]") != std::string_view::npos) break;
    json::value arguments;
    const size_t used = first_value(rest.substr(brace), arguments);
    if (used == 0 || !arguments.is_object()) break;
    const std::string_view written = trimmed(rest.substr(brace, used));
    found.push_back({"", std::string(name), std::string(written)});
    text = rest.substr(brace + written.size());  // the white space behind is not the value's
  }
  for (ToolCall& call : found) add(std::move(call), out);
  return !found.empty();
}

void AnswerParser::add(ToolCall call, AnswerDelta& out) {
  if (form_.single_call && calls_ > 0) return;
  uint64_t bits = (form_.id_seed + static_cast<uint64_t>(++calls_)) * 0x9E3779B97F4A7C15;
  bits ^= bits >> 29;
  for (int i = 0; i < 9; ++i, bits /= 36) call.id += "0123456789abcdefghijklmnopqrstuvwxyz"[bits % 36];
  out.calls.push_back(std::move(call));
}

}  // namespace shoal
