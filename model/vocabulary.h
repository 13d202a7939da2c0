// The vocabulary of a tokenizer: token texts, types, special ids and what follows from them.
//
// VocabData is the plain content of a file's tokenizer.ggml.* keys; Vocabulary is that content checked and
// indexed. Immutable after construction, safe from several threads. Types and keys: the GGUF specification,
// "Tokenizer".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/gguf_file.h"

namespace shoal {

// Values of tokenizer.ggml.token_type.
enum class TokenType : uint8_t {
  kUndefined = 0,
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// "tokenizer.ggml.NAME".
inline std::string vocabulary_key(std::string_view name) {
  return "tokenizer.ggml." + std::string(name);
}

struct VocabData {
  std::string model;                // tokenizer.ggml.model: "gpt2", "llama", "t5" or "bert"
  std::string pre;                  // tokenizer.ggml.pre; empty if the file has none
  std::vector<std::string> tokens;  // [n_vocab]
  std::vector<float> scores;        // [n_vocab] or empty
  std::vector<TokenType> types;     // [n_vocab] or empty: all normal
  std::vector<std::string> merges;  // "left right", best first; BPE only
  // Ids as the file gives them; -1 where it does not.
  int64_t bos = -1, eos = -1, eot = -1, eom = -1, unknown = -1, separator = -1, padding = -1;
  // Flags: -1 where the file does not say, else 0 or 1.
  int add_bos = -1, add_eos = -1, add_sep = -1, add_space_prefix = -1;
  int remove_extra_whitespaces = -1;        // "t5": runs of spaces count as one
  int lower_case = -1, strip_accents = -1;  // "bert"
  // Control tokens swallow the spaces after them, as Phi-3's do; no key says so.
  bool strips_after_control = false;
  std::string charsmap;  // "t5": precompiled_charsmap, see model/charsmap.h

  // Throws SetupError when a key is absent or of the wrong type.
  static VocabData read(const GgufFile& file);
};

class Vocabulary {
 public:
  // Throws SetupError: unequal lengths, duplicate texts, ids outside the vocabulary, malformed byte tokens,
  // NaN scores.
  explicit Vocabulary(VocabData data);
  Vocabulary(const Vocabulary&) = delete;  // index_ refers to data_.tokens
  Vocabulary& operator=(const Vocabulary&) = delete;

  const VocabData& data() const { return data_; }
  int32_t size() const { return static_cast<int32_t>(data_.tokens.size()); }
  int32_t find(std::string_view text) const;  // -1 if absent
  // The token for a byte: "<0x0A>" or, where there is none, the byte itself; -1 if absent.
  int32_t find_byte(uint8_t byte) const;
  const std::string& text(int32_t id) const { return data_.tokens[id]; }
  float score(int32_t id) const { return data_.scores.empty() ? 0.0f : data_.scores[id]; }
  TokenType type(int32_t id) const { return data_.types[id]; }
  size_t longest_text() const { return longest_text_; }

  // Matched only in trusted text: control and unknown tokens, and those whose text marks an end.
  bool is_control(int32_t id) const { return control_[id]; }
  // Not part of the text that a reader sees: control tokens but for those that structure an answer.
  bool is_hidden(int32_t id) const { return control_[id] && !shown_[id]; }
  // May come out of merging ordinary text: not control, unknown or byte.
  bool is_mergeable(int32_t id) const { return mergeable_[id]; }
  bool is_end_of_generation(int32_t id) const { return end_[id]; }
  // A special token in a text swallows the ASCII spaces after it, or before it.
  bool strips_after(int32_t id) const { return strips_after_[id]; }
  bool strips_before(int32_t id) const { return id == strips_before_; }
  void set_strips_before(int32_t id) { strips_before_ = id; }
  // Tokens matched whole before anything else, longest text first.
  const std::vector<int32_t>& specials() const { return specials_; }

  int32_t bos() const { return bos_; }
  int32_t eos() const { return eos_; }
  int32_t unknown() const { return unknown_; }
  int32_t separator() const { return separator_; }
  int32_t padding() const { return padding_; }
  // The byte a token of type byte stands for ("<0x0A>"); -1 for other texts.
  static int byte_value(std::string_view text);

 private:
  void index_tokens();
  void resolve_ids();
  void find_control_and_end();
  void correct_harmony_ends();
  void find_stripping();

  VocabData data_;
  std::unordered_map<std::string_view, int32_t> index_;
  std::vector<bool> control_, mergeable_, end_, shown_, strips_after_;
  int32_t strips_before_ = -1;
  std::vector<int32_t> specials_;
  size_t longest_text_ = 0;
  int32_t bos_ = -1, eos_ = -1, unknown_ = -1, separator_ = -1, padding_ = -1;
};

}  // namespace shoal
