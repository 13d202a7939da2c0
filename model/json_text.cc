#include "model/json_text.h"

#include <string_view>

namespace shoal::json_text {
namespace {

constexpr uint32_t kDigitsMax = 15;         // before the point, and behind it: doubles hold that many
constexpr uint32_t kExponentDigitsMax = 2;  // no infinities

int hex_value(uint8_t b) {
  if (is_digit(b)) return b - '0';
  const uint8_t lower = b | 0x20;
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

TextState lead_byte(uint8_t b) {
  if (b < 0x20 || b == '"') return kBroken;  // the quote is dealt with before
  if (b == '\\') return kEscape;
  if (b < 0x80) return kPlain;
  if (b >= 0xC2 && b <= 0xDF) return kMore1;
  if (b == 0xE0) return kAfterE0;
  if (b == 0xED) return kAfterEd;
  if (b >= 0xE1 && b <= 0xEF) return kMore2;
  if (b == 0xF0) return kAfterF0;
  if (b >= 0xF1 && b <= 0xF3) return kMore3;
  return b == 0xF4 ? kAfterF4 : kBroken;
}

TextState escaped(uint8_t b) {
  if (b == 'u') return kHex4;
  return std::string_view("\"\\/bfnrt").find(static_cast<char>(b)) != std::string_view::npos ? kPlain
                                                                                             : kBroken;
}

}  // namespace

bool is_digit(uint8_t b) {
  return b >= '0' && b <= '9';
}

TextState text_step(uint8_t state, uint8_t b) {
  const auto within = [b](uint8_t low, uint8_t high, TextState next) {
    return b >= low && b <= high ? next : kBroken;
  };
  const int hex = hex_value(b);
  const auto digit = [hex](TextState next) { return hex >= 0 ? next : kBroken; };
  switch (state) {
    case kPlain:
      return lead_byte(b);
    case kMore1:
      return within(0x80, 0xBF, kPlain);
    case kMore2:
      return within(0x80, 0xBF, kMore1);
    case kMore3:
      return within(0x80, 0xBF, kMore2);
    case kAfterE0:
      return within(0xA0, 0xBF, kMore1);
    case kAfterEd:
      return within(0x80, 0x9F, kMore1);
    case kAfterF0:
      return within(0x90, 0xBF, kMore2);
    case kAfterF4:
      return within(0x80, 0x8F, kMore2);
    case kEscape:
      return escaped(b);
    case kHex4:
      return hex == 13 ? kHexSurrogate : digit(kHex3);
    case kHexSurrogate:
      return hex < 0 || hex >= 12 ? kBroken : hex >= 8 ? kHigh2 : kHex2;
    case kHex3:
      return digit(kHex2);
    case kHex2:
      return digit(kHex1);
    case kHex1:
      return digit(kPlain);
    case kHigh2:
      return digit(kHigh1);
    case kHigh1:
      return digit(kLowEscape);
    case kLowEscape:
      return b == '\\' ? kLowU : kBroken;
    case kLowU:
      return b == 'u' ? kLowD : kBroken;
    case kLowD:
      return hex == 13 ? kLowC : kBroken;
    case kLowC:
      return hex >= 12 ? kHex2 : kBroken;
    default:
      return kBroken;
  }
}

bool may_end(uint8_t state) {
  return state == kZero || state == kDigits || state == kFraction || state == kExponent;
}

NumberState number_step(uint8_t state, uint8_t b, uint32_t digits, bool integer) {
  const bool e = !integer && (b == 'e' || b == 'E');
  const bool room = digits < (state == kExponent ? kExponentDigitsMax : kDigitsMax);
  switch (state) {
    case kMinus:
      return !is_digit(b) ? kNoNumber : b == '0' ? kZero : kDigits;
    case kDigits:
      if (is_digit(b)) return room ? kDigits : kNoNumber;
      [[fallthrough]];
    case kZero:
      return e ? kE : b == '.' && !integer ? kPoint : kNoNumber;
    case kPoint:
      return is_digit(b) ? kFraction : kNoNumber;
    case kFraction:
      return e ? kE : is_digit(b) && room ? kFraction : kNoNumber;
    case kE:
      if (b == '+' || b == '-') return kSign;
      [[fallthrough]];
    case kSign:
      return is_digit(b) ? kExponent : kNoNumber;
    case kExponent:
      return is_digit(b) && room ? kExponent : kNoNumber;
    default:
      return kNoNumber;
  }
}

}  // namespace shoal::json_text
