#include "model/template_lexer.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "model/template_text.h"
#include "model/utf8.h"

namespace shoal::jinja {
namespace {

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}
// Bytes of white space in front, by Unicode.
size_t leading_spaces(std::string_view text) {
  size_t at = 0;
  for (size_t length = 0; at < text.size(); at += length) {
    if (!is_python_space(decode_lenient(text.substr(at), length))) break;
  }
  return at;
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool begins_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

// Line breaks of every system as '\n', and the last one dropped.
std::string normalise_lines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

// A string literal's escapes, as Python reads them.
std::string decode_escapes(std::string_view literal) {
  std::string out;
  for (size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size()) {
      out += literal[i];
      continue;
    }
    const char escaped = literal[++i];
    static constexpr std::string_view kNames = "abfnrtv\\'\"", kValues = "\a\b\f\n\r\t\v\\'\"";
    if (const size_t known = kNames.find(escaped); known != std::string_view::npos) {
      out += kValues[known];
    } else if (escaped == 'x' || escaped == 'u' || escaped == 'U') {
      const size_t digits = escaped == 'x' ? 2 : escaped == 'u' ? 4 : 8;
      const std::string_view number = literal.substr(i + 1, digits);
      uint32_t code_point = 0;
      const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), code_point, 16);
      if (number.size() != digits || error != std::errc() || end != number.data() + digits ||
          code_point > 0x10FFFF || (code_point >= 0xD800 && code_point < 0xE000))
        fail("a string's \\" + std::string(1, escaped) + " needs " + std::to_string(digits) +
             " hexadecimal digits of a character");
      append_utf8(code_point, out);
      i += digits;
    } else if (escaped >= '0' && escaped <= '7') {
      uint32_t value = 0;
      size_t digits = 0;
      for (; digits < 3 && i + digits < literal.size() && literal[i + digits] >= '0' &&
             literal[i + digits] <= '7';
           ++digits)
        value = value * 8 + static_cast<uint32_t>(literal[i + digits] - '0');
      append_utf8(value, out);
      i += digits - 1;
    } else if (escaped != '\n') {  // a line that goes on
      out += '\\';
      out += escaped;
    }
  }
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalise_lines(source)) {}

  std::vector<Token> run() {
    try {
      while (at_ < source_.size()) root();
    } catch (TemplateError& error) {
      if (error.line == 0) error.line = line_;
      throw;
    }
    add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool next_is(std::string_view text) const { return rest().starts_with(text); }

  Token& add(Token::Kind kind, std::string text) {
    Token& token = tokens_.emplace_back();
    token.kind = kind;
    token.line = line_;
    token.text = std::move(text);
    return token;
  }
  // Goes on to `at`, counting lines.
  void advance(size_t at) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(at_),
                                         source_.begin() + static_cast<ptrdiff_t>(at), '\n'));
    line_begins_ = at > at_ ? source_[at - 1] == '\n' : line_begins_;
    at_ = at;
  }
  void skip_spaces() { advance(at_ + leading_spaces(rest())); }

  // Text as far as the tag at `tag`, of which `sign` is the white-space sign.
  void text_before(size_t tag, char sign, bool output) {
    std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    if (sign == '-') {
      text = rstrip(text);
    } else if (sign != '+' && !output) {
      const size_t line = text.rfind('\n') + 1;  // 0 where there is none
      const bool from_line_begin = line > 0 || line_begins_;
      if (from_line_begin && leading_spaces(text.substr(line)) == text.size() - line)
        text = text.substr(0, line);
    }
    if (!text.empty()) add(Token::Kind::kText, std::string(text));
    advance(tag);
  }
  static std::string_view rstrip(std::string_view text) {
    const MarkedText kept = strip(MarkedText(std::string(text), true), std::nullopt, false, true);
    return text.substr(0, kept.size());
  }
  char sign_at(size_t at) const {
    return at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : '\0';
  }

  // A text and the tag that ends it.
  void root() {
    size_t tag = at_;
    while (tag < source_.size() &&
           !(source_[tag] == '{' && tag + 1 < source_.size() &&
             std::string_view("{%#").find(source_[tag + 1]) != std::string_view::npos))
      ++tag;
    if (tag >= source_.size()) {
      add(Token::Kind::kText, std::string(rest()));
      advance(source_.size());
      return;
    }
    const char kind = source_[tag + 1];
    const char sign = sign_at(tag + 2);
    text_before(tag, sign, kind == '{');
    advance(tag + (sign == '\0' ? 2 : 3));
    if (kind == '#') return comment();
    if (kind == '%' && raw()) return;
    add(kind == '{' ? Token::Kind::kOutputBegin : Token::Kind::kBlockBegin, "");
    expression(kind == '{' ? "}}" : "%}", kind == '{' ? Token::Kind::kOutputEnd : Token::Kind::kBlockEnd);
  }

  // Behind a tag's end: the white space that goes with it. `trims`: of a block, which takes one line break.
  void after_tag(char sign, bool trims) {
    if (sign == '-') {
      skip_spaces();
    } else if (sign != '+' && trims && next_is("\n")) {
      advance(at_ + 1);
    }
  }

  void comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail("a comment is not closed by #}");
    const char sign = end > at_ ? sign_at(end - 1) : '\0';
    advance(end + 2);
    after_tag(sign, true);
  }

  // {% raw %} ... {% endraw %}, where its text is not looked into. False: it is another block.
  bool raw() {
    size_t at = at_;
    const auto spaces = [&] {
      while (at < source_.size() && is_space(source_[at])) ++at;
    };
    const auto take = [&](std::string_view text) {
      if (!std::string_view(source_).substr(at).starts_with(text)) return false;
      at += text.size();
      return true;
    };
    spaces();
    if (!take("raw")) return false;
    spaces();
    const bool strips = take("-%}");
    if (!strips && !take("%}")) return false;
    advance(at);
    if (strips) skip_spaces();
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 2)) {
      const char sign = sign_at(tag + 2);
      at = tag + (sign == '\0' ? 2 : 3);
      spaces();
      if (!take("endraw")) continue;
      spaces();
      const char end_sign = sign_at(at);
      if (end_sign != '\0') ++at;
      if (!take("%}")) continue;
      text_before(tag, sign, false);
      advance(at);
      after_tag(end_sign, true);
      return true;
    }
    fail("{% raw %} is not closed by {% endraw %}");
  }

  void expression(std::string_view end, Token::Kind end_kind) {
    const bool block = end == "%}";
    while (true) {
      skip_spaces();
      if (at_ >= source_.size()) fail("a tag is not closed by " + std::string(end));
      if (open_.empty()) {
        const char sign = sign_at(at_);
        const bool signs = sign == '-' || (sign == '+' && block);
        if (std::string_view(source_).substr(at_ + (signs ? 1 : 0)).starts_with(end)) {
          add(end_kind, "");
          advance(at_ + (signs ? 3 : 2));
          return after_tag(signs ? sign : '\0', block);
        }
      }
      const char c = source_[at_];
      if (is_digit(c)) {
        number();
      } else if (begins_name(c)) {
        size_t after = at_;
        while (after < source_.size() && (begins_name(source_[after]) || is_digit(source_[after]))) ++after;
        add(Token::Kind::kName, source_.substr(at_, after - at_));
        advance(after);
      } else if (c == '\'' || c == '"') {
        string(c);
      } else {
        sign();
      }
    }
  }

  void string(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail("a string is not closed by " + std::string(1, quote));
    add(Token::Kind::kString, decode_escapes(std::string_view(source_).substr(at_ + 1, end - at_ - 1)));
    advance(end + 1);
  }

  void number() {
    std::string digits;
    size_t at = at_;
    const auto take_digits = [&] {
      while (at < source_.size() &&
             (is_digit(source_[at]) ||
              (source_[at] == '_' && at + 1 < source_.size() && is_digit(source_[at + 1])))) {
        if (source_[at] != '_') digits += source_[at];
        ++at;
      }
    };
    const bool after_point = at_ > 0 && source_[at_ - 1] == '.';
    take_digits();
    bool whole = true;
    if (!after_point && at + 1 < source_.size() && source_[at] == '.' && is_digit(source_[at + 1])) {
      whole = false;
      digits += source_[at++];
      take_digits();
    }
    if (!after_point && at < source_.size() && (source_[at] | 0x20) == 'e') {
      const size_t sign =
          at + 1 < source_.size() && (source_[at + 1] == '+' || source_[at + 1] == '-') ? 1 : 0;
      if (at + 1 + sign < source_.size() && is_digit(source_[at + 1 + sign])) {
        whole = false;
        digits += source_.substr(at, 1 + sign);
        at += 1 + sign;
        take_digits();
      }
    }
    Token& token = add(whole ? Token::Kind::kInteger : Token::Kind::kFloat, digits);
    if (whole) {
      const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), token.integer);
      if (error != std::errc() || end != digits.data() + digits.size())
        fail("the number " + digits.substr(0, 40) + " is too large");
    } else {
      token.number = std::strtod(digits.c_str(), nullptr);
    }
    advance(at);
  }

  void sign() {
    static constexpr std::string_view kSigns[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "*",
                                                  "/",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                  ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (const std::string_view sign : kSigns) {
      if (!next_is(sign)) continue;
      static constexpr std::string_view kOpen = "([{", kClose = ")]}";
      if (const size_t opens = kOpen.find(sign[0]); opens != std::string_view::npos) open_ += kClose[opens];
      if (kClose.find(sign[0]) != std::string_view::npos) {
        if (open_.empty() || open_.back() != sign[0]) fail("unexpected '" + std::string(sign) + "'");
        open_.pop_back();
      }
      add(Token::Kind::kOperator, std::string(sign));
      advance(at_ + sign.size());
      return;
    }
    size_t length = 0;
    (void)decode_lenient(rest(), length);
    fail("unexpected character '" + std::string(rest().substr(0, length)) + "'");
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_begins_ = true;
  std::string open_;  // the brackets that are to close those that are open
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace shoal::jinja
