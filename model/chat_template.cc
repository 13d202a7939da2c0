#include "model/chat_template.h"

#include <algorithm>
#include <array>
#include <optional>

#include "base/error.h"
#include "model/utf8.h"

namespace shoal {
namespace {

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

std::string unescape(std::string_view literal) {
  std::string out;
  for (size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size()) {
      out += literal[i];
      continue;
    }
    const char escaped = literal[++i];
    out += escaped == 'n' ? '\n' : escaped == 't' ? '\t' : escaped == 'r' ? '\r' : escaped;
  }
  return out;
}

bool opens_block(std::string_view two) {
  return two == "{{" || two == "{%" || two == "{#";
}

// The texts that a Jinja template may write as they stand: string literals inside {{ }} and {% %}, and what
// is outside.
std::vector<std::string> written_texts(std::string_view jinja) {
  std::vector<std::string> texts;
  size_t at = 0;
  while (at < jinja.size()) {
    size_t open = at;
    while (open < jinja.size() && !opens_block(jinja.substr(open, 2))) ++open;
    if (open > at) texts.emplace_back(jinja.substr(at, open - at));
    if (open == jinja.size()) break;
    const char kind = jinja[open + 1];
    const std::string_view close = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
    at = open + 2;
    while (at < jinja.size() && !jinja.substr(at).starts_with(close)) {
      const char quote = jinja[at++];
      if (kind == '#' || (quote != '\'' && quote != '"')) continue;
      const size_t begin = at;
      while (at < jinja.size() && jinja[at] != quote) at += jinja[at] == '\\' ? 2 : 1;
      at = std::min(at, jinja.size());
      texts.push_back(unescape(jinja.substr(begin, at - begin)));
      at = std::min(at + 1, jinja.size());
    }
    at = std::min(at + close.size(), jinja.size());
  }
  return texts;
}

// The text between `open` and `end` in one of the written texts; `end` may be missing where the end marker is
// not part of the literal.
std::string find_default_system(const std::vector<std::string>& texts, std::string_view open,
                                std::string_view end, bool end_may_be_missing) {
  for (const std::string& text : texts) {
    const size_t begin = text.find(open);
    if (begin == std::string::npos) continue;
    const std::string_view rest = std::string_view(text).substr(begin + open.size());
    const size_t length = rest.find(end);
    if (length == std::string_view::npos && !end_may_be_missing) continue;
    if (const std::string_view found = rest.substr(0, length); !found.empty()) return std::string(found);
  }
  return {};
}

bool trims_content(std::string_view jinja) {
  std::string dense;
  std::copy_if(jinja.begin(), jinja.end(), std::back_inserter(dense), [](char c) { return c != ' '; });
  for (const std::string_view form : {"content']|trim", "content\"]|trim", "content|trim"}) {
    if (contains(dense, form)) return true;
  }
  return false;
}

// What ends a Zephyr turn, or nothing if the expression that writes the user's turn ends it otherwise.
std::optional<std::string> zephyr_end(std::string_view jinja, std::string_view eos_text) {
  const size_t user = jinja.find("<|user|>");
  if (user == std::string_view::npos) return {};
  const size_t close = jinja.find("{%", user);
  const std::string_view turn = jinja.substr(user, close == std::string_view::npos ? close : close - user);
  if (contains(turn, "eos_token")) return std::string(eos_text);
  for (const std::string_view marker : {"</s>", "<|endoftext|>"}) {
    if (contains(turn, marker)) return std::string(marker);
  }
  return {};
}

// Markers that name families this program does not render, for the error message.
std::string markers_seen(std::string_view jinja) {
  std::string seen;
  size_t count = 0;
  const auto add = [&](std::string_view marker) {
    if (count >= 8 || contains(seen, marker)) return;
    seen += (seen.empty() ? "" : " ") + std::string(marker);
    ++count;
  };
  for (const std::string_view known :
       {"[INST]", "<start_of_turn>", "[gMASK]", "<s>", "### Instruction", "<｜User｜>", "<|im_sep|>"}) {
    if (contains(jinja, known)) add(known);
  }
  for (size_t at = jinja.find("<|"); at != std::string_view::npos; at = jinja.find("<|", at + 2)) {
    const std::string_view near = jinja.substr(at, 42);
    if (const size_t end = near.find("|>"); end != std::string_view::npos) add(near.substr(0, end + 2));
  }
  return seen;
}

// As Python's str.strip(), which Jinja's trim filter calls.
bool is_python_space(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::string_view trim(std::string_view text) {
  size_t begin = text.size(), end = 0;
  for (size_t at = 0, length = 0; at < text.size(); at += length) {
    if (is_python_space(decode_lenient(text.substr(at), length))) continue;
    begin = std::min(begin, at);
    end = at + length;
  }
  return begin < end ? text.substr(begin, end - begin) : std::string_view();
}

class PieceWriter {
 public:
  void write(std::string_view text, bool trusted) {
    if (text.empty()) return;
    if (!pieces_.empty() && pieces_.back().trusted == trusted) {
      pieces_.back().text += text;
    } else {
      pieces_.push_back({std::string(text), trusted});
    }
  }
  std::vector<PromptPiece> take() { return std::move(pieces_); }

 private:
  std::vector<PromptPiece> pieces_;
};

}  // namespace

ChatTemplate ChatTemplate::recognise(std::string_view jinja, std::string_view model_name,
                                     std::string_view eos_text) {
  const std::string way_out =
      "; known families: ChatML, Llama 3, Zephyr. Use --raw to send the prompt as it is, without a chat "
      "template";
  const std::string model =
      model_name.empty() ? std::string("the model") : "model '" + std::string(model_name) + "'";
  if (jinja.empty()) {
    throw SetupError(model + " has no chat template (tokenizer.chat_template): it may not be a chat model" +
                     way_out);
  }
  const std::vector<std::string> texts = written_texts(jinja);
  ChatTemplate result;
  result.trims_content_ = trims_content(jinja);
  if (contains(jinja, "<|im_start|>") && contains(jinja, "<|im_end|>") && !contains(jinja, "<|im_sep|>")) {
    result.family_ = Family::kChatMl;
    result.end_of_turn_ = "<|im_end|>";
    result.default_system_ = find_default_system(texts, "<|im_start|>system\n", "<|im_end|>", false);
    return result;
  }
  if (contains(jinja, "<|start_header_id|>") && contains(jinja, "<|eot_id|>")) {
    result.family_ = Family::kLlama3;
    result.end_of_turn_ = "<|eot_id|>";
    result.default_system_ =
        find_default_system(texts, "<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>", false);
    return result;
  }
  // Other families write <|user|> too: Phi-3 ends turns with <|end|>, GLM-4 begins with [gMASK].
  const auto end =
      contains(jinja, "<|end|>") || contains(jinja, "[gMASK]") || !contains(jinja, "<|assistant|>")
          ? std::nullopt
          : zephyr_end(jinja, eos_text);
  if (end && !end->empty()) {
    result.family_ = Family::kZephyr;
    result.end_of_turn_ = *end;
    result.default_system_ = find_default_system(texts, "<|system|>\n", *end, true);
    return result;
  }
  const std::string seen = markers_seen(jinja);
  throw SetupError(model + " has a chat template of a family not known" +
                   (seen.empty() ? std::string() : " (it writes " + seen + ")") + way_out);
}

std::string_view ChatTemplate::family() const {
  switch (family_) {
    case Family::kChatMl:
      return "ChatML";
    case Family::kLlama3:
      return "Llama 3";
    case Family::kZephyr:
      return "Zephyr";
  }
  return {};
}

std::vector<PromptPiece> ChatTemplate::render(const std::vector<ChatMessage>& messages) const {
  struct Form {
    std::string_view before_role, after_role, after_turn;
  };
  const Form form = family_ == Family::kChatMl   ? Form{"<|im_start|>", "\n", "\n"}
                    : family_ == Family::kLlama3 ? Form{"<|start_header_id|>", "<|end_header_id|>\n\n", ""}
                                                 : Form{"<|", "|>\n", "\n"};
  PieceWriter writer;
  const auto open_turn = [&](std::string_view role) {
    const bool known = role == "system" || role == "user" || role == "assistant";
    // Zephyr's marker is made of the role: a role that is not the template's own makes no marker.
    const bool marker_trusted = known || family_ != Family::kZephyr;
    writer.write(form.before_role, marker_trusted);
    writer.write(role, known);
    writer.write(form.after_role, marker_trusted);
  };
  const auto close_turn = [&] {
    writer.write(end_of_turn_, true);
    writer.write(form.after_turn, true);
  };
  if (!default_system_.empty() && !messages.empty() && messages.front().role != "system") {
    open_turn("system");
    writer.write(default_system_, true);
    close_turn();
  }
  for (const ChatMessage& message : messages) {
    open_turn(message.role);
    writer.write(trims_content_ ? trim(message.content) : std::string_view(message.content), false);
    close_turn();
  }
  open_turn("assistant");
  return writer.take();
}

}  // namespace shoal
