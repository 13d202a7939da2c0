// Splits text into the words that byte-level BPE merges within.
//
// tokenizer.ggml.pre names the convention a vocabulary was trained with. The names fall into groups
// (pretokenizer_table.cc), each one or more regular expressions applied in turn: every expression splits the
// pieces that the one before left, and what it does not match stays as a piece of its own. The expressions
// are those of the models' published tokenizer.json files as llama.cpp groups them. Immutable; safe from
// several threads.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace shoal {

class PreTokenizer {
 public:
  // Throws SetupError on a name that is not known: names it and lists the known. "" stands for "default",
  // with a warning.
  explicit PreTokenizer(const std::string& name);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  std::string_view name() const;   // as the file says
  std::string_view group() const;  // of the names that split alike
  // A word that is a token as a whole is taken without merging.
  bool ignore_merges() const;
  // Whether BOS is prepended where the file does not say.
  bool adds_bos() const;
  bool strips_before_mask() const;  // spaces before the token <mask> are dropped

  // Ends of the words of `text`, ascending, the last being text.size(). `text` comes from
  // normalise_lenient().
  std::vector<size_t> split(std::string_view text, bool has_surrogates) const;

  static std::vector<std::string> known_names();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal
