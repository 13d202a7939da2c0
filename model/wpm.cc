#include "model/wpm.h"

#include <algorithm>

#include "model/spm.h"
#include "model/unicode.h"
#include "model/utf8.h"

namespace shoal {
namespace {

// A longer word is unknown as a whole (BERT's max_input_chars_per_word).
constexpr size_t kWordCharactersMax = 100;

bool is_ascii_punctuation(char32_t code) {
  return (code >= 0x21 && code <= 0x2F) || (code >= 0x3A && code <= 0x40) || (code >= 0x5B && code <= 0x60) ||
         (code >= 0x7B && code <= 0x7E);
}

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char byte) { return (static_cast<uint8_t>(byte) & 0xC0) != 0x80; }));
}

// Collects words character by character.
class WordList {
 public:
  void end_word() {
    if (!word_.empty()) words_.push_back(std::move(word_));
    word_.clear();
  }
  void add(char32_t code) {
    const bool alone = is_ascii_punctuation(code) || is_punctuation(code);
    if (alone) end_word();
    append_utf8(code, word_);
    if (alone) end_word();
  }
  std::vector<std::string> take() {
    end_word();
    return std::move(words_);
  }

 private:
  std::vector<std::string> words_;
  std::string word_;
};

}  // namespace

std::vector<std::string> WordPieceEncoder::words(std::string_view text) const {
  WordList words;
  const auto add_lower = [&](char32_t code) {
    if (!lower_case_) return words.add(code);
    words.add(to_lower(code));
    if (code == 0x130) words.add(0x307);  // the only character whose lower case is two
  };
  for (size_t at = 0, length = 0; at < text.size(); at += length) {
    char32_t code = kReplacementCharacter;
    if (classify_utf8(text.substr(at), length) == Utf8Prefix::kComplete)
      code = decode_lenient(text.substr(at), length);
    const bool line_or_tab = code == '\t' || code == '\n' || code == '\r';
    if (code == kReplacementCharacter || (is_control_or_format(code) && !line_or_tab)) continue;
    if (is_white_space(code)) {
      words.end_word();
      continue;
    }
    const bool ideograph = is_cjk_ideograph(code);
    if (ideograph) words.end_word();
    if (strip_accents_) {
      char32_t parts[3];
      const int n = decompose_without_marks(code, parts);
      for (int i = 0; i < n; ++i) add_lower(parts[i]);
    } else {
      add_lower(code);
    }
    if (ideograph) words.end_word();
  }
  return words.take();
}

void WordPieceEncoder::encode(std::string_view text, std::vector<int32_t>& out) const {
  for (const std::string& word : words(text)) encode_word(word, out);
}

void WordPieceEncoder::encode_word(const std::string& word, std::vector<int32_t>& out) const {
  const size_t start = out.size();
  const std::string marked = std::string(kSpmSpace) + word;
  size_t begin = 0;
  if (count_characters(word) <= kWordCharactersMax) {
    while (begin < marked.size()) {
      // The mark alone is no beginning of a word.
      const size_t shortest = begin == 0 ? kSpmSpace.size() + 1 : 1;
      size_t length = std::min(marked.size() - begin, vocabulary_->longest_text());
      int32_t token = -1;
      for (; length >= shortest; --length) {
        const std::string_view text = std::string_view(marked).substr(begin, length);
        // A character U+2581 of the text itself is not the mark of a beginning.
        const bool marks_beginning = text.size() > kSpmSpace.size() && text.starts_with(kSpmSpace);
        token = begin > 0 && marks_beginning ? -1 : vocabulary_->find(text);
        if (token >= 0 && vocabulary_->is_mergeable(token)) break;
        token = -1;
      }
      if (token < 0) break;
      out.push_back(token);
      begin += length;
    }
  }
  if (begin < marked.size()) {
    out.resize(start);
    out.push_back(vocabulary_->unknown());
  }
}

}  // namespace shoal
