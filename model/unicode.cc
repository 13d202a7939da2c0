#include "model/unicode.h"

#include <algorithm>
#include <iterator>

#include "model/unicode_tables.h"

namespace shoal {
namespace {

// The last row whose first code point is not above `code`; nullptr if there is none.
template <class Row, size_t n, class First>
const Row* row_before(const Row (&rows)[n], char32_t code, First first) {
  const Row* after = std::upper_bound(std::begin(rows), std::end(rows), code,
                                      [&](char32_t value, const Row& row) { return value < first(row); });
  return after == std::begin(rows) ? nullptr : after - 1;
}

template <size_t n>
bool in_ranges(const CodeRange (&rows)[n], char32_t code) {
  const CodeRange* row = row_before(rows, code, [](const CodeRange& r) { return r.first; });
  return row != nullptr && code <= row->last;
}

// Hangul syllables decompose by arithmetic (Unicode, section 3.12).
constexpr char32_t kHangulFirst = 0xAC00, kHangulCount = 11172;
constexpr char32_t kLeadFirst = 0x1100, kVowelFirst = 0x1161, kTrailBefore = 0x11A7;
constexpr char32_t kVowels = 21, kTrails = 28;

}  // namespace

bool is_punctuation(char32_t code) {
  return in_ranges(kPunctuation, code);
}

bool is_nonspacing_mark(char32_t code) {
  return in_ranges(kNonspacingMarks, code);
}

bool is_control_or_format(char32_t code) {
  return in_ranges(kControls, code);
}

bool is_white_space(char32_t code) {
  return (code >= 0x9 && code <= 0xD) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
         code == 0x205F || code == 0x3000;
}

bool is_cjk_ideograph(char32_t code) {
  // As the tokenizers library has them: it leaves out U+2B820 to U+2B91F.
  static constexpr CodeRange kBlocks[] = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},
                                          {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F},
                                          {0x2B920, 0x2CEAF}, {0x2F800, 0x2FA1F}};
  return in_ranges(kBlocks, code);
}

char32_t to_lower(char32_t code) {
  const CaseRun* run = row_before(kLowerCase, code, [](const CaseRun& r) { return r.first; });
  if (run == nullptr || code > run->last || (code - run->first) % run->step != 0) return code;
  return static_cast<char32_t>(static_cast<int32_t>(code) + run->delta);
}

int decompose_without_marks(char32_t code, char32_t parts[3]) {
  if (code >= kHangulFirst && code < kHangulFirst + kHangulCount) {
    const char32_t index = code - kHangulFirst;
    parts[0] = kLeadFirst + index / (kVowels * kTrails);
    parts[1] = kVowelFirst + index % (kVowels * kTrails) / kTrails;
    parts[2] = kTrailBefore + index % kTrails;
    return index % kTrails == 0 ? 2 : 3;
  }
  const Parts* several = row_before(kParts, code, [](const Parts& r) { return r.code; });
  if (several != nullptr && several->code == code) {
    int n = 0;
    for (; n < 3 && several->parts[n] != 0; ++n) parts[n] = several->parts[n];
    return n;
  }
  const OnePart* one = row_before(kOnePart, code, [](const OnePart& r) { return r.code; });
  parts[0] = one != nullptr && one->code == code ? one->part : code;
  return is_nonspacing_mark(parts[0]) ? 0 : 1;
}

}  // namespace shoal
