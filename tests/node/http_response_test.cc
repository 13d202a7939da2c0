#include <doctest/doctest.h>

#include <boost/json.hpp>

#include "node/http/openai_response.h"
#include "node/http/stop_filter.h"

namespace shoal::test {
namespace {

namespace json = boost::json;

const ResponseHead kChatHead{true, "chatcmpl-1", 1700000000, "m", "exact-1"};
const ResponseHead kTextHead{false, "cmpl-1", 1700000000, "m", "exact-1"};

ChoicePart part_with_logprobs() {
  ChoicePart part{1, "h\xC3\xA9", true, {}, "stop"};
  part.logprobs.push_back({"h", -0.5, {{"h", -0.5}, {"\xC3", -1.5}}, 0, 0});
  part.logprobs.push_back({"\xC3\xA9", -1, {}, 1, 1});
  part.logprobs.push_back({"!", -2, {}, 3, 2});  // two bytes, one character on
  return part;
}

// Feeds `text` in pieces of `piece` bytes; what comes out, and whether it stopped.
std::pair<std::string, bool> filtered(const std::string& text, size_t piece, std::vector<std::string> stops) {
  StopFilter filter(std::move(stops));
  std::string out;
  for (size_t i = 0; i < text.size(); i += piece) out += filter.push(text.substr(i, piece));
  return {out + filter.finish(), filter.stopped()};
}

}  // namespace

TEST_CASE("a chat answer has the members that OpenAI's clients read") {
  const json::value answer = json::parse(
      whole_answer_json(kChatHead, {part_with_logprobs(), {0, "a\"b", false, {}, "length"}}, {5, 7, 3}));
  CHECK(answer.at("object") == "chat.completion");
  CHECK(answer.at("id") == "chatcmpl-1");
  CHECK(answer.at("model") == "m");
  CHECK(answer.at("choices").as_array().size() == 2);
  const json::value& choice = answer.at("choices").at(0);
  CHECK(choice.at("message").at("role") == "assistant");
  CHECK(choice.at("message").at("content") == "h\xC3\xA9");
  CHECK(choice.at("finish_reason") == "stop");
  const json::value& tokens = choice.at("logprobs").at("content");
  CHECK(tokens.at(0).at("logprob").to_number<double>() == -0.5);
  CHECK(tokens.at(0).at("top_logprobs").at(1).at("token") ==
        "\xEF\xBF\xBD");  // half a code point cannot be text
  CHECK(tokens.at(0).at("top_logprobs").at(1).at("bytes") == json::array({0xC3}));
  CHECK(tokens.at(1).at("bytes") == json::array({0xC3, 0xA9}));
  CHECK(answer.at("choices").at(1).at("logprobs").is_null());
  CHECK(answer.at("usage").at("total_tokens") == 12);
  CHECK(answer.at("usage").at("prompt_tokens_details").at("cached_tokens") == 3);
}

TEST_CASE("a text answer tells log-probabilities in columns") {
  const json::value answer = json::parse(whole_answer_json(kTextHead, {part_with_logprobs()}, {1, 2, 0}));
  CHECK(answer.at("object") == "text_completion");
  const json::value& choice = answer.at("choices").at(0);
  CHECK(choice.at("text") == "h\xC3\xA9");
  CHECK(choice.at("index") == 1);
  CHECK(choice.at("logprobs").at("tokens").at(0) == "h");
  CHECK(choice.at("logprobs").at("token_logprobs").at(1).to_number<double>() == -1);
  CHECK(choice.at("logprobs").at("text_offset") == json::array({0, 1, 2}));
  CHECK(choice.at("logprobs").at("top_logprobs").at(0).at("h").to_number<double>() == -0.5);
}

TEST_CASE("chunks open with the role, carry text, and end with a reason") {
  const json::value first = json::parse(chunk_json(kChatHead, {0, "a", false, {}, ""}, true, false));
  CHECK(first.at("object") == "chat.completion.chunk");
  CHECK(first.at("choices").at(0).at("delta") == json::object({{"role", "assistant"}, {"content", "a"}}));
  CHECK(first.at("choices").at(0).at("finish_reason").is_null());
  CHECK(first.as_object().find("usage") == first.as_object().end());
  const json::value last = json::parse(chunk_json(kChatHead, {0, "", false, {}, "length"}, false, true));
  CHECK(last.at("choices").at(0).at("delta") == json::object());
  CHECK(last.at("choices").at(0).at("finish_reason") == "length");
  CHECK(last.at("usage").is_null());
  const json::value usage = json::parse(usage_chunk_json(kChatHead, {1, 2, 0}));
  CHECK(usage.at("choices").as_array().empty());
  CHECK(usage.at("usage").at("completion_tokens") == 2);
  const json::value text = json::parse(chunk_json(kTextHead, {0, "a", false, {}, ""}, true, false));
  CHECK(text.at("object") == "text_completion");
  CHECK(text.at("choices").at(0).at("text") == "a");
  CHECK(server_sent_event("{}") == "data: {}\n\n");
}

TEST_CASE("reasoning and tool calls have members of their own") {
  ChoicePart part;
  part.reasoning = "hm";
  part.calls = {{"abc123def", "look", R"({"at":1})"}};
  part.calls_before = 2;
  part.finish_reason = "tool_calls";
  const json::value call = {{"id", "abc123def"},
                            {"type", "function"},
                            {"function", {{"name", "look"}, {"arguments", R"({"at":1})"}}}};
  const json::value whole = json::parse(whole_answer_json(kChatHead, {part}, {1, 2, 0}));
  const json::value& message = whole.at("choices").at(0).at("message");
  CHECK(message.at("content").is_null());
  CHECK(message.at("reasoning_content") == "hm");
  CHECK(message.at("tool_calls") == json::array{call});
  CHECK(whole.at("choices").at(0).at("finish_reason") == "tool_calls");

  const json::value chunk = json::parse(chunk_json(kChatHead, part, false, false));
  json::object numbered = call.as_object();
  numbered["index"] = 2;
  CHECK(chunk.at("choices").at(0).at("delta") ==
        json::object{{"reasoning_content", "hm"}, {"tool_calls", json::array{numbered}}});
}

TEST_CASE("an error is an object that names the field") {
  const json::value error = json::parse(to_json(ApiError{400, "n: too many", "n", "", 0}));
  CHECK(error.at("error").at("message") == "n: too many");
  CHECK(error.at("error").at("type") == "invalid_request_error");
  CHECK(error.at("error").at("param") == "n");
  CHECK(error.at("error").at("code").is_null());
  CHECK(to_api_error({Errc::kQueueFull, "full"}).status == 429);
  CHECK(to_api_error({Errc::kQueueFull, "full"}).retry_after_s == 1);
  CHECK(to_api_error({Errc::kQueueFull, "full"}, 17).retry_after_s == 17);
  CHECK(to_api_error({Errc::kDeadline, "late"}).status == 504);
  CHECK(to_api_error({Errc::kTimeout, "no answer from node attic"}).status == 503);
  CHECK(to_api_error({Errc::kContextFull, "long"}).code == "context_length_exceeded");
  const ApiError lost = to_api_error({Errc::kPeerLost, "node attic at 10.0.0.7 is lost"});
  CHECK(lost.status == 503);
  CHECK(lost.message.find("attic") == std::string::npos);
}

TEST_CASE("bytes that are not UTF-8 become replacement characters") {
  CHECK(to_valid_utf8("a\xC3\xA9") == "a\xC3\xA9");
  CHECK(to_valid_utf8("\xFF"
                      "a\xE2\x82") ==
        "\xEF\xBF\xBD"
        "a\xEF\xBF\xBD");
  CHECK(to_valid_utf8("") == "");
}

TEST_CASE("a stop string ends the text wherever its pieces are cut") {
  const std::string text = "one two three\n\nfour";
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    CAPTURE(piece);
    CHECK(filtered(text, piece, {"\n\n"}) == std::pair(std::string("one two three"), true));
    CHECK(filtered(text, piece, {"three", "two"}) == std::pair(std::string("one "), true));
    CHECK(filtered(text, piece, {"wo thx", "ee"}) == std::pair(std::string("one two thr"), true));
    // The one that is complete first wins; of two that end together the longer.
    CHECK(filtered(text, piece, {"two three", "o t"}) == std::pair(std::string("one tw"), true));
    CHECK(filtered(text, piece, {"o", "two"}) == std::pair(std::string(""), true));
    CHECK(filtered(text, piece, {"wo", "two"}) == std::pair(std::string("one "), true));
    CHECK(filtered(text, piece, {"five", "r\n\n\n"}) == std::pair(text, false));
    CHECK(filtered(text, piece, {}) == std::pair(text, false));
  }
}

TEST_CASE("only what may begin a stop string is held back") {
  StopFilter filter({"###"});
  CHECK(filter.push("ab#") == "ab");
  CHECK(filter.push("#") == "");
  CHECK(filter.push("c") == "##c");
  CHECK(filter.push("##") == "");
  CHECK(filter.finish() == "##");
  StopFilter stopped({"x"});
  CHECK(stopped.push("axb") == "a");
  CHECK(stopped.push("c") == "");
  CHECK(stopped.finish() == "");
}

}  // namespace shoal::test
