#include "node/http/openai_response.h"

#include <boost/json.hpp>

#include "model/utf8.h"

namespace shoal {

namespace json = boost::json;

namespace {

json::array bytes_of(std::string_view text) {
  json::array bytes;
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

json::object token_json(const std::string& bytes, double logprob) {
  return {{"token", to_valid_utf8(bytes)}, {"logprob", logprob}, {"bytes", bytes_of(bytes)}};
}

json::value chat_logprobs(const ChoicePart& part) {
  json::array content;
  for (const TokenLogprob& token : part.logprobs) {
    json::object entry = token_json(token.bytes, token.logprob);
    json::array top;
    for (const auto& [bytes, logprob] : token.top) top.push_back(token_json(bytes, logprob));
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return json::object{{"content", std::move(content)}, {"refusal", nullptr}};
}

json::value text_logprobs(const ChoicePart& part) {
  json::array tokens, logprobs, tops, offsets;
  for (const TokenLogprob& token : part.logprobs) {
    tokens.push_back(json::string(to_valid_utf8(token.bytes)));
    logprobs.push_back(token.logprob);
    json::object top;
    for (const auto& [bytes, logprob] : token.top) top.emplace(to_valid_utf8(bytes), logprob);
    tops.push_back(std::move(top));
    offsets.push_back(token.character_offset);
  }
  return json::object{{"tokens", std::move(tokens)},
                      {"token_logprobs", std::move(logprobs)},
                      {"top_logprobs", std::move(tops)},
                      {"text_offset", std::move(offsets)}};
}

json::object choice_json(bool chat, const ChoicePart& part) {
  json::object choice{{"index", part.index}};
  if (!part.with_logprobs) {
    choice["logprobs"] = nullptr;
  } else {
    choice["logprobs"] = chat ? chat_logprobs(part) : text_logprobs(part);
  }
  choice["finish_reason"] =
      part.finish_reason.empty() ? json::value(nullptr) : json::value(part.finish_reason);
  return choice;
}

json::object head_json(const ResponseHead& head, const char* kind) {
  return {{"id", head.id},
          {"object", kind},
          {"created", head.created},
          {"model", head.model},
          {"system_fingerprint", head.fingerprint}};
}

json::object usage_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", json::object{{"cached_tokens", usage.cached_tokens}}}};
}

// `streamed`: each with its number, by which clients put deltas together.
json::array calls_json(const ChoicePart& part, bool streamed) {
  json::array calls;
  for (size_t i = 0; i < part.calls.size(); ++i) {
    json::object call;
    if (streamed) call["index"] = part.calls_before + static_cast<int>(i);
    call["id"] = part.calls[i].id;
    call["type"] = "function";
    call["function"] = json::object{{"name", part.calls[i].name}, {"arguments", part.calls[i].arguments}};
    calls.push_back(std::move(call));
  }
  return calls;
}

json::object message_json(const ChoicePart& part) {
  json::object message{{"role", "assistant"}, {"content", part.text}, {"refusal", nullptr}};
  if (!part.reasoning.empty()) message["reasoning_content"] = part.reasoning;
  if (part.calls.empty()) return message;
  if (part.text.empty()) message["content"] = nullptr;
  message["tool_calls"] = calls_json(part, /*streamed=*/false);
  return message;
}

const char* chunk_kind(bool chat) {
  return chat ? "chat.completion.chunk" : "text_completion";
}

}  // namespace

std::string whole_answer_json(const ResponseHead& head, const std::vector<ChoicePart>& choices,
                              const Usage& usage) {
  json::object answer = head_json(head, head.chat ? "chat.completion" : "text_completion");
  json::array list;
  for (const ChoicePart& part : choices) {
    json::object choice = choice_json(head.chat, part);
    if (head.chat) {
      choice["message"] = message_json(part);
    } else {
      choice["text"] = part.text;
    }
    list.push_back(std::move(choice));
  }
  answer["choices"] = std::move(list);
  answer["usage"] = usage_json(usage);
  return json::serialize(answer);
}

std::string chunk_json(const ResponseHead& head, const ChoicePart& part, bool opens, bool usage_follows) {
  json::object chunk = head_json(head, chunk_kind(head.chat));
  json::object choice = choice_json(head.chat, part);
  if (head.chat) {
    json::object delta;
    if (opens) delta["role"] = "assistant";
    if (opens || !part.text.empty()) delta["content"] = part.text;
    if (!part.reasoning.empty()) delta["reasoning_content"] = part.reasoning;
    if (!part.calls.empty()) delta["tool_calls"] = calls_json(part, /*streamed=*/true);
    choice["delta"] = std::move(delta);
  } else {
    choice["text"] = part.text;
  }
  chunk["choices"] = json::array{std::move(choice)};
  if (usage_follows) chunk["usage"] = nullptr;
  return json::serialize(chunk);
}

std::string usage_chunk_json(const ResponseHead& head, const Usage& usage) {
  json::object chunk = head_json(head, chunk_kind(head.chat));
  chunk["choices"] = json::array{};
  chunk["usage"] = usage_json(usage);
  return json::serialize(chunk);
}

std::string server_sent_event(std::string_view json) {
  std::string event = "data: ";
  event += json;
  event += "\n\n";
  return event;
}

std::string to_valid_utf8(std::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    size_t length = 0;
    if (classify_utf8(bytes, length) == Utf8Prefix::kComplete) {
      text += bytes.substr(0, length);
    } else {
      append_utf8(kReplacementCharacter, text);
    }
    bytes.remove_prefix(length);
  }
  return text;
}

}  // namespace shoal
