#include <algorithm>
#include <cmath>
#include <optional>

#include "model/template_call.h"
#include "model/template_text.h"

namespace shoal::jinja {
namespace {

using Kind = Value::Kind;

[[noreturn]] void no_operator(std::string_view sign, const Value& a, const Value& b) {
  for (const Value* operand : {&a, &b}) {
    if (operand->is(Kind::kUndefined)) fail("'" + operand->undefined_name() + "' is undefined");
  }
  fail("'" + std::string(sign) + "' does not work between " + a.type_name() + " and " + b.type_name());
}

[[noreturn]] void too_large() {
  fail("a number grows beyond 64 bits");
}

int64_t power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) too_large();
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) too_large();
  }
  return result;
}

// Towards minus infinity, as Python divides.
int64_t floor_divide(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return quotient - ((a % b != 0) && ((a < 0) != (b < 0)) ? 1 : 0);
}

std::optional<Value> integer_binary(std::string_view sign, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflows = false;
  if (sign == "+") {
    overflows = __builtin_add_overflow(a, b, &result);
  } else if (sign == "-") {
    overflows = __builtin_sub_overflow(a, b, &result);
  } else if (sign == "*") {
    overflows = __builtin_mul_overflow(a, b, &result);
  } else if (sign == "**" && b >= 0) {
    result = power(a, b);
  } else if (sign == "//" || sign == "%") {
    if (b == 0) fail("division by zero");
    if (b == -1) {
      overflows = sign == "//" && __builtin_sub_overflow(int64_t{0}, a, &result);
    } else {
      result = sign == "//" ? floor_divide(a, b) : a - b * floor_divide(a, b);
    }
  } else {
    return std::nullopt;
  }
  if (overflows) too_large();
  return Value(result);
}

Value number_binary(std::string_view sign, double a, double b) {
  if (sign == "+") return Value(a + b);
  if (sign == "-") return Value(a - b);
  if (sign == "*") return Value(a * b);
  if (sign == "**") return Value(std::pow(a, b));
  if (b == 0) fail("division by zero");
  if (sign == "/") return Value(a / b);
  const double floored = std::floor(a / b);
  return Value(sign == "//" ? floored : a - b * floored);
}

// A text or list, several times.
Value repeat(const Value& value, int64_t times, Budget& budget) {
  times = std::max<int64_t>(times, 0);
  const bool text = value.is(Kind::kString);
  const size_t unit = text ? 2 * value.text().size() : value.list().items.size() * sizeof(Value);
  if (unit > 0 && static_cast<uint64_t>(times) > SIZE_MAX / unit) budget.bytes(SIZE_MAX);
  budget.bytes(unit * static_cast<size_t>(times));
  if (text) {
    MarkedText out;
    if (unit > 0) {
      for (int64_t i = 0; i < times; ++i) out.append(value.text());
    }
    return Value(std::move(out));
  }
  std::vector<Value> items;
  const auto& once = value.list().items;
  if (unit > 0) {
    for (int64_t i = 0; i < times; ++i) items.insert(items.end(), once.begin(), once.end());
  }
  return make_list(std::move(items), budget, value.list().form);
}

bool is_sequence(const Value& value) {
  return value.is(Kind::kString) || (value.is(Kind::kList) && value.list().form <= List::Form::kTuple);
}

Value loop_member(const Loop& loop, const std::string& name) {
  const size_t count = loop.items->items.size();
  const auto number = [](size_t value) { return Value(static_cast<int64_t>(value)); };
  if (name == "index0") return number(loop.index);
  if (name == "index") return number(loop.index + 1);
  if (name == "revindex0") return number(count - loop.index - 1);
  if (name == "revindex") return number(count - loop.index);
  if (name == "first") return Value(loop.index == 0);
  if (name == "last") return Value(loop.index + 1 == count);
  if (name == "length") return number(count);
  // Of recursive loops, which there are none of.
  if (name == "depth" || name == "depth0") return number(name == "depth" ? 1 : 0);
  if (name == "previtem" && loop.index > 0) return loop.items->items[loop.index - 1];
  if (name == "nextitem" && loop.index + 1 < count) return loop.items->items[loop.index + 1];
  return Value(Undefined{"loop." + name});
}

std::optional<Value> member(const Value& value, std::string_view name, Budget& budget) {
  if (!value.is(Kind::kDict)) return std::nullopt;
  budget.step(value.dict().items.size() / 8);
  const Value* found = value.dict().find(name);
  return found != nullptr ? std::optional(*found) : std::nullopt;
}

std::optional<Value> method(const Value& value, const std::string& name) {
  if (!has_method(value, name)) return std::nullopt;
  return Value(std::make_shared<const Callable>(Callable{nullptr, name, value}));
}

// What Python would let reach its own machinery.
void refuse_hidden(const std::string& name) {
  if (name.starts_with("__")) fail("the member " + name + " is not open to templates");
}

std::string key_name(const Value& key) {
  if (key.is(Kind::kString)) return key.text().bytes;
  return key.is_integer() ? std::to_string(key.integer()) : key.type_name();
}

}  // namespace

Value binary(std::string_view sign, const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_integer() && b.is_integer()) {
    if (auto result = integer_binary(sign, a.integer(), b.integer())) return *result;
  }
  if (a.is_number() && b.is_number()) return number_binary(sign, a.number(), b.number());
  if (sign == "+" && a.is(Kind::kString) && b.is(Kind::kString)) {
    budget.bytes(2 * (a.text().size() + b.text().size()));
    MarkedText joined = a.text();
    joined.append(b.text());
    return Value(std::move(joined));
  }
  if (sign == "+" && a.is(Kind::kList) && b.is(Kind::kList) && a.list().form == b.list().form &&
      is_sequence(a)) {
    budget.bytes((a.list().items.size() + b.list().items.size()) * sizeof(Value));
    std::vector<Value> items = a.list().items;
    items.insert(items.end(), b.list().items.begin(), b.list().items.end());
    return make_list(std::move(items), budget, a.list().form);
  }
  if (sign == "*" && is_sequence(a) && b.is_integer()) return repeat(a, b.integer(), budget);
  if (sign == "*" && is_sequence(b) && a.is_integer()) return repeat(b, a.integer(), budget);
  no_operator(sign, a, b);
}

Value negative(const Value& value) {
  if (value.is(Kind::kFloat)) return Value(-value.number());
  if (!value.is_integer()) fail("'-' does not work on " + value.type_name());
  int64_t result = 0;
  if (__builtin_sub_overflow(int64_t{0}, value.integer(), &result)) too_large();
  return Value(result);
}

Value attribute(const Value& value, const std::string& name, Budget& budget) {
  budget.step();
  if (value.is(Kind::kUndefined)) fail("'" + value.undefined_name() + "' is undefined");
  if (value.is(Kind::kLoop) && !has_method(value, name)) return loop_member(value.loop(), name);
  if (auto found = method(value, name)) return *found;  // before a member of that name, as in Jinja
  if (auto found = member(value, name, budget)) return *found;
  refuse_hidden(name);
  return Value(Undefined{name});
}

Value item(const Value& value, const Value& key, Budget& budget) {
  budget.step();
  if (value.is(Kind::kUndefined)) fail("'" + value.undefined_name() + "' is undefined");
  if (key.is_integer() && is_sequence(value)) {
    int64_t index = key.integer();
    if (value.is(Kind::kList)) {
      const auto& items = value.list().items;
      if (index < 0) index += static_cast<int64_t>(items.size());
      if (index >= 0 && index < static_cast<int64_t>(items.size())) return items[static_cast<size_t>(index)];
    } else {
      budget.step(value.text().size() / 16);
      const std::vector<size_t> starts = code_point_starts(value.text().bytes);
      const auto count = static_cast<int64_t>(starts.size()) - 1;
      if (index < 0) index += count;
      const auto at = static_cast<size_t>(index);
      if (index >= 0 && index < count)
        return make_text(value.text().substr(starts[at], starts[at + 1] - starts[at]), budget);
    }
  } else if (key.is(Kind::kString)) {
    const std::string& name = key.text().bytes;
    if (value.is(Kind::kLoop)) return attribute(value, name, budget);
    if (auto found = member(value, name, budget)) return *found;  // before a method, as in Jinja
    if (auto found = method(value, name)) return *found;
    refuse_hidden(name);
  }
  return Value(Undefined{key_name(key)});
}

Value slice(const Value& value, const Value& begin, const Value& end, const Value& step, Budget& budget) {
  if (value.is(Kind::kUndefined)) fail("'" + value.undefined_name() + "' is undefined");
  if (!is_sequence(value)) return Value(Undefined{"slice"});
  const bool text = value.is(Kind::kString);
  std::vector<size_t> starts;
  if (text) {
    budget.step(value.text().size() / 16);
    starts = code_point_starts(value.text().bytes);
  }
  const auto size = static_cast<int64_t>(text ? starts.size() - 1 : value.list().items.size());
  const auto part = [](const Value& given, int64_t fallback) {
    return given.is(Kind::kNone) ? fallback : integer_of(given, "a slice's part");
  };
  const int64_t stride = part(step, 1);
  if (stride == 0) fail("a slice's step cannot be zero");
  const int64_t low = stride > 0 ? 0 : -1, high = stride > 0 ? size : size - 1;
  const auto bound = [&](const Value& given, int64_t fallback) {
    if (given.is(Kind::kNone)) return fallback;
    int64_t at = integer_of(given, "a slice's part");
    if (at < 0) at = std::max(at, -size - 1) + size;
    return std::clamp(at, low, std::max(low, high));
  };
  const int64_t from = bound(begin, stride > 0 ? 0 : size - 1);
  const int64_t to = bound(end, stride > 0 ? size : -1);
  MarkedText out;
  std::vector<Value> items;
  for (int64_t at = from; stride > 0 ? at < to : at > to;) {
    const auto i = static_cast<size_t>(at);
    budget.bytes(text ? 2 * (starts[i + 1] - starts[i]) : sizeof(Value));
    if (text) {
      out.append(value.text().substr(starts[i], starts[i + 1] - starts[i]));
    } else {
      items.push_back(value.list().items[i]);
    }
    if (__builtin_add_overflow(at, stride, &at)) break;
  }
  return text ? Value(std::move(out)) : make_list(std::move(items), budget, value.list().form);
}

const MarkedText& text_of(const Value& value, std::string_view what) {
  if (!value.is(Kind::kString)) fail(std::string(what) + " must be a string, not " + value.type_name());
  return value.text();
}

int64_t integer_of(const Value& value, std::string_view what) {
  if (!value.is_integer()) fail(std::string(what) + " must be an integer, not " + value.type_name());
  return value.integer();
}

std::vector<const Value*> CallArguments::bind(std::string_view callee,
                                              std::initializer_list<std::string_view> names) const {
  std::vector<const Value*> bound(names.size(), nullptr);
  if (positional.size() > names.size()) {
    fail(std::string(callee) + " takes at most " + std::to_string(names.size()) + " arguments, not " +
         std::to_string(positional.size()));
  }
  for (size_t i = 0; i < positional.size(); ++i) bound[i] = &positional[i];
  for (const auto& [name, value] : named) {
    const auto* at = std::find(names.begin(), names.end(), name);
    if (at == names.end()) fail(std::string(callee) + " has no argument '" + name + "'");
    const auto index = static_cast<size_t>(at - names.begin());
    if (bound[index] != nullptr) fail(std::string(callee) + " is given its argument '" + name + "' twice");
    bound[index] = &value;
  }
  return bound;
}

CallArguments CallArguments::from(size_t first) const {
  CallArguments rest = *this;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<ptrdiff_t>(std::min(first, positional.size())));
  return rest;
}

}  // namespace shoal::jinja
