// Properties of characters that the WordPiece tokenizer normalises text by: those of Unicode's character
// database, in tables that tools/make_unicode_tables.py wrote. Pure functions. (The pre-tokenizers' classes
// are PCRE2's.)
#pragma once

#include <cstdint>

namespace shoal {

// Rows of the tables.
struct CodeRange {
  char32_t first, last;
};
struct CaseRun {
  char32_t first, last, step;
  int32_t delta;
};
struct OnePart {
  char32_t code, part;
};
struct Parts {
  char32_t code, parts[3];
};

bool is_punctuation(char32_t code);        // general category P
bool is_nonspacing_mark(char32_t code);    // general category Mn
bool is_control_or_format(char32_t code);  // general categories Cc, Cf, Co
bool is_white_space(char32_t code);        // property White_Space
bool is_cjk_ideograph(char32_t code);      // the blocks that BERT writes a space around

char32_t to_lower(char32_t code);  // simple mapping

// The canonical decomposition (NFD) of `code` without its nonspacing marks; returns how many characters were
// written.
int decompose_without_marks(char32_t code, char32_t parts[3]);

}  // namespace shoal
