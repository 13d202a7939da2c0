// Values as text: Python's str(), repr() and json.dumps().
#include <algorithm>
#include <charconv>
#include <cmath>

#include "model/template_text.h"
#include "model/template_value.h"
#include "model/utf8.h"

namespace shoal::jinja {
namespace {

// repr(float): the shortest text that reads back, with a point; an exponent below 1e-4 and from 1e16.
std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const double size = std::fabs(value);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value,
                                 fixed ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer, end.ptr);
  if (fixed && text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::string hex(char32_t value, int digits) {
  std::string text(static_cast<size_t>(digits), '0');
  for (size_t i = text.size(); i-- > 0; value >>= 4) text[i] = "0123456789abcdef"[value & 15];
  return text;
}

std::string escaped_for_repr(char32_t c) {
  if (c == '\n') return "\\n";
  if (c == '\r') return "\\r";
  if (c == '\t') return "\\t";
  if (c < 0x100) return "\\x" + hex(c, 2);
  return c < 0x10000 ? "\\u" + hex(c, 4) : "\\U" + hex(c, 8);
}

std::string escaped_for_json(char32_t c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    default:
      return "\\u" + hex(c, 4);
  }
}

class Printer {
 public:
  explicit Printer(Budget& budget) : budget_(budget) {}
  MarkedText take() { return std::move(out_); }

  void str(const Value& value) {
    if (value.is(Value::Kind::kString)) return put(value.text());
    if (!value.is(Value::Kind::kUndefined)) repr(value);
  }

  void repr(const Value& value) {
    budget_.step();
    switch (value.kind()) {
      case Value::Kind::kUndefined:
        return put("Undefined");
      case Value::Kind::kNone:
        return put("None");
      case Value::Kind::kBool:
        return put(value.boolean() ? "True" : "False");
      case Value::Kind::kInt:
        return put(std::to_string(value.integer()));
      case Value::Kind::kFloat:
        return put(float_text(value.number()));
      case Value::Kind::kString:
        return in_quotes(value.text());
      case Value::Kind::kList:
        return list(value.list());
      case Value::Kind::kDict:
        if (value.dict().is_namespace) break;
        return dict(value.dict());
      default:
        break;
    }
    fail(value.type_name() + " has no text: call it, or name a member of it");
  }

  void json(const Value& value, const JsonStyle& style, int level) {
    budget_.step();
    switch (value.kind()) {
      case Value::Kind::kNone:
        return put("null");
      case Value::Kind::kBool:
        return put(value.boolean() ? "true" : "false");
      case Value::Kind::kInt:
        return put(std::to_string(value.integer()));
      case Value::Kind::kFloat:
        return put(json_float(value.number()));
      case Value::Kind::kString:
        return json_string(value.text());
      case Value::Kind::kList:
        if (value.list().form > List::Form::kTuple) break;
        return json_list(value.list(), style, level);
      case Value::Kind::kDict:
        if (value.dict().is_namespace) break;
        return json_dict(value.dict(), style, level);
      default:
        break;
    }
    fail(value.type_name() +
         (value.is(Value::Kind::kUndefined) ? " ('" + value.undefined_name() + "')" : "") +
         " cannot be written as JSON");
  }

 private:
  void put(std::string_view text) {  // of our own
    budget_.bytes(2 * text.size());
    out_.append(text, true);
  }
  void put(const MarkedText& text) {
    budget_.bytes(2 * text.size());
    out_.append(text);
  }

  void in_quotes(const MarkedText& text) {
    const bool single =
        text.bytes.find('\'') == std::string::npos || text.bytes.find('"') != std::string::npos;
    const char quote = single ? '\'' : '"';
    put(std::string_view(&quote, 1));
    for (size_t at = 0, length = 0; at < text.size(); at += length) {
      const char32_t c = decode_lenient(std::string_view(text.bytes).substr(at), length);
      if (c >= 0x7F) budget_.step();
      if (c == static_cast<char32_t>(quote) || c == '\\') put("\\");
      if (c == '\\' || is_printable(c)) {
        put(text.substr(at, length));
      } else {
        put(escaped_for_repr(c));
      }
    }
    put(std::string_view(&quote, 1));
  }

  void list(const List& list) {
    const bool tuple = list.form == List::Form::kTuple;
    put(tuple ? "(" : "[");
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) put(", ");
      repr(list.items[i]);
    }
    put(tuple ? (list.items.size() == 1 ? ",)" : ")") : "]");
  }

  void dict(const Dict& dict) {
    put("{");
    for (size_t i = 0; i < dict.items.size(); ++i) {
      if (i > 0) put(", ");
      in_quotes(dict.items[i].first);
      put(": ");
      repr(dict.items[i].second);
    }
    put("}");
  }

  static std::string json_float(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return float_text(value);
  }

  void json_string(const MarkedText& text) {
    put("\"");
    size_t plain = 0;
    for (size_t at = 0; at <= text.size(); ++at) {
      const auto c = at < text.size() ? static_cast<unsigned char>(text.bytes[at]) : 0;
      if (at < text.size() && c >= 0x20 && c != '"' && c != '\\') continue;
      put(text.substr(plain, at - plain));
      if (at < text.size()) put(escaped_for_json(c));
      plain = at + 1;
    }
    put("\"");
  }

  void line_break(const JsonStyle& style, int level) {
    if (style.indent < 0) return;
    put("\n" + std::string(static_cast<size_t>(style.indent) * static_cast<size_t>(level), ' '));
  }

  void json_list(const List& list, const JsonStyle& style, int level) {
    if (list.items.empty()) return put("[]");
    put("[");
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) put(style.item_separator);
      line_break(style, level + 1);
      json(list.items[i], style, level + 1);
    }
    line_break(style, level);
    put("]");
  }

  void json_dict(const Dict& dict, const JsonStyle& style, int level) {
    if (dict.items.empty()) return put("{}");
    std::vector<const std::pair<MarkedText, Value>*> members;
    for (const auto& member : dict.items) members.push_back(&member);
    if (style.sort_keys) {
      std::sort(members.begin(), members.end(),
                [](const auto* a, const auto* b) { return a->first.bytes < b->first.bytes; });
    }
    put("{");
    for (size_t i = 0; i < members.size(); ++i) {
      if (i > 0) put(style.item_separator);
      line_break(style, level + 1);
      json_string(members[i]->first);
      put(style.key_separator);
      json(members[i]->second, style, level + 1);
    }
    line_break(style, level);
    put("}");
  }

  Budget& budget_;
  MarkedText out_;
};

}  // namespace

MarkedText to_text(const Value& value, Budget& budget) {
  Printer printer(budget);
  printer.str(value);
  return printer.take();
}

MarkedText to_repr(const Value& value, Budget& budget) {
  Printer printer(budget);
  printer.repr(value);
  return printer.take();
}

MarkedText to_json(const Value& value, const JsonStyle& style, Budget& budget) {
  Printer printer(budget);
  printer.json(value, style, 0);
  return printer.take();
}

}  // namespace shoal::jinja
