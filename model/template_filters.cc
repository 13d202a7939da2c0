// The filters of texts and numbers, and how all filters are found: `value | name(...)`.
#include "model/template_filter.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "model/template_text.h"

namespace shoal::jinja {
namespace {

using Kind = Value::Kind;

constexpr int64_t kIndentMax = 64;  // spaces
constexpr int64_t kRoundMax = 15;   // decimal places

// ---- texts ----

Value run_case(const Filtered& f) {
  (void)f.bind({});
  const Case to = f.name == "upper" ? Case::kUpper : f.name == "lower" ? Case::kLower : Case::kCapitalise;
  return make_text(change_case(f.text(), to, f.budget), f.budget);
}

// A word begins after white space, '-' and opening brackets.
Value run_title(const Filtered& f) {
  (void)f.bind({});
  const MarkedText text = f.text();
  MarkedText out;
  size_t begin = 0;
  const auto boundary = [&](size_t at) {
    return std::string_view("-({[<").find(text.bytes[at]) != std::string_view::npos ||
           strip(text.substr(at, 1), std::nullopt, true, false).size() == 0;
  };
  for (size_t at = 0; at <= text.size(); ++at) {
    if (at < text.size() && !boundary(at)) continue;
    out.append(change_case(text.substr(begin, at - begin), Case::kCapitalise, f.budget));
    if (at < text.size()) out.append(text.substr(at, 1));
    begin = at + 1;
  }
  return make_text(std::move(out), f.budget);
}

Value run_trim(const Filtered& f) {
  const Value* chars = f.bind({"chars"})[0];
  return make_text(
      strip(f.text(),
            given(chars) ? std::optional<std::string_view>(text_of(*chars, "chars").bytes) : std::nullopt,
            true, true),
      f.budget);
}

Value run_replace(const Filtered& f) {
  const auto bound = f.bind({"old", "new", "count"});
  if (bound[0] == nullptr || bound[1] == nullptr)
    fail("the filter 'replace' needs what to replace and by what");
  const int64_t most = given(bound[2]) ? integer_of(*bound[2], "count") : -1;
  return make_text(
      replace(f.text(), to_text(*bound[0], f.budget).bytes, to_text(*bound[1], f.budget), most, f.budget),
      f.budget);
}

Value run_string(const Filtered& f) {  // string, safe
  (void)f.bind({});
  return make_text(f.text(), f.budget);
}

Value run_escape(const Filtered& f) {
  (void)f.bind({});
  MarkedText text = f.text();
  static constexpr std::pair<std::string_view, std::string_view> kEscapes[] = {
      {"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}};
  for (const auto& [from, to] : kEscapes)
    text = replace(text, from, MarkedText(std::string(to), false), -1, f.budget);
  return make_text(std::move(text), f.budget);
}

Value run_indent(const Filtered& f) {
  const auto bound = f.bind({"width", "first", "blank"});
  MarkedText space(std::string(4, ' '), true);
  if (bound[0] != nullptr) {
    if (bound[0]->is(Kind::kString)) {
      space = bound[0]->text();
    } else {
      const int64_t width = integer_of(*bound[0], "width");
      if (width > kIndentMax) fail("an indent may be at most " + std::to_string(kIndentMax));
      space = MarkedText(std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' '), true);
    }
  }
  MarkedText text = f.text();
  text.append("\n", true);
  MarkedText out;
  bool first = true;
  for (const MarkedText& line : split_lines(text, false, f.budget)) {
    f.budget.bytes(2 * (space.size() + line.size() + 1));
    if (!first) out.append("\n", true);
    if (first ? flag(bound[1]) : line.size() > 0 || flag(bound[2])) out.append(space);
    out.append(line);
    first = false;
  }
  return Value(std::move(out));
}

Value run_wordcount(const Filtered& f) {
  (void)f.bind({});
  return Value(static_cast<int64_t>(split_at_spaces(f.text(), -1, false, f.budget).size()));
}

Value run_tojson(const Filtered& f) {
  const auto bound = f.bind({"ensure_ascii", "indent", "separators", "sort_keys"});
  if (flag(bound[0])) fail("tojson with ensure_ascii is not offered");
  JsonStyle style;
  if (given(bound[1])) {
    const int64_t indent = integer_of(*bound[1], "indent");
    if (indent < 0 || indent > kIndentMax)
      fail("tojson: indent must be from 0 to " + std::to_string(kIndentMax));
    style.indent = static_cast<int>(indent);
    style.item_separator = ",";
  }
  if (given(bound[2])) {
    const auto parts = iterate(*bound[2], f.budget);
    if (parts->items.size() != 2) fail("tojson: separators must be two strings");
    style.item_separator = text_of(parts->items[0], "a separator").bytes;
    style.key_separator = text_of(parts->items[1], "a separator").bytes;
  }
  style.sort_keys = flag(bound[3]);
  return Value(to_json(f.value, style, f.budget));
}

// ---- numbers ----

template <class Number>
std::optional<Number> parse_number(const MarkedText& given) {
  const std::string text = strip(given, std::nullopt, true, true).bytes;
  const size_t sign = text.starts_with('+') ? 1 : 0;
  Number number{};
  const auto [end, error] = std::from_chars(text.data() + sign, text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if constexpr (std::is_floating_point_v<Number>) {
    if (!std::isfinite(number)) return std::nullopt;
  }
  return number;
}

std::optional<Value> to_integer(double number) {
  if (!(std::fabs(number) < 9.2e18)) return std::nullopt;
  return Value(static_cast<int64_t>(number));
}

Value run_int(const Filtered& f) {
  const auto bound = f.bind({"default", "base"});
  if (bound[1] != nullptr && integer_of(*bound[1], "base") != 10)
    fail("the filter 'int' knows base 10 alone");
  std::optional<Value> result;
  if (f.value.is_integer()) {
    result = Value(f.value.integer());
  } else if (f.value.is(Kind::kFloat)) {
    result = to_integer(f.value.number());
  } else if (f.value.is(Kind::kString)) {
    if (const auto whole = parse_number<int64_t>(f.value.text())) {
      result = Value(*whole);
    } else if (const auto number = parse_number<double>(f.value.text())) {
      result = to_integer(*number);
    }
  }
  if (result) return *result;
  return bound[0] != nullptr ? *bound[0] : Value(int64_t{0});
}

Value run_float(const Filtered& f) {
  const auto bound = f.bind({"default"});
  if (f.value.is_number()) return Value(f.value.number());
  const auto number = f.value.is(Kind::kString) ? parse_number<double>(f.value.text()) : std::nullopt;
  if (number) return Value(*number);
  return bound[0] != nullptr ? *bound[0] : Value(0.0);
}

Value run_abs(const Filtered& f) {
  (void)f.bind({});
  if (!f.value.is_number()) fail("the filter 'abs' is for numbers, not " + f.value.type_name());
  return f.value.number() < 0 ? negative(f.value) : f.value;
}

Value run_round(const Filtered& f) {
  const auto bound = f.bind({"precision", "method"});
  if (!f.value.is_number()) fail("the filter 'round' is for numbers, not " + f.value.type_name());
  const int64_t places = bound[0] != nullptr ? integer_of(*bound[0], "precision") : 0;
  if (places < 0 || places > kRoundMax)
    fail("round: precision must be from 0 to " + std::to_string(kRoundMax));
  const std::string method = bound[1] != nullptr ? text_of(*bound[1], "method").bytes : "common";
  const double number = f.value.number();
  if (method == "common") {
    if (f.value.is_integer()) return f.value;
    char buffer[400];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::fixed,
                                   static_cast<int>(places));  // rounds half to even on the exact value
    return Value(*parse_number<double>(MarkedText(std::string(buffer, end.ptr), true)));
  }
  if (method != "ceil" && method != "floor") fail("round: method must be common, ceil or floor");
  const double scale = std::pow(10.0, static_cast<double>(places));
  const double scaled = method == "ceil" ? std::ceil(number * scale) : std::floor(number * scale);
  return Value(scaled / scale);
}

constexpr Filter kTextFilters[] = {
    {"abs", run_abs},       {"capitalize", run_case},    {"e", run_escape},
    {"escape", run_escape}, {"float", run_float},        {"indent", run_indent},
    {"int", run_int},       {"lower", run_case},         {"replace", run_replace},
    {"round", run_round},   {"safe", run_string},        {"string", run_string},
    {"title", run_title},   {"tojson", run_tojson},      {"trim", run_trim},
    {"upper", run_case},    {"wordcount", run_wordcount}};

}  // namespace

std::optional<int64_t> parse_integer(const MarkedText& text) {
  return parse_number<int64_t>(text);
}

Value apply_filter(const std::string& name, const Value& value, const CallArguments& arguments,
                   Budget& budget) {
  budget.step();
  const std::span<const Filter> of_texts(kTextFilters);
  for (const std::span<const Filter> filters : {of_texts, list_filters()}) {
    const auto filter =
        std::find_if(filters.begin(), filters.end(), [&](const Filter& f) { return f.name == name; });
    if (filter != filters.end()) return filter->run({name, value, arguments, budget});
  }
  fail("there is no filter '" + name + "'");
}

}  // namespace shoal::jinja
