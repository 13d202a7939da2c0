// The WordPiece tokenizer (Devlin et al. 2019, BERT): text is cleaned, cut into words at spaces, punctuation
// and CJK ideographs, and each word into the longest tokens from its left. Normalisation and word cutting are
// those of BertNormalizer and BertPreTokenizer of Hugging Face's tokenizers. Immutable; safe from several
// threads.
//
// A GGUF file writes a token that begins a word with U+2581 before it and one that continues a word without
// the "##" of BERT's own files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/vocabulary.h"

namespace shoal {

class WordPieceEncoder {
 public:
  // `vocabulary` must outlive the encoder.
  WordPieceEncoder(const Vocabulary& vocabulary, bool lower_case, bool strip_accents)
      : vocabulary_(&vocabulary), lower_case_(lower_case), strip_accents_(strip_accents) {}

  // Appends the tokens of `text`; the unknown token for a word that they do not make up.
  void encode(std::string_view text, std::vector<int32_t>& out) const;

  std::vector<std::string> words(std::string_view text) const;

 private:
  void encode_word(const std::string& word, std::vector<int32_t>& out) const;

  const Vocabulary* vocabulary_;
  bool lower_case_, strip_accents_;
};

}  // namespace shoal
