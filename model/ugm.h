// The unigram tokenizer (Kudo 2018, "Subword Regularization"; T5's vocabularies): of all ways to cut a text
// into tokens the one whose scores add up highest, found by Viterbi's algorithm, on text normalised as
// SentencePiece does it. Immutable; safe from several threads with a UgmScratch each.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/charsmap.h"
#include "model/vocabulary.h"

namespace shoal {

struct UgmScratch {
  struct Best {  // of all ways to reach a position
    double score;
    int32_t token;   // its last token; unknown() where no token covers the character
    uint32_t begin;  // of the last token
  };
  std::string text;        // normalised
  std::vector<Best> best;  // [text.size() + 1]
};

class UnigramEncoder {
 public:
  // `vocabulary` must outlive the encoder. Throws SetupError on a damaged normalisation table.
  UnigramEncoder(const Vocabulary& vocabulary, bool add_space_prefix, bool merge_spaces);

  // Appends the tokens of `text`. A run of characters without a token becomes one unknown token, or its bytes
  // where the vocabulary has byte tokens.
  void encode(std::string_view text, UgmScratch& scratch, std::vector<int32_t>& out) const;

  // SentencePiece's normalisation: the table's replacements, U+FFFD for each byte that is not UTF-8, U+2581
  // for spaces.
  std::string normalise(std::string_view text) const;

 private:
  void encode_part(UgmScratch& scratch, std::vector<int32_t>& out) const;
  void offer_tokens(std::string_view text, size_t begin, UgmScratch& scratch) const;
  void emit_unknown(std::string_view text, std::vector<int32_t>& out) const;

  const Vocabulary* vocabulary_;
  CharsMap charsmap_;
  bool add_space_prefix_, merge_spaces_;
  double unknown_score_;
  std::vector<int32_t> by_text_;   // tokens that text may become, ascending by text
  uint32_t first_byte_[257] = {};  // by_text_[first_byte_[b], first_byte_[b + 1]) begin with byte b
  int32_t byte_tokens_[256] = {};  // -1 where the vocabulary has none
  bool has_all_bytes_ = true;
};

}  // namespace shoal
