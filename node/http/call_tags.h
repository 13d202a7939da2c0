// Tool calls written in tags, as Qwen3-Coder does between <tool_call> and </tool_call>:
//   <function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n ... </function>
// Values carry no type: one is a string where the tool's schema takes strings or where it is no JSON, and
// that JSON otherwise. Pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "node/http/answer_parser.h"

namespace shoal {

bool begins_call_in_tags(std::string_view text);  // `text` without white space in front

// The calls that `text` begins with, one after the other, without ids. They are taken off it.
std::vector<ToolCall> take_calls_in_tags(std::string_view& text, const std::vector<CallableTool>& tools);

}  // namespace shoal
