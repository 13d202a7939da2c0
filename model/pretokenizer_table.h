// Which expressions split text under which value of tokenizer.ggml.pre, and the vocabulary's habits that go
// by that name. Constant data.
#pragma once

#include <span>
#include <string_view>

namespace shoal {

// What becomes of a piece that an expression matched.
enum class PieceCut : unsigned char {
  kNone,           // it is one piece
  kThreesFromEnd,  // groups of three characters, counted from its end
  kPowersOfTwo,    // its characters by 512, 256, ... 4, 2, 1, the most first
};

struct SplitStep {
  const char* expression;  // PCRE2, in UTF and UCP mode
  PieceCut cut = PieceCut::kNone;
};

struct PreTokenizerGroup {
  const char* name;
  SplitStep steps[6];  // applied in turn; unused ones have no expression
};

struct PreTokenizerName {
  const char* name;
  const char* group;
  bool ignore_merges = false;       // a word that is a token as a whole is taken without merging
  bool adds_bos = false;            // BOS is prepended where the file does not say
  bool strips_before_mask = false;  // spaces before the token <mask> are dropped
};

std::span<const PreTokenizerName> pre_tokenizer_names();
const PreTokenizerGroup& pre_tokenizer_group(std::string_view name);  // of the names' groups

}  // namespace shoal
