#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/template_text.h"

#include <pcre2.h>

#include <algorithm>
#include <memory>

#include "base/check.h"
#include "model/utf8.h"

namespace shoal::jinja {
namespace {

// Unicode's properties of one code point, from PCRE2's tables.
class CodePointTable {
 public:
  explicit CodePointTable(const char* expression) {
    int error = 0;
    size_t offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression), PCRE2_ZERO_TERMINATED,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &offset, nullptr));
    SHOAL_CHECK(code_ != nullptr);
  }
  bool matches(std::string_view character) const {
    const Data data(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
    return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(character.data()), character.size(), 0, 0,
                       data.get(), nullptr) > 0;
  }
  // `replacement` may change the case of what matched.
  std::string substitute(std::string_view character, const char* replacement) const {
    unsigned char out[16];
    size_t length = sizeof out;
    const int done =
        pcre2_substitute(code_.get(), reinterpret_cast<PCRE2_SPTR>(character.data()), character.size(), 0,
                         PCRE2_SUBSTITUTE_EXTENDED, nullptr, nullptr,
                         reinterpret_cast<PCRE2_SPTR>(replacement), PCRE2_ZERO_TERMINATED, out, &length);
    if (done < 0) return std::string(character);  // no UTF-8
    return {reinterpret_cast<const char*>(out), length};
  }

 private:
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  };
  using Data = std::unique_ptr<pcre2_match_data, Free>;
  std::unique_ptr<pcre2_code, Free> code_;
};

std::string upper(std::string_view character) {
  static const CodePointTable any("(?s).");
  if (character == "\u00DF") return "SS";
  return any.substitute(character, "\\U$0");
}

std::string lower(std::string_view character) {
  static const CodePointTable any("(?s).");
  return any.substitute(character, "\\L$0");
}

bool is_cased(std::string_view character) {
  static const CodePointTable cased(R"([\p{Lu}\p{Ll}\p{Lt}])");
  return cased.matches(character);
}

// Of a part of a text that was split, besides its own bytes.
constexpr size_t kPartBytes = sizeof(MarkedText) + 2 * sizeof(Value) + 32;

std::string_view character_at(std::string_view text, size_t at) {
  size_t length = 0;
  (void)decode_lenient(text.substr(at), length);
  return text.substr(at, length);
}

}  // namespace

std::vector<size_t> code_point_starts(std::string_view text) {
  std::vector<size_t> starts;
  starts.reserve(text.size() + 1);
  for (size_t at = 0; at < text.size(); at += character_at(text, at).size()) starts.push_back(at);
  starts.push_back(text.size());
  return starts;
}

size_t count_code_points(std::string_view text) {
  size_t count = 0;
  for (size_t at = 0; at < text.size(); at += character_at(text, at).size()) ++count;
  return count;
}

bool is_python_space(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_printable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  static const CodePointTable hidden(R"([\p{C}\p{Z}])");
  std::string character;
  append_utf8(c, character);
  return !hidden.matches(character);
}

MarkedText strip(const MarkedText& text, std::optional<std::string_view> chars, bool left, bool right) {
  const auto goes = [&](std::string_view character) {
    if (chars) return chars->find(character) != std::string_view::npos;
    size_t length = 0;
    return is_python_space(decode_lenient(character, length));
  };
  const std::string_view bytes = text.bytes;
  size_t begin = 0, end = bytes.size();
  while (left && begin < end && goes(character_at(bytes, begin))) begin += character_at(bytes, begin).size();
  while (right && begin < end) {
    size_t last = end - 1;
    while (last > begin && (static_cast<uint8_t>(bytes[last]) & 0xC0) == 0x80) --last;
    if (character_at(bytes.substr(0, end), last).size() != end - last) last = end - 1;
    if (!goes(bytes.substr(last, end - last))) break;
    end = last;
  }
  return text.substr(begin, end - begin);
}

std::vector<MarkedText> split(const MarkedText& text, std::string_view separator, int64_t most,
                              bool from_right, Budget& budget) {
  std::vector<MarkedText> parts;
  size_t begin = 0, end = text.size();
  for (; most != 0; --most) {
    budget.bytes(kPartBytes);
    const size_t at = from_right ? std::string_view(text.bytes).substr(0, end).rfind(separator)
                                 : text.bytes.find(separator, begin);
    if (at == std::string::npos) break;
    parts.push_back(from_right ? text.substr(at + separator.size(), end - at - separator.size())
                               : text.substr(begin, at - begin));
    if (from_right) {
      end = at;
    } else {
      begin = at + separator.size();
    }
  }
  budget.bytes(2 * text.size());
  parts.push_back(text.substr(begin, end - begin));
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<MarkedText> split_at_spaces(const MarkedText& text, int64_t most, bool from_right,
                                        Budget& budget) {
  budget.bytes(2 * text.size());
  std::vector<std::pair<size_t, size_t>> words;
  bool inside = false;
  for (size_t at = 0, length = 0; at < text.size(); at += length) {
    const bool space = is_python_space(decode_lenient(std::string_view(text.bytes).substr(at), length));
    if (!space && !inside) {
      budget.bytes(kPartBytes);
      words.emplace_back(at, at);
    }
    if (!space) words.back().second = at + length;
    inside = !space;
  }
  // What is beyond the last cut stays as it is, but for the spaces at the text's other end.
  if (most >= 0 && words.size() > static_cast<size_t>(most) + 1) {
    const auto cut = static_cast<ptrdiff_t>(from_right ? words.size() - static_cast<size_t>(most) : 0);
    if (from_right) {
      words[0] = {0, words[static_cast<size_t>(cut) - 1].second};
      words.erase(words.begin() + 1, words.begin() + cut);
    } else {
      words.resize(static_cast<size_t>(most) + 1);
      words.back().second = text.size();
    }
  }
  std::vector<MarkedText> parts;
  for (const auto& [begin, end] : words) parts.push_back(text.substr(begin, end - begin));
  return parts;
}

std::vector<MarkedText> split_lines(const MarkedText& text, bool keep_ends, Budget& budget) {
  budget.bytes(2 * text.size());
  std::vector<MarkedText> lines;
  size_t begin = 0;
  for (size_t at = 0, length = 0; at < text.size();) {
    const char32_t c = decode_lenient(std::string_view(text.bytes).substr(at), length);
    const bool ends =
        (c >= 0xA && c <= 0xD) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (ends && c == '\r' && at + 1 < text.size() && text.bytes[at + 1] == '\n') length = 2;
    if (ends) {
      budget.bytes(kPartBytes);
      lines.push_back(text.substr(begin, at - begin + (keep_ends ? length : 0)));
      begin = at + length;
    }
    at += length;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin, text.size() - begin));
  return lines;
}

MarkedText replace(const MarkedText& text, std::string_view from, const MarkedText& to, int64_t most,
                   Budget& budget) {
  MarkedText out;
  size_t at = 0;
  const auto put = [&] {
    budget.bytes(2 * to.size());
    out.append(to);
  };
  for (; most != 0; --most) {
    size_t match = 0;
    if (from.empty()) {  // before each code point and at the end
      if (at > text.size()) break;
      put();
      match = at < text.size() ? at + character_at(text.bytes, at).size() : at;
      if (at == text.size()) {
        at = text.size() + 1;
        break;
      }
      out.append(text.substr(at, match - at));
      at = match;
      continue;
    }
    match = text.bytes.find(from, at);
    if (match == std::string::npos) break;
    out.append(text.substr(at, match - at));
    put();
    at = match + from.size();
  }
  if (at < text.size()) out.append(text.substr(at, text.size() - at));
  return out;
}

MarkedText change_case(const MarkedText& text, Case to, Budget& budget) {
  budget.bytes(2 * text.size());
  MarkedText out;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const std::string_view character = character_at(text.bytes, at);
    const bool up =
        to == Case::kUpper || (to == Case::kCapitalise && at == 0) || (to == Case::kTitle && !in_word);
    const auto c = static_cast<unsigned char>(character[0]);
    if (c < 0x80) {
      const bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
      const char changed = static_cast<char>(letter ? (up ? c & ~0x20 : c | 0x20) : c);
      out.append(std::string_view(&changed, 1), text.trust[at] == MarkedText::kTrusted);
      in_word = letter;
    } else {
      budget.step();
      out.append(up ? upper(character) : lower(character), text.trust[at] == MarkedText::kTrusted);
      in_word = to == Case::kTitle && is_cased(character);
    }
    at += character.size();
  }
  return out;
}

bool has_case(std::string_view text, Case which, Budget& budget) {
  bool any = false;
  for (size_t at = 0; at < text.size(); at += character_at(text, at).size()) {
    budget.step();
    const std::string_view character = character_at(text, at);
    if (!is_cased(character)) continue;
    if (character != (which == Case::kUpper ? upper(character) : lower(character))) return false;
    any = true;
  }
  return any;
}

}  // namespace shoal::jinja
