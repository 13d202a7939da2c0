// SentencePiece byte-pair encoding (Kudo and Richardson 2018) as Llama's vocabularies use it: adjacent
// symbols merge where their joint text is a token, the best score first, the leftmost of equals; what is no
// token in the end is written byte by byte as <0xHH>. Immutable; safe from several threads with an SpmScratch
// each.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/vocabulary.h"

namespace shoal {

inline constexpr std::string_view kSpmSpace = "\xE2\x96\x81";  // U+2581, written for a space

struct SpmScratch {
  struct Symbol {
    uint32_t offset, length;  // bytes of the text; length 0: merged into its left neighbour
    int32_t prev, next;
  };
  struct Candidate {
    float score;
    int32_t left, right;
    uint32_t length;  // of both together when the pair was found
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

class SentencePieceEncoder {
 public:
  // `vocabulary` must outlive the encoder.
  explicit SentencePieceEncoder(const Vocabulary& vocabulary);

  // Appends the tokens of `text`, whose spaces have been written as kSpmSpace.
  void encode(std::string_view text, SpmScratch& scratch, std::vector<int32_t>& out) const;

 private:
  void encode_part(std::string_view text, SpmScratch& scratch, std::vector<int32_t>& out) const;
  void emit(std::string_view symbol, std::vector<int32_t>& out) const;

  const Vocabulary* vocabulary_;
  int32_t byte_tokens_[256];  // -1 where the vocabulary has none
};

// `text` with every space written as kSpmSpace, and back.
std::string escape_spaces(std::string_view text);
std::string unescape_spaces(std::string_view text);

}  // namespace shoal
