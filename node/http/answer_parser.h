// Divides a generated answer into reasoning, content and tool calls while it comes, wherever tokens are cut.
// Text that may be the beginning of a marker is held back until it is decided, a tool call until it is
// complete. What looks like a call but is none is content, unchanged. What comes out does not depend on how
// the text was cut. One answer, one thread.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "model/chat_template.h"

namespace shoal {

struct ToolCall {
  std::string id;  // nine letters and digits, which every template takes back
  std::string name;
  std::string arguments;  // a JSON object
};

struct CallableTool {
  std::string name;
  std::set<std::string> text_parameters = {};  // those whose schema takes strings
};

// What an answer may hold beside content.
struct AnswerForm {
  bool splits_reasoning = false;     // <think>...</think> in front is reasoning
  bool begins_in_reasoning = false;  // the prompt ends with <think>
  ToolCallForm calls = ToolCallForm::kNone;
  std::vector<CallableTool> tools;
  bool single_call = false;  // further calls are dropped
  uint64_t id_seed = 0;      // calls' ids follow from it
};

struct AnswerDelta {
  std::string content, reasoning;
  std::vector<ToolCall> calls;
};

class AnswerParser {
 public:
  explicit AnswerParser(AnswerForm form);
  AnswerDelta push(std::string_view text);
  AnswerDelta finish();
  int calls() const { return calls_; }  // so far

 private:
  enum class State { kBeginning, kReasoning, kContentBegins, kContent, kCall };
  bool step(AnswerDelta& out, bool last);  // true: there may be more to do
  bool begin(bool last);
  bool reason(AnswerDelta& out, bool last);
  bool begin_content(bool last);
  bool content(AnswerDelta& out, bool last);
  bool call(AnswerDelta& out, bool last);
  bool add_calls(std::string_view& text, AnswerDelta& out);
  bool add_named_calls(std::string_view& text, AnswerDelta& out);
  void add(ToolCall call, AnswerDelta& out);
  size_t trimmed_end(size_t end) const;  // of held_, without white space in front of `end`

  const AnswerForm form_;
  State state_;
  std::string held_;
  int calls_ = 0;
  bool reasoned_ = false, after_reasoning_ = false;
};

}  // namespace shoal
