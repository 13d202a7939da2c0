#include "node/http/answer_parser.h"

#include <algorithm>
#include <boost/json.hpp>

namespace shoal {

namespace json = boost::json;

namespace {

constexpr std::string_view kThink = "<think>", kThought = "</think>";
constexpr std::string_view kCallOpens = "<tool_call>", kCallCloses = "</tool_call>";
constexpr std::string_view kMarkedOpens = "<|tool_call|>", kMarkedCloses = "<|/tool_call|>";
constexpr std::string_view kArguments = "[ARGS]", kCallId = "[CALL_ID]";
constexpr std::string_view kCallsFollow = "[TOOL_CALLS]", kPythonTag = "<|python_tag|>";
constexpr std::string_view kSpaces = " \t\r\n";
constexpr int kArgumentsDepthMax = 64;

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpaces);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpaces) - begin + 1);
}

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

// JSON values one after the other, with ; or white space between; nothing if it is anything else.
std::vector<json::value> values_in(std::string_view text) {
  std::vector<json::value> values;
  while (!(text = trimmed(text)).empty()) {
    const size_t used = first_value(text, values.emplace_back());
    if (used == 0) return {};
    text = trimmed(text.substr(used));
    if (text.starts_with(';') || text.starts_with(',')) text.remove_prefix(1);
  }
  return values;
}

struct CallMarkers {
  std::string_view opens, closes;  // empty: there is none
};
CallMarkers markers_of(ToolCallForm form) {
  switch (form) {
    case ToolCallForm::kHermes:
      return {kCallOpens, kCallCloses};
    case ToolCallForm::kMistral:
      return {kCallsFollow, {}};
    case ToolCallForm::kMarked:
      return {kMarkedOpens, kMarkedCloses};
    case ToolCallForm::kNone:
    case ToolCallForm::kLlama:
      break;
  }
  return {};
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
    // The white space in front of a call is part of its form.
    out.content += held_.substr(0, trimmed_end(at));
    held_.erase(0, at);
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

// held_ begins with the call's marker, or is the call (Llama).
bool AnswerParser::call(AnswerDelta& out, bool last) {
  const std::string_view closes = markers_of(form_.calls).closes;
  const size_t end = closes.empty() ? std::string::npos : held_.find(closes);
  if (end == std::string::npos && !last) return false;
  const size_t size = end == std::string::npos ? held_.size() : end + closes.size();
  std::string_view text = std::string_view(held_).substr(0, std::min(end, held_.size()));
  for (const std::string_view marker : {kCallOpens, kCallsFollow, kMarkedOpens, kPythonTag}) {
    if (trimmed(text).starts_with(marker)) text = trimmed(text).substr(marker.size());
  }
  if (!add_calls(text, out)) out.content += held_.substr(0, size);
  held_.erase(0, size);
  state_ = State::kContent;
  return !held_.empty();
}

bool AnswerParser::add_calls(std::string_view text, AnswerDelta& out) {
  const std::vector<json::value> values = values_in(text);
  if (values.empty() && form_.calls == ToolCallForm::kMistral) return add_named_calls(text, out);
  std::vector<const json::value*> calls;
  for (const json::value& value : values) {
    if (!value.is_array()) {
      calls.push_back(&value);
      continue;
    }
    for (const json::value& item : value.get_array()) calls.push_back(&item);
  }
  std::vector<ToolCall> found;
  for (const json::value* value : calls) {
    const json::object* object = value->if_object();
    const json::value* name = object != nullptr ? object->if_contains("name") : nullptr;
    if (name == nullptr || !name->is_string()) return false;
    const json::value* arguments = object->if_contains("arguments");
    if (arguments == nullptr) arguments = object->if_contains("parameters");
    const std::string text_of_name(name->get_string());
    const bool known = std::find(form_.tools.begin(), form_.tools.end(), text_of_name) != form_.tools.end();
    if (form_.calls == ToolCallForm::kLlama && !known) return false;  // an answer that is a JSON object
    if (arguments == nullptr) {
      found.push_back({"", text_of_name, "{}"});
    } else if (arguments->is_object()) {
      found.push_back({"", text_of_name, json::serialize(*arguments)});
    } else {  // some write the object as a text
      const json::string* written = arguments->if_string();
      json::value object_in_text;
      if (written == nullptr || first_value(*written, object_in_text) == 0 || !object_in_text.is_object())
        return false;
      found.push_back({"", text_of_name, std::string(*written)});
    }
  }
  for (ToolCall& call : found) add(std::move(call), out);
  return !found.empty();
}

// name[ARGS]{...}, name[CALL_ID]id[ARGS]{...} or name{...}, of Mistral's later templates; [TOOL_CALLS] in
// front of each further one.
bool AnswerParser::add_named_calls(std::string_view text, AnswerDelta& out) {
  std::vector<ToolCall> found;
  while (!(text = trimmed(text)).empty()) {
    if (!found.empty()) {
      if (!text.starts_with(kCallsFollow)) return false;
      text.remove_prefix(kCallsFollow.size());
    }
    const size_t brace = text.find('{');
    if (brace == std::string_view::npos) return false;
    std::string_view name = trimmed(text.substr(0, brace));
    if (name.ends_with(kArguments)) name = trimmed(name.substr(0, name.size() - kArguments.size()));
    if (const size_t id = name.find(kCallId); id != std::string_view::npos)
      name = trimmed(name.substr(0, id));
    if (name.empty() || name.size() > 256 || name.find_first_of(" \n\"[]") != std::string_view::npos)
      return false;
    json::value arguments;
    const size_t used = first_value(text.substr(brace), arguments);
    if (used == 0 || !arguments.is_object()) return false;
    found.push_back({"", std::string(name), json::serialize(arguments)});
    text.remove_prefix(brace + used);
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
