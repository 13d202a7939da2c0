#include "base/printable.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>

namespace shoal {
namespace {

// Length of the valid UTF-8 sequence at text[i] and its code point, or 0 (RFC 3629).
size_t decode_utf8(std::string_view text, size_t i, uint32_t& code) {
  const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[k]); };
  const unsigned char lead = byte(i);
  if (lead < 0x80) {
    code = lead;
    return 1;
  }
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || i + length > text.size()) return 0;
  code = lead & (0xFF >> (length + 1));
  for (size_t k = 1; k < length; ++k) {
    if ((byte(i + k) & 0xC0) != 0x80) return 0;
    code = code << 6 | (byte(i + k) & 0x3F);
  }
  static constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  return code < kLeast[length] || code > 0x10FFFF || surrogate ? 0 : length;
}

// Controls (general category Cc), and of the format characters (Cf) those that reorder the text around them
// or show nothing, with the tags of plane 14 (Unicode 15, chapter 23). Joiners stay: words are written with
// them.
bool is_unsafe(uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0xAD || code == 0x061C || code == 0x180E ||
         code == 0x200B || code == 0x200E || code == 0x200F || (code >= 0x2028 && code <= 0x202E) ||
         (code >= 0x2060 && code <= 0x206F) || code == 0xFEFF || (code >= 0xFFF9 && code <= 0xFFFB) ||
         (code >= 0xE0000 && code <= 0xE007F);
}

}  // namespace

std::string printable(std::string_view text, size_t bytes_max) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    uint32_t code = 0;
    const size_t length = decode_utf8(text, i, code);
    if (i + std::max<size_t>(length, 1) > bytes_max) return out + "...";
    char escaped[16];
    if (length == 0) {
      std::snprintf(escaped, sizeof escaped, "\\x%02X", static_cast<unsigned char>(text[i]));
      out += escaped;
    } else if (code == '\n') {
      out += "\\n";
    } else if (code == '\t') {
      out += "\\t";
    } else if (is_unsafe(code)) {
      std::snprintf(escaped, sizeof escaped, code < 0x80 ? "\\x%02X" : "\\u{%04X}", code);
      out += escaped;
    } else {
      out.append(text, i, length);
    }
    i += std::max<size_t>(length, 1);
  }
  return out;
}

std::string in_quotes(std::string_view text, size_t bytes_max) {
  std::string out(1, '\'');
  out += printable(text, bytes_max);
  out += '\'';
  return out;
}

}  // namespace shoal
