// Arguments of a call, filter or test once they are values, and the tables of what can be called: functions
// (`name(...)`), filters (`value | name(...)`), tests (`value is name(...)`), methods (`value.name(...)`) and
// operators. Semantics: Jinja 3's lists of builtin filters and tests, and Python's str, dict and list. All
// throw TemplateError.
#pragma once

#include <ctime>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/template_value.h"

namespace shoal::jinja {

struct CallArguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // In the order of `names`; null for those not given. Fails on others than these, naming `callee`.
  std::vector<const Value*> bind(std::string_view callee,
                                 std::initializer_list<std::string_view> names) const;
  CallArguments from(size_t first) const;  // without the positional ones before `first`
};

bool has_function(std::string_view name);
// `now`: what strftime_now() tells, in local time.
Value call_function(const std::string& name, const CallArguments& arguments, std::time_t now, Budget& budget);
Value apply_filter(const std::string& name, const Value& value, const CallArguments& arguments,
                   Budget& budget);
bool apply_test(const std::string& name, const Value& value, const CallArguments& arguments, Budget& budget);
bool has_method(const Value& value, std::string_view name);
Value call_method(const Value& self, const std::string& name, const CallArguments& arguments, Budget& budget);

// `a sign b`, with + - * / // % and **.
Value binary(std::string_view sign, const Value& a, const Value& b, Budget& budget);
Value negative(const Value& value);
// value.name and value[key]: undefined where there is no such member.
Value attribute(const Value& value, const std::string& name, Budget& budget);
Value item(const Value& value, const Value& key, Budget& budget);
// value[begin:end:step]; none where a part is left out.
Value slice(const Value& value, const Value& begin, const Value& end, const Value& step, Budget& budget);

// Of arguments: whether there is one, whether it is there and true, and its value.
inline bool given(const Value* value) {
  return value != nullptr && !value->is(Value::Kind::kNone);
}
inline bool flag(const Value* value) {
  return value != nullptr && value->truthy();
}
const MarkedText& text_of(const Value& value, std::string_view what);
int64_t integer_of(const Value& value, std::string_view what);

}  // namespace shoal::jinja
