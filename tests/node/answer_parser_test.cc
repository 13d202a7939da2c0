#include "node/http/answer_parser.h"

#include <doctest/doctest.h>

namespace shoal::test {
namespace {

AnswerForm form_of(ToolCallForm calls) {
  AnswerForm form;
  form.splits_reasoning = true;
  form.calls = calls;
  form.tools = {{"look"}, {"go"}};
  return form;
}

// The whole answer as "reasoning|content|name(arguments)...", fed in pieces of `piece` bytes.
std::string parsed(const AnswerForm& form, const std::string& text, size_t piece) {
  AnswerParser parser(form);
  AnswerDelta whole;
  const auto add = [&](const AnswerDelta& delta) {
    whole.content += delta.content;
    whole.reasoning += delta.reasoning;
    whole.calls.insert(whole.calls.end(), delta.calls.begin(), delta.calls.end());
  };
  for (size_t i = 0; i < text.size(); i += piece) add(parser.push(text.substr(i, piece)));
  add(parser.finish());
  CHECK(parser.calls() == static_cast<int>(whole.calls.size()));
  std::string all = whole.reasoning + "|" + whole.content + "|";
  for (const ToolCall& call : whole.calls) {
    CHECK(call.id.size() == 9);
    CHECK(call.id.find_first_not_of("0123456789abcdefghijklmnopqrstuvwxyz") == std::string::npos);
    all += call.name + "(" + call.arguments + ")";
  }
  return all;
}

void check(const AnswerForm& form, const std::string& text, const std::string& expected) {
  CAPTURE(text);
  for (size_t piece = 1; piece <= text.size() + 1; ++piece) {
    CAPTURE(piece);
    REQUIRE(parsed(form, text, piece) == expected);
  }
}

}  // namespace

TEST_CASE("reasoning in front of an answer is told apart, however tokens are cut") {
  const AnswerForm form = form_of(ToolCallForm::kNone);
  check(form, "<think>\nhm, <b>\n</think>\n\nyes.\n", "hm, <b>|yes.\n|");
  check(form, " <think></think>yes", "|yes|");
  check(form, "<think>never ends \n", "never ends||");
  check(form, "yes <think>no</think>", "|yes <think>no</think>|");
  check(form, "<thi", "|<thi|");
  check(form, "  a", "|  a|");
  check(form, "", "||");
  AnswerForm inside = form;
  inside.begins_in_reasoning = true;
  check(inside, "so\n\nit is</think>\n yes", "so\n\nit is|yes|");
  AnswerForm plain;
  check(plain, "<think>a</think>b", "|<think>a</think>b|");
}

TEST_CASE("calls in the Hermes form") {
  const AnswerForm form = form_of(ToolCallForm::kHermes);
  check(form, "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"a<b\"}}\n</tool_call>",
        "||look({\"at\": \"a<b\"})");
  check(form,
        "<think>x</think>\nFirst. \n<tool_call>{\"name\":\"look\",\"arguments\":{}}</tool_call>\n<tool_call>"
        "{\"name\":\"go\",\"arguments\":{\"n\":1}}</tool_call>\n",
        "x|First.|look({})go({\"n\":1})");
  check(form, "<tool_call>{\"name\":\"look\"}", "||look({})");  // the end is missing
  check(form, "<tool_call>{\"name\":</tool_call> text", "|<tool_call>{\"name\":</tool_call> text|");
  check(form, "a <tool_ b", "|a <tool_ b|");
  check(form, "a \n", "|a \n|");
  // Numbers stay as they were written, and a string may hold what closes a call.
  check(form,
        "<tool_call>{\"arguments\": {\"x\": 1.50, \"y\" : 123456789012345678901}, \"name\": "
        "\"go\"}</tool_call>",
        "||go({\"x\": 1.50, \"y\" : 123456789012345678901})");
  check(form,
        R"(<tool_call>{"name": "look", "arguments": {"at": "</tool_call> \"quoted\" \\"}}</tool_call>.)",
        R"(|.|look({"at": "</tool_call> \"quoted\" \\"}))");
  check(form, "<tool_call>{\"name\": \"loo}</tool_call> text",
        "|<tool_call>{\"name\": \"loo}</tool_call> text|");
  // What only looks like a call stays as it is, and hides none behind it.
  check(form, "I might <tool_call> later\n<tool_call>{\"name\":\"go\"}</tool_call>",
        "|I might <tool_call> later|go({})");
  check(form, "a <tool_call>{bad <tool_call>{\"name\":\"go\"}</tool_call>", "|a <tool_call>{bad|go({})");
  CHECK(AnswerParser(form).push("so <tool_call> said").content == "so <tool_call> said");  // at once
  AnswerForm single = form;
  single.single_call = true;
  check(single, "<tool_call>{\"name\":\"look\"}</tool_call><tool_call>{\"name\":\"go\"}</tool_call>",
        "||look({})");
}

TEST_CASE("calls in Qwen3-Coder's tags take their types from the tool's schema") {
  AnswerForm form = form_of(ToolCallForm::kHermes);
  form.tools = {{"look", {"at", "why"}}, {"go"}};
  check(form,
        "Yes.\n<tool_call>\n<function=look>\n<parameter=at>\n12\n</parameter>\n<parameter=far>\n1.50\n</"
        "parameter>\n"
        "<parameter=why>\nsay \"so\"\n\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=go>\n"
        "<parameter=now>\nTrue\n</parameter>\n<parameter=to>\n{\"x\": "
        "[1]}\n</parameter>\n<parameter=by>\nfoot\n"
        "</parameter>\n</function>\n</tool_call>",
        "|Yes.|look({\"at\": \"12\", \"far\": 1.50, \"why\": \"say \\\"so\\\"\\n\"})"
        "go({\"now\": true, \"to\": {\"x\": [1]}, \"by\": \"foot\"})");
  check(form, "<tool_call><function=go></function></tool_call>", "||go({})");
  check(form,
        "<tool_call><function=look><parameter=at>\r\nprint(\"</parameter>\")\r\n</parameter>\r\n</function></"
        "tool_call>",
        "||look({\"at\": \"print(\\\"</parameter>\\\")\"})");
  for (const char* broken : {"<tool_call><function=go></tool_call>", "<tool_call><function=go",
                             "<tool_call><function=></function></tool_call>",
                             "<tool_call><function=go><parameter=a>b</function></tool_call>"})
    check(form, broken, "|" + std::string(broken) + "|");
}

TEST_CASE("calls in the Llama form: the whole answer is one, of a tool that there is") {
  const AnswerForm form = form_of(ToolCallForm::kLlama);
  check(form, "{\"name\": \"look\", \"parameters\": {\"at\": 1}}", "||look({\"at\": 1})");
  check(form,
        "<|python_tag|>{\"name\": \"look\", \"parameters\": {}}; {\"name\": \"go\", \"parameters\": {}}",
        "||look({})go({})");
  check(form, "{\"name\": \"Ada\", \"parameters\": {}}", "|{\"name\": \"Ada\", \"parameters\": {}}|");
  check(form, "{\"temperature\": 5}", "|{\"temperature\": 5}|");
  check(form, "text {\"name\": \"look\"}", "|text {\"name\": \"look\"}|");
  check(form, "{ not JSON", "|{ not JSON|");
}

TEST_CASE("calls in the Mistral form") {
  const AnswerForm form = form_of(ToolCallForm::kMistral);
  check(form,
        "[TOOL_CALLS] [{\"name\": \"look\", \"arguments\": {\"a\": [1]}}, {\"name\": \"go\", \"arguments\": "
        "{}}]",
        "||look({\"a\": [1]})go({})");
  check(form, "[TOOL_CALLS]look[ARGS]{\"a\": 1}", "||look({\"a\": 1})");
  check(form, "Yes. [TOOL_CALLS]look{\"a\": 1}", "|Yes.|look({\"a\": 1})");
  check(form, "[TOOL_CALLS]look[ARGS]{\"a\": \"[TOOL_CALLS]\"}[TOOL_CALLS]go[ARGS]{}",
        "||look({\"a\": \"[TOOL_CALLS]\"})go({})");
  check(form, "[TOOL_CALLS][{\"name\": \"look\", \"arguments\": \"{\\\"a\\\": 1}\"}]", "||look({\"a\": 1})");
  check(form, "[TOOL_CALLS][{\"name\": \"look\", \"arguments\": \"hello\"}]",
        "|[TOOL_CALLS][{\"name\": \"look\", \"arguments\": \"hello\"}]|");
  check(form, "[TOOL_CALLS]look[CALL_ID]abc123DEF[ARGS]{\"a\": 1}", "||look({\"a\": 1})");  // tokenizer v11
  check(form, "[TOOL_CALLS]look[ARGS]{} and more", "| and more|look({})");
  check(form, "[TOOL_CALLS][{\"name\": \"look\"}] and more", "| and more|look({})");
  check(form, "[TOOL_CALLS] nothing", "|[TOOL_CALLS] nothing|");
  check(form, "[TOOL", "|[TOOL|");
}

TEST_CASE("calls in a mark, closed or not") {
  const AnswerForm form = form_of(ToolCallForm::kMarked);
  check(form, "<|tool_call|>[{\"name\": \"look\", \"arguments\": {\"a\": 1}}, {\"name\": \"go\"}]",
        "||look({\"a\": 1})go({})");
  check(form, "Yes.\n<|tool_call|>[{\"name\": \"look\", \"arguments\": {}}]<|/tool_call|>", "|Yes.|look({})");
  check(form, "<|tool_call|>{\"name\": \"go\"}<|/tool_call|><|tool_call|>{\"name\": \"look\"}<|/tool_call|>",
        "||go({})look({})");
  check(form, "Yes <|tool_call|>none", "|Yes <|tool_call|>none|");
  check(form, "<|tool_call|>[{\"name\": \"look\"}] bye", "| bye|look({})");
  check(form, "a <|tool_b", "|a <|tool_b|");
}

TEST_CASE("hostile answers are content") {
  const AnswerForm form = form_of(ToolCallForm::kHermes);
  const std::string deep = "<tool_call>" + std::string(100'000, '[') + "</tool_call>";
  CHECK(parsed(form, deep, 4096) == "|" + deep + "|");
  CHECK(parsed(form, "<tool_call>[]</tool_call>", 5) == "|<tool_call>[]</tool_call>|");
  CHECK(parsed(form, "<tool_call>{\"name\":\"look\",\"arguments\":5}</tool_call>", 5)
            .ends_with("</tool_call>|"));
}

}  // namespace shoal::test
