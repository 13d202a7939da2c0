#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>

#include "node/http/json_fields.h"
#include "node/http/openai_request.h"

namespace shoal::test {
namespace {

std::string chat_with(const std::string& fields) {
  return R"({"messages":[{"role":"user","content":"hi"}],)" + fields + "}";
}
std::string text_with(const std::string& fields) {
  return R"({"prompt":"hi",)" + fields + "}";
}

// The field that a chat request with these fields is refused for; "accepted" if it is not.
std::string chat_refusal(const std::string& fields) {
  const auto result = parse_chat_request(chat_with(fields));
  if (result.has_value()) return "accepted";
  CHECK(result.error().status == 400);
  CHECK(result.error().message.starts_with(result.error().param));
  return result.error().param;
}
std::string text_refusal(const std::string& fields) {
  const auto result = parse_text_request(text_with(fields));
  return result.has_value() ? "accepted" : result.error().param;
}
std::string chat_body_refusal(const std::string& body) {
  const auto result = parse_chat_request(body);
  return result.has_value() ? "accepted" : result.error().param + "|" + result.error().message;
}

// As the chat template is given them.
std::string messages_json(const CompletionRequest& request) {
  jinja::Budget budget(SIZE_MAX, SIZE_MAX);
  return jinja::to_json(request.conversation.messages, {}, budget).bytes;
}

}  // namespace

TEST_CASE("content that is null is no content, and arguments that are empty are none") {
  const auto request = parse_chat_request(R"({"messages": [{"role": "system", "content": null},
      {"role": "user", "content": "q"}, {"role": "assistant", "content": null},
      {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "a", "arguments": ""}},
        {"function": {"name": "b", "arguments": " "}}, {"function": {"name": "c", "arguments": null}},
        {"function": {"name": "d"}}]},
      {"role": "tool", "tool_call_id": "1", "content": null}]})");
  REQUIRE(request.has_value());
  const auto call = [](const std::string& name) {
    return R"({"type": "function", "function": {"name": ")" + name + R"(", "arguments": {}}})";
  };
  CHECK(messages_json(*request) ==
        R"([{"role": "system", "content": ""}, {"role": "user", "content": "q"}, )"
        R"({"role": "assistant", "content": ""}, {"role": "assistant", "content": null, "tool_calls": [)" +
            call("a") + ", " + call("b") + ", " + call("c") + ", " + call("d") +
            R"(]}, {"role": "tool", "content": "", "tool_call_id": "1"}])");
}

TEST_CASE("tools, calls and their results are read for the template") {
  const auto request =
      parse_chat_request(R"({"parallel_tool_calls": false, "chat_template_kwargs": {"enable_thinking": false},
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object",
      "properties": {"at": {"type": "string"}, "far": {"type": "number"}, "odd": 1,
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "list": {"type": ["string", "null"]},
        "one": {"enum": ["1", "2"]}, "only": {"const": "3"}, "two": {"enum": [1, 2]}}}}}],
    "messages": [{"role": "user", "content": "q"},
      {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function",
        "function": {"name": "look", "arguments": "{\"at\": [1, \"\u00e9\"]}"}}]},
      {"role": "tool", "tool_call_id": "1", "content": "seen"}]})");
  REQUIRE(request.has_value());
  CHECK(
      messages_json(*request) ==
      R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": null, "tool_calls": [{"id": "1", )"
      R"("type": "function", "function": {"name": "look", "arguments": {"at": [1, "é"]}}}]}, )"
      R"({"role": "tool", "content": "seen", "tool_call_id": "1"}])");
  CHECK(request->has_tool_messages);
  REQUIRE(request->answer_form.tools.size() == 1);
  CHECK(request->answer_form.tools[0].name == "look");
  CHECK(request->answer_form.tools[0].text_parameters ==
        std::set<std::string>{"at", "list", "maybe", "one", "only"});
  CHECK(request->answer_form.single_call);
  REQUIRE(request->conversation.variables.size() == 1);
  CHECK(request->conversation.variables[0].first == "enable_thinking");
  CHECK_FALSE(request->conversation.variables[0].second.truthy());
  // Who must not call need not be told of tools.
  const auto none = parse_chat_request(
      chat_with(R"("tool_choice": "none", "tools": [{"type": "function", "function": {"name": "look"}}])"));
  REQUIRE(none.has_value());
  CHECK(none->answer_form.tools.empty());
  CHECK(none->conversation.tools.is(jinja::Value::Kind::kNone));
  CHECK(chat_refusal(R"("response_format": {"type": "json_object"},
                        "tools": [{"type": "function", "function": {"name": "look"}}])") ==
        "response_format");
}

TEST_CASE("a chat request is read field by field") {
  const auto request = parse_chat_request(R"({
    "model": "m", "user": "u", "n": 2, "max_completion_tokens": 7, "max_tokens": 9, "stream": true,
    "stream_options": {"include_usage": true}, "temperature": 0.5, "top_p": 0.25, "top_k": 3, "min_p": 0.125,
    "frequency_penalty": -2, "presence_penalty": 2, "repetition_penalty": 1.5, "seed": -1, "stop": ["a", "bc"],
    "logprobs": true, "top_logprobs": 4, "logit_bias": {"5": -100, "6": 1.5}, "ignore_eos": true,
    "priority": -3, "timeout": 1.5, "new_field": [1],
    "tools": [], "response_format": {"type": "text"}, "logit_bias_unknown": null, "best_of": null,
    "messages": [{"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "short"}]},
                 {"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": []}]})");
  REQUIRE(request.has_value());
  CHECK(request->chat);
  CHECK(request->model == "m");
  CHECK(request->user == "u");
  CHECK(request->n == 2);
  CHECK(request->priority == -3);
  CHECK(request->timeout_s == 1.5);
  CHECK(request->max_tokens == 7);
  CHECK(request->stream);
  CHECK(request->include_usage);
  CHECK(request->sampling.temperature == 0.5f);
  CHECK(request->sampling.top_p == 0.25f);
  CHECK(request->sampling.top_k == 3);
  CHECK(request->sampling.min_p == 0.125f);
  CHECK(request->sampling.frequency_penalty == -2);
  CHECK(request->sampling.presence_penalty == 2);
  CHECK(request->sampling.repeat_penalty == 1.5f);
  CHECK(request->seeded);
  CHECK(request->sampling.seed == ~uint64_t{0});
  CHECK(request->stop == std::vector<std::string>{"a", "bc"});
  CHECK(request->logprobs == 4);
  CHECK(request->logit_bias == std::vector<std::pair<int32_t, float>>{{5, -100.0f}, {6, 1.5f}});
  CHECK(request->ignore_end);
  CHECK(messages_json(*request) ==
        R"([{"role": "system", "content": "be short"}, {"role": "user", "content": "hi"}, )"
        R"({"role": "assistant", "content": ""}])");
  CHECK(request->message_bytes == 10);
  CHECK_FALSE(request->has_tool_messages);
  CHECK(request->conversation.tools.is(jinja::Value::Kind::kNone));
  request->sampling.validate();
}

TEST_CASE("what is not said is as `shoal run` has it") {
  const auto chat = parse_chat_request(R"({"messages":[{"role":"user","content":"hi"}]})");
  REQUIRE(chat.has_value());
  const SamplerOptions defaults;
  CHECK(chat->sampling.temperature == defaults.temperature);
  CHECK(chat->sampling.top_k == defaults.top_k);
  CHECK(!chat->max_tokens.has_value());
  CHECK(!chat->seeded);
  CHECK(chat->logprobs == -1);
  CHECK(!chat->stream);
  const auto text = parse_text_request(R"({"prompt":"hi"})");
  REQUIRE(text.has_value());
  CHECK(text->max_tokens == 16);
}

TEST_CASE("prompts are text, token ids, or several of them") {
  const auto one = parse_text_request(R"({"prompt":[1,2]})");
  REQUIRE(one.has_value());
  CHECK(std::get<std::vector<int32_t>>(one->prompts.at(0)) == std::vector<int32_t>{1, 2});
  const auto several = parse_text_request(R"({"prompt":["a",[3]],"n":2})");
  REQUIRE(several.has_value());
  CHECK(std::get<std::string>(several->prompts.at(0)) == "a");
  CHECK(std::get<std::vector<int32_t>>(several->prompts.at(1)) == std::vector<int32_t>{3});
  for (const char* wrong : {"\"\"", "[]", "[\"\"]", "[[]]", "5", "{}", "[-1]", "[2147483648]", "[1.5]",
                            "[1,\"a\"]", "[[1],[\"a\"]]", "null", "[null]",
                            "[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\",\"i\","
                            "\"j\",\"k\",\"l\",\"m\",\"n\",\"o\",\"p\",\"q\"]"}) {
    CAPTURE(wrong);
    const auto refused = parse_text_request(std::string("{\"prompt\":") + wrong + "}");
    REQUIRE(refused.has_error());
    CHECK(refused.error().param.starts_with("prompt"));
  }
  CHECK(parse_text_request(R"({"prompt":["a","b","c"],"n":6})").error().param == "n");
}

TEST_CASE("each field refuses what it cannot mean, by its name") {
  for (const char* value : {"-1", "2.1", "1e999", "-1e999", "\"1\"", "\"NaN\"", "true", "[1]", "{}"}) {
    CAPTURE(value);
    CHECK(chat_refusal(std::string("\"temperature\":") + value) == "temperature");
    CHECK(chat_refusal(std::string("\"presence_penalty\":") + (value == std::string("-1")    ? "-3"
                                                               : value == std::string("2.1") ? "3"
                                                                                             : value)) ==
          "presence_penalty");
  }
  CHECK(chat_refusal("\"temperature\":NaN").empty());  // no JSON at all
  CHECK(chat_refusal("\"top_p\":-0.1") == "top_p");
  CHECK(chat_refusal("\"top_p\":1.1") == "top_p");
  CHECK(chat_refusal("\"top_k\":-2147483648") == "top_k");
  CHECK(chat_refusal("\"top_k\":1.5") == "top_k");
  CHECK(chat_refusal("\"min_p\":2") == "min_p");
  CHECK(chat_refusal("\"repetition_penalty\":0") == "repetition_penalty");
  CHECK(chat_refusal("\"seed\":18446744073709551616") == "seed");
  CHECK(chat_refusal("\"seed\":1.5") == "seed");
  CHECK(chat_refusal("\"max_tokens\":-1") == "max_tokens");
  CHECK(chat_refusal("\"max_tokens\":0") == "max_tokens");
  CHECK(chat_refusal("\"max_tokens\":2147483648") == "max_tokens");
  CHECK(chat_refusal("\"max_completion_tokens\":\"5\"") == "max_completion_tokens");
  CHECK(chat_refusal("\"n\":1000000") == "n");
  CHECK(chat_refusal("\"n\":0") == "n");
  CHECK(chat_refusal("\"stream\":1") == "stream");
  CHECK(chat_refusal("\"stream_options\":{\"include_usage\":true}") == "stream_options");
  CHECK(chat_refusal("\"stream\":true,\"stream_options\":{\"include_usage\":1}") ==
        "stream_options.include_usage");
  CHECK(chat_refusal("\"stop\":\"\"") == "stop");
  CHECK(chat_refusal("\"stop\":[\"a\",5]") == "stop[1]");
  CHECK(chat_refusal("\"stop\":\"" + std::string(257, 'x') + "\"") == "stop");
  CHECK(chat_refusal("\"logprobs\":3") == "logprobs");
  CHECK(chat_refusal("\"top_logprobs\":3") == "top_logprobs");
  CHECK(chat_refusal("\"logprobs\":true,\"top_logprobs\":21") == "top_logprobs");
  CHECK(chat_refusal("\"logit_bias\":[]") == "logit_bias");
  CHECK(chat_refusal("\"logit_bias\":{\"x\":1}") == "logit_bias");
  CHECK(chat_refusal("\"logit_bias\":{\"-4\":1}") == "logit_bias");
  CHECK(chat_refusal("\"logit_bias\":{\"4\":101}") == "logit_bias.4");
  CHECK(chat_refusal("\"model\":5") == "model");
  CHECK(text_refusal("\"logprobs\":true") == "logprobs");
  CHECK(text_refusal("\"logprobs\":21") == "logprobs");
}

TEST_CASE("what is not offered is refused, not ignored") {
  CHECK(chat_refusal("\"tools\":[{\"type\":\"function\"}]") == "tools[0].function");
  CHECK(chat_refusal("\"tools\":{}") == "tools");
  CHECK(chat_refusal("\"tools\":[{\"type\":\"retrieval\"}]") == "tools[0].type");
  CHECK(chat_refusal("\"tools\":[{\"type\":\"function\",\"function\":{}}]") == "tools[0].function.name");
  CHECK(chat_refusal("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":5}}]") ==
        "tools[0].function.parameters");
  CHECK(text_refusal("\"tools\":[{\"type\":\"function\"}]") == "tools");
  CHECK(chat_refusal("\"chat_template_kwargs\":{\"messages\":[]}") == "chat_template_kwargs.messages");
  CHECK(chat_refusal("\"chat_template_kwargs\":[]") == "chat_template_kwargs");
  CHECK(chat_refusal("\"functions\":[{}]") == "functions");
  CHECK(chat_refusal("\"tool_choice\":\"required\"") == "tool_choice");
  CHECK(chat_refusal("\"modalities\":[\"text\",\"audio\"]") == "modalities");
  CHECK(chat_refusal(R"("response_format":{"type":"xml"})") == "response_format");
  CHECK(chat_refusal(R"("response_format":{"type":"json_object"})") == "accepted");
  CHECK(chat_refusal(R"("response_format":{"type":"json_schema"})") == "response_format.json_schema");
  CHECK(chat_refusal(R"("response_format":{"type":"json_schema","json_schema":{}})") ==
        "response_format.json_schema.schema");
  CHECK(chat_refusal(
            R"("response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"items":3}}})") ==
        "response_format.json_schema.schema.items");
  CHECK(chat_refusal(
            R"("response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"items":{}}}})") ==
        "accepted");
  CHECK(text_refusal("\"best_of\":1000000") == "best_of");
  CHECK(text_refusal("\"n\":2,\"best_of\":2") == "accepted");
  CHECK(text_refusal("\"echo\":true") == "echo");
  CHECK(text_refusal("\"suffix\":\"x\"") == "suffix");
  for (const char* key :
       {"prompt_embeds", "grammar", "guided_regex", "json_schema", "structured_outputs", "chat_template"}) {
    CAPTURE(key);
    CHECK(text_refusal(fmt::format("\"{}\":\"AAAA\"", key)) == key);
    CHECK(chat_refusal(fmt::format("\"{}\":\"AAAA\"", key)) == key);
    CHECK(chat_refusal(fmt::format("\"{}\":null", key)) == "accepted");
  }
  CHECK(chat_refusal("\"n_discard\":-1") == "n_discard");
  for (const char* key : {"echo", "suffix", "stop_token_ids", "bad_words", "min_tokens", "use_beam_search",
                          "continue_final_message", "typical_p", "mirostat", "xtc_probability", "top_n_sigma",
                          "truncate_prompt_tokens", "add_generation_prompt", "include_stop_str_in_output"}) {
    CAPTURE(key);
    CHECK(chat_refusal(fmt::format("\"{}\":7", key)) == key);
  }
  CHECK(parse_chat_request(
            R"({"messages":[{"role":"user","content":"hi"}],"echo":false,"suffix":"","stop_token_ids":[],
                              "bad_words":[],"min_tokens":0,"use_beam_search":false,"continue_final_message":false,
                              "typical_p":1.0,"mirostat":0,"xtc_probability":0.0,"top_n_sigma":-1.0,
                              "truncate_prompt_tokens":null,"add_generation_prompt":true})")
            .has_value());
  CHECK(chat_refusal("\"best_of\":1000000") == "best_of");
  CHECK(chat_refusal("\"metadata\":{\"a\":1},\"store\":false") == "accepted");
}

TEST_CASE("conversations that say nothing or are malformed are refused where they are wrong") {
  auto refused = [](const std::string& messages) {
    const auto result = parse_chat_request("{\"messages\":" + messages + "}");
    return result.has_value() ? std::string("accepted") : result.error().param;
  };
  CHECK(chat_body_refusal("{}").starts_with("messages|"));
  CHECK(refused("[]") == "messages");
  CHECK(refused("{}") == "messages");
  CHECK(refused("[5]") == "messages[0]");
  CHECK(refused(R"([{"role":"user","content":" \n"}])") == "messages");
  CHECK(refused(R"([{"content":"hi"}])") == "messages[0].role");
  CHECK(refused(R"([{"role":"tool","content":"hi"}])") == "messages[0].tool_call_id");
  CHECK(refused(R"([{"role":"robot","content":"hi"}])") == "messages[0].role");
  CHECK(refused(R"([{"role":"user"}])") == "messages[0].content");
  CHECK(refused(R"([{"role":"user","content":null}])") == "messages");  // which say nothing
  CHECK(refused(R"([{"role":"user","content":5}])") == "messages[0].content");
  CHECK(refused(R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://x"}}]}])") ==
        "messages[0].content[0].type");
  CHECK(refused(R"([{"role":"user","content":[{"type":"text"}]}])") == "messages[0].content[0].text");
  CHECK(refused(R"([{"role":"user","content":["hi"]}])") == "messages[0].content[0]");
  CHECK(refused(R"([{"role":"assistant","content":"x","tool_calls":[{}]}])") ==
        "messages[0].tool_calls[0].function");
  CHECK(refused(R"([{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"[1]"}}]}])") ==
        "messages[0].tool_calls[0].function.arguments");
  CHECK(refused(R"([{"role":"user","content":"x","tool_calls":[{}]}])") == "messages[0].tool_calls");
  std::string many = "[";
  for (size_t i = 0; i <= kMessagesMax; ++i) many += R"({"role":"user","content":"x"},)";
  many.back() = ']';
  CHECK(refused(many) == "messages");
}

TEST_CASE("a member that comes twice is refused where it does, and so are very many members") {
  CHECK(chat_refusal("\"n\":1,\"n\":2") == "n");
  CHECK(chat_refusal("\"n\":1,\"\\u006e\":1") == "n");
  CHECK(text_refusal("\"prompt\":\"b\"") == "prompt");
  CHECK(chat_refusal("\"x\":[{\"a\":{}},{\"a\":{\"b\":[],\"c\":[1,2,{\"d\":1,\"d\":1}]}}]") ==
        "x[1].a.c[2].d");
  CHECK(chat_refusal("\"x\":[{\"a\":1},{\"a\":1}],\"a\":1") == "accepted");
  CHECK(chat_refusal("\"x\":[{\"a\":1},2,{\"b\":1,\"b\":1}]") == "x[2].b");
  const std::string longest(size_t{1} << 20, 'k');
  const auto twice = parse_chat_request(chat_with(fmt::format("\"{}\":1,\"{}\":1", longest, longest)));
  REQUIRE(twice.has_error());
  CHECK(twice.error().message.size() < 200);  // what a message quotes is bounded too
  const auto members = [](size_t count) {
    std::string text = "\"x\":{";
    for (size_t i = 0; i < count; ++i) text += fmt::format("\"k{}\":1,", i);
    text.back() = '}';
    return text;
  };
  CHECK(chat_refusal(members(kJsonMembersMax)) == "accepted");
  const auto many = parse_chat_request(chat_with(members(kJsonMembersMax + 1)));
  REQUIRE(many.has_error());
  CHECK(many.error().param == "x");
}

TEST_CASE("a body that is no bounded JSON object of valid UTF-8 is refused") {
  for (const std::string& body :
       std::vector<std::string>{"", "{", "[]", "5", "null", "\xEF\xBB\xBF{}",
                                "{\"messages\":[{\"role\":\"user\",\"content\":\"\xC0\xAF\"}]}",
                                "{\"messages\":[{\"role\":\"user\",\"content\":\"\xED\xA0\x80\"}]}",
                                "{\"messages\":[{\"role\":\"user\",\"content\":\"\\ud800\"}]}",
                                "{\"messages\":[{\"role\":\"user\",\"content\":\"\xFF\"}]}", "{} {}"}) {
    CAPTURE(body);
    CHECK(parse_chat_request(body).has_error());
    CHECK(parse_text_request(body).has_error());
  }
  for (const size_t depth : {size_t{65}, size_t{3000}, size_t{100000}}) {
    const auto deep = parse_chat_request("{\"x\":" + std::string(depth, '[') + std::string(depth, ']') + "}");
    REQUIRE(deep.has_error());
    CHECK(deep.error().message.find("nested") != std::string::npos);
  }
  CHECK(parse_chat_request(chat_with("\"x\":" + std::string(60, '[') + std::string(60, ']'))).has_value());
  std::string stops = "\"stop\":[";
  for (int i = 0; i < 100000; ++i) stops += "\"a\",";
  stops.back() = ']';
  CHECK(chat_refusal(stops) == "stop");
}

TEST_CASE("of tools, stop strings and biases the last that may be passes, and one more does not") {
  const auto listed = [](const char* field, size_t count, const auto& entry, const char* brackets) {
    std::string text = "\"" + std::string(field) + "\":" + brackets[0];
    for (size_t i = 0; i < count; ++i) text += (i > 0 ? "," : "") + entry(i);
    return text + brackets[1];
  };
  const auto tool = [](size_t i) {
    return R"({"type":"function","function":{"name":"f)" + std::to_string(i) + "\"}}";
  };
  const auto stop = [](size_t i) { return "\"s" + std::to_string(i) + "\""; };
  const auto bias = [](size_t i) { return "\"" + std::to_string(i) + "\":1"; };
  CHECK(chat_refusal(listed("tools", kToolsMax, tool, "[]")) == "accepted");
  CHECK(chat_refusal(listed("tools", kToolsMax + 1, tool, "[]")) == "tools");
  CHECK(chat_refusal(listed("stop", kStopsMax, stop, "[]")) == "accepted");
  CHECK(chat_refusal(listed("stop", kStopsMax + 1, stop, "[]")) == "stop");
  CHECK(chat_refusal(listed("logit_bias", kLogitBiasMax, bias, "{}")) == "accepted");
  CHECK(chat_refusal(listed("logit_bias", kLogitBiasMax + 1, bias, "{}")) == "logit_bias");
}

}  // namespace shoal::test
