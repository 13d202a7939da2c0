// Where one stands within the text of a JSON string or number (RFC 8259, sections 6 and 7), byte by byte.
// Small automata without memory of their own, for JsonMatcher. Pure functions.
#pragma once

#include <cstdint>

namespace shoal::json_text {

// clang-format off: a line a kind of state
enum TextState : uint8_t {
  kPlain,
  kMore1,
  kMore2,
  kMore3,  // continuation bytes to come
  kAfterE0,
  kAfterEd,
  kAfterF0,
  kAfterF4,  // whose next continuation byte has a narrower range
  kEscape,   // after a backslash; all that follow are within an escape too
  kHex4,
  kHexSurrogate,
  kHex3,
  kHex2,
  kHex1,  // digits to come; kHexSurrogate: three, after \ud
  kHigh2,
  kHigh1,  // of a high surrogate
  kLowEscape,
  kLowU,
  kLowD,
  kLowC,  // a low one must follow
  kBroken,
};
// clang-format on

// After one more byte; not for the quote that ends a string. Well-formed UTF-8 (Unicode, table 3-7) and
// paired surrogates alone.
TextState text_step(uint8_t state, uint8_t byte);

enum NumberState : uint8_t { kMinus, kZero, kDigits, kPoint, kFraction, kE, kSign, kExponent, kNoNumber };

bool is_digit(uint8_t byte);
bool may_end(uint8_t state);
// `digits`: so many the part has in which one stands (before the point, behind it, the exponent).
NumberState number_step(uint8_t state, uint8_t byte, uint32_t digits, bool integer);

}  // namespace shoal::json_text
