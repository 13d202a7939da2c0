#include "model/vocabulary.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/printable.h"

namespace shoal {
namespace {

// Texts that end a generation whatever id the file names: several published files carry a wrong eos id.
constexpr std::string_view kEndTexts[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<eos>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
};

// Marks inside an answer (gpt-oss), which are part of its text.
constexpr std::string_view kShownTexts[] = {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"};

// Phi-3's control tokens that keep the spaces after them.
constexpr std::string_view kKeepsSpacesAfter[] = {"<unk>", "<s>", "<|endoftext|>"};

// Fill-in-the-middle: padding and the marks between repositories and files end a generation; the others are
// only control tokens. The first of its kind in the vocabulary counts.
constexpr std::string_view kFimEndTexts[][5] = {
    {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"},
    {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"},
    {"<|file_sep|>"},
};
constexpr std::string_view kFimControlTexts[][8] = {
    {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
     "<|code_prefix|>", "<|prefix|>"},
    {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
     "<|suffix|>"},
    {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
     "<|middle|>"},
};

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

int Vocabulary::byte_value(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
  const int high = hex_digit(text[3]), low = hex_digit(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

Vocabulary::Vocabulary(VocabData data) : data_(std::move(data)) {
  index_tokens();
  resolve_ids();
  find_control_and_end();
  find_stripping();
}

int32_t Vocabulary::find(std::string_view text) const {
  const auto it = index_.find(text);
  return it == index_.end() ? -1 : it->second;
}

int32_t Vocabulary::find_byte(uint8_t byte) const {
  static constexpr char kHex[] = "0123456789ABCDEF";
  const char text[] = {'<', '0', 'x', kHex[byte >> 4], kHex[byte & 15], '>'};
  const int32_t id = find(std::string_view(text, sizeof(text)));
  const char raw = static_cast<char>(byte);
  return id >= 0 ? id : find(std::string_view(&raw, 1));
}

void Vocabulary::index_tokens() {
  const size_t n = data_.tokens.size();
  if (n == 0) throw SetupError(vocabulary_key("tokens") + " is empty: the model file has no vocabulary");
  if (n > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    throw SetupError(vocabulary_key("tokens") + " has " + std::to_string(n) +
                     " entries: more than token ids can number");
  }
  const auto check_length = [&](const char* name, size_t length) {
    if (length != 0 && length != n) {
      throw SetupError(vocabulary_key(name) + " has " + std::to_string(length) + " entries but " +
                       vocabulary_key("tokens") + " has " + std::to_string(n) +
                       ": the model file is damaged, download or convert it again");
    }
  };
  check_length("scores", data_.scores.size());
  check_length("token_type", data_.types.size());
  if (data_.types.empty()) data_.types.assign(n, TokenType::kNormal);

  index_.reserve(n);
  for (size_t id = 0; id < n; ++id) {
    std::string& text = data_.tokens[id];
    if (text.empty()) text = "[EMPTY_" + std::to_string(id) + "]";
    if (const auto [it, inserted] = index_.emplace(text, static_cast<int32_t>(id)); !inserted) {
      throw SetupError(vocabulary_key("tokens") + ": tokens " + std::to_string(it->second) + " and " +
                       std::to_string(id) + " have the same text " + in_quotes(text, 80) +
                       ": the vocabulary is ambiguous");
    }
    longest_text_ = std::max(longest_text_, text.size());
    if (data_.types[id] == TokenType::kByte && byte_value(text) < 0) {
      throw SetupError(vocabulary_key("tokens") + ": token " + std::to_string(id) +
                       " is of type byte but its text " + in_quotes(text, 80) + " is not of the form <0xHH>");
    }
    if (!data_.scores.empty() && std::isnan(data_.scores[id])) {
      throw SetupError(vocabulary_key("scores") + ": the score of token " + std::to_string(id) +
                       " is not a number");
    }
  }
}

void Vocabulary::resolve_ids() {
  const auto check = [&](const char* name, int64_t id) {
    if (id < -1 || id >= size()) {
      throw SetupError(vocabulary_key(name) + " is " + std::to_string(id) + " but the vocabulary has " +
                       std::to_string(size()) + " tokens");
    }
    return static_cast<int32_t>(id);
  };
  bos_ = check("bos_token_id", data_.bos);
  eos_ = check("eos_token_id", data_.eos);
  unknown_ = check("unknown_token_id", data_.unknown);
  separator_ = check("seperator_token_id", data_.separator);  // the key is spelled so
  padding_ = check("padding_token_id", data_.padding);
  check("eot_token_id", data_.eot);
  check("eom_token_id", data_.eom);
  const auto default_to = [&](int32_t& id, int32_t usual) {
    if (id < 0 && usual < size()) id = usual;
  };
  // What the kinds' models have used since the first of each, where a file does not say.
  if (data_.model == "llama") {
    default_to(unknown_, 0);
    default_to(bos_, 1);
    default_to(eos_, 2);
  } else if (data_.model == "t5") {
    default_to(padding_, 0);
    default_to(eos_, 1);
    default_to(unknown_, 2);
  } else if (data_.model == "bert") {
    default_to(padding_, 0);
    default_to(unknown_, 100);
    default_to(bos_, 101);
    default_to(separator_, 102);
  }
}

void Vocabulary::find_control_and_end() {
  const size_t n = data_.tokens.size();
  control_.assign(n, false);
  mergeable_.assign(n, false);
  end_.assign(n, false);
  shown_.assign(n, false);
  for (size_t id = 0; id < n; ++id) {
    const TokenType type = data_.types[id];
    control_[id] = type == TokenType::kControl || type == TokenType::kUnknown;
    mergeable_[id] = !control_[id] && type != TokenType::kByte;
  }
  for (const int64_t id : {data_.eos, data_.eot, data_.eom, static_cast<int64_t>(eos_)}) {
    if (id >= 0) end_[id] = true;
  }
  for (const auto text : kEndTexts) {
    if (const int32_t id = find(text); id >= 0) control_[id] = end_[id] = true;
  }
  for (const auto& texts : kFimEndTexts) {
    for (const auto text : texts) {
      if (const int32_t id = text.empty() ? -1 : find(text); id >= 0) {
        control_[id] = end_[id] = true;
        break;
      }
    }
  }
  for (const auto& texts : kFimControlTexts) {
    for (const auto text : texts) {
      if (const int32_t id = find(text); id >= 0) {
        control_[id] = true;
        break;
      }
    }
  }
  correct_harmony_ends();
  for (size_t id = 0; id < n; ++id) {
    if (control_[id] || data_.types[id] == TokenType::kUserDefined)
      specials_.push_back(static_cast<int32_t>(id));
  }
  std::stable_sort(specials_.begin(), specials_.end(),
                   [&](int32_t a, int32_t b) { return text(a).size() > text(b).size(); });
}

// Vocabularies in which some of the texts above mean something else.
void Vocabulary::correct_harmony_ends() {
  const auto ends = [&](std::string_view text) {
    const int32_t id = find(text);
    return id >= 0 && end_[id];
  };
  const auto show = [&](std::string_view text) {
    if (const int32_t id = find(text); id >= 0) shown_[id] = true;
  };
  for (const auto text : kShownTexts) show(text);
  // Where an answer has parts of its own ends, <|end|> only ends a part.
  const bool call = ends("<|call|>") || ends("<|calls|>");
  if (const int32_t id = find("<|end|>"); id >= 0 && call && (ends("<|return|>") || ends("<|flush|>"))) {
    end_[id] = false;
    show("<|end|>");
  }
  // Gemma 4 and PLaMo know </s> as a piece of HTML.
  if (const int32_t id = find("</s>"); id >= 0 && (ends("<|tool_response>") || ends("<|plamo:eos|>"))) {
    data_.types[id] = TokenType::kNormal;
    control_[id] = end_[id] = false;
    mergeable_[id] = true;
  }
}

void Vocabulary::find_stripping() {
  strips_after_.assign(data_.tokens.size(), false);
  if (!data_.strips_after_control) return;
  for (const int32_t id : specials_) strips_after_[id] = true;
  if (const int32_t id = find("</s>"); id >= 0) strips_after_[id] = true;
  for (const auto text : kKeepsSpacesAfter) {
    if (const int32_t id = find(text); id >= 0) strips_after_[id] = false;
  }
}

}  // namespace shoal
