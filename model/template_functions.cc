// The functions that a template can call by their names alone: what may come in, and what they cost.
#include <algorithm>
#include <ctime>
#include <iterator>
#include <memory>

#include "model/template_call.h"

namespace shoal::jinja {
namespace {

using Kind = Value::Kind;

constexpr const char* kFunctions[] = {"range", "namespace", "dict", "raise_exception", "strftime_now"};
constexpr size_t kDateFormatMax = 256;  // bytes

// dict(...) and namespace(...): of a mapping, and of names with values.
Value mapping_of(const CallArguments& arguments, bool is_namespace, Budget& budget) {
  auto dict = std::make_shared<Dict>();
  budget.bytes(sizeof(Dict));
  dict->is_namespace = is_namespace;
  if (arguments.positional.size() > 1) fail("a mapping is made of one other at most");
  for (const Value& other : arguments.positional) {
    if (!other.is(Kind::kDict)) fail("a mapping cannot be made of " + other.type_name());
    for (const auto& [key, value] : other.dict().items) set_member(*dict, key, value, budget);
  }
  for (const auto& [name, value] : arguments.named) set_member(*dict, MarkedText(name, true), value, budget);
  return Value(std::move(dict));
}

Value range(const CallArguments& arguments, Budget& budget) {
  std::vector<int64_t> parts;
  for (const Value& value : arguments.positional) parts.push_back(integer_of(value, "range()'s argument"));
  if (parts.empty() || parts.size() > 3 || !arguments.named.empty())
    fail("range() takes one to three integers");
  const int64_t begin = parts.size() > 1 ? parts[0] : 0, end = parts.size() > 1 ? parts[1] : parts[0];
  const int64_t step = parts.size() > 2 ? parts[2] : 1;
  if (step == 0) fail("range(): the step cannot be zero");
  std::vector<Value> items;
  for (int64_t at = begin; step > 0 ? at < end : at > end;) {
    budget.bytes(sizeof(Value));
    budget.step();
    items.emplace_back(at);
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  return make_list(std::move(items), budget);
}

Value date(const std::string& format, std::time_t now) {
  if (format.size() > kDateFormatMax)
    fail("strftime_now()'s format is longer than " + std::to_string(kDateFormatMax) + " bytes");
  std::tm local{};
  localtime_r(&now, &local);
  char text[4 * kDateFormatMax];
  const size_t length = std::strftime(text, sizeof text, format.c_str(), &local);
  return Value(std::string(text, length), /*trusted=*/true);
}

}  // namespace

bool has_function(std::string_view name) {
  return std::find(std::begin(kFunctions), std::end(kFunctions), name) != std::end(kFunctions);
}

Value call_function(const std::string& name, const CallArguments& arguments, std::time_t now,
                    Budget& budget) {
  if (name == "range") return range(arguments, budget);
  if (name == "raise_exception") {
    const auto bound = arguments.bind("raise_exception()", {"message"});
    fail("the template says: " +
         (bound[0] != nullptr ? to_text(*bound[0], budget).bytes : std::string("no")));
  }
  if (name == "strftime_now") {
    const auto bound = arguments.bind("strftime_now()", {"format"});
    if (bound[0] == nullptr) fail("strftime_now() needs a format");
    return date(text_of(*bound[0], "strftime_now()'s format").bytes, now);
  }
  return mapping_of(arguments, name == "namespace", budget);
}

}  // namespace shoal::jinja
