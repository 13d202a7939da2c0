#include "model/utf8.h"

namespace shoal {
namespace {

bool is_continuation(char byte) {
  return (static_cast<uint8_t>(byte) & 0xC0) == 0x80;
}

// Bytes that a lead byte announces; 0 for a byte that cannot lead.
size_t announced_length(uint8_t lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xC0) return 0;
  if (lead < 0xE0) return 2;
  if (lead < 0xF0) return 3;
  if (lead < 0xF8) return 4;
  return 0;
}

}  // namespace

void append_utf8(char32_t code_point, std::string& out) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | ((code_point >> shift) & 0x3F)); };
  if (code_point < 0x80) {
    out += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    out += static_cast<char>(0xC0 | (code_point >> 6));
    out += tail(0);
  } else if (code_point < 0x10000) {
    out += static_cast<char>(0xE0 | (code_point >> 12));
    out += tail(6);
    out += tail(0);
  } else {
    out += static_cast<char>(0xF0 | (code_point >> 18));
    out += tail(12);
    out += tail(6);
    out += tail(0);
  }
}

char32_t decode_lenient(std::string_view bytes, size_t& length) {
  const auto lead = static_cast<uint8_t>(bytes[0]);
  const size_t announced = announced_length(lead);
  length = 1;
  if (announced == 1) return lead;
  if (announced == 0 || announced > bytes.size()) return kReplacementCharacter;
  char32_t code_point = lead & (0x7F >> announced);
  for (size_t i = 1; i < announced; ++i) {
    if (!is_continuation(bytes[i])) return kReplacementCharacter;
    code_point = (code_point << 6) | (static_cast<uint8_t>(bytes[i]) & 0x3F);
  }
  if (code_point > 0x10FFFF) return kReplacementCharacter;
  length = announced;
  return code_point;
}

Utf8Prefix classify_utf8(std::string_view bytes, size_t& length) {
  const auto lead = static_cast<uint8_t>(bytes[0]);
  length = 1;
  if (lead < 0x80) return Utf8Prefix::kComplete;
  if (lead < 0xC2 || lead > 0xF4) return Utf8Prefix::kBroken;
  const size_t announced = announced_length(lead);
  // The second byte's range excludes overlong forms, surrogates and values above U+10FFFF (Unicode, table
  // 3-7).
  uint8_t low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (; length < announced; ++length) {
    if (length == bytes.size()) return Utf8Prefix::kUnfinished;
    const auto byte = static_cast<uint8_t>(bytes[length]);
    if (byte < low || byte > high) return Utf8Prefix::kBroken;
    low = 0x80;
    high = 0xBF;
  }
  return Utf8Prefix::kComplete;
}

bool is_valid_utf8(std::string_view bytes) {
  for (size_t at = 0, length = 0; at < bytes.size(); at += length) {
    if (classify_utf8(bytes.substr(at), length) != Utf8Prefix::kComplete) return false;
  }
  return true;
}

std::string normalise_lenient(std::string_view bytes, bool& has_surrogates) {
  has_surrogates = false;
  std::string out;
  out.reserve(bytes.size());
  for (size_t at = 0, length = 0; at < bytes.size(); at += length) {
    const char32_t code_point = decode_lenient(bytes.substr(at), length);
    has_surrogates |= code_point >= 0xD800 && code_point <= 0xDFFF;
    append_utf8(code_point, out);
  }
  return out;
}

}  // namespace shoal
