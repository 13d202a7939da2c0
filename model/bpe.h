// Byte-level byte-pair encoding (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
// section 2.2): a word's bytes are written in an alphabet of 256 printable characters and adjacent symbols
// are merged, the pair of best rank first, the leftmost of equals. Immutable; safe from several threads with
// a BpeScratch each.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "model/vocabulary.h"

namespace shoal {

// The printable character that stands for a byte, as UTF-8, and back: -1 for a character outside the
// alphabet.
std::string_view byte_to_symbol(uint8_t byte);
int symbol_to_byte(char32_t symbol);

// The bytes that a token text of the alphabet stands for. Characters outside it stand for themselves.
std::string decode_byte_symbols(std::string_view text);

// (left symbol, right symbol) -> merge, with open addressing.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank;
    int32_t result;
  };
  explicit MergeTable(size_t entries);
  void insert(int32_t left, int32_t right, Merge merge);  // the first of equal pairs stays
  const Merge* find(int32_t left, int32_t right) const;   // nullptr if absent

 private:
  struct Slot {
    uint64_t pair;
    Merge merge;
  };
  size_t slot_of(uint64_t pair) const;
  std::vector<Slot> slots_;  // a power of two of them, at most half used
  int shift_;
};

struct BpeScratch {
  struct Symbol {
    int32_t id;  // -1: merged into its left neighbour
    int32_t prev, next;
  };
  struct Candidate {
    uint32_t rank;
    int32_t left;               // index of the left symbol
    int32_t left_id, right_id;  // as they were when the pair was found
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
  std::string word;
};

class BytePairEncoder {
 public:
  // `vocabulary` must outlive the encoder. Throws SetupError on a malformed merge.
  BytePairEncoder(const Vocabulary& vocabulary, bool ignore_merges);

  // Appends the tokens of one word.
  void encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& out) const;

 private:
  int32_t intern(std::string_view text);
  bool encode_whole(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& out) const;
  void merge_short(std::string_view word, std::vector<int32_t>& out) const;
  void merge_long(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& out) const;
  void emit(int32_t symbol, std::vector<int32_t>& out) const;

  const Vocabulary* vocabulary_;
  bool ignore_merges_;
  // Symbols below vocabulary size are tokens; above are texts that only occur on the way to one.
  std::deque<std::string> extra_;
  std::unordered_map<std::string_view, int32_t> extra_index_;
  int32_t byte_symbols_[256];
  MergeTable merges_;
};

}  // namespace shoal
