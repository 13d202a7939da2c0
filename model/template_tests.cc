// The tests of the template language: `value is name`.
#include <algorithm>

#include "model/template_call.h"
#include "model/template_text.h"

namespace shoal::jinja {
namespace {

using Kind = Value::Kind;

// What is tested, and the argument of those tests that have one.
struct Tested {
  const Value& value;
  const Value& other;
  Budget& budget;
};

struct Test {
  std::string_view name;
  bool has_argument;
  bool (*holds)(const Tested&);
};

bool is_mapping(const Value& value) {
  return value.is(Kind::kDict) && !value.dict().is_namespace;
}

bool is_divisible(const Tested& t) {
  return !binary("%", t.value, t.other, t.budget).truthy();
}

constexpr Test kTests[] = {
    {"defined", false, [](const Tested& t) { return !t.value.is(Kind::kUndefined); }},
    {"undefined", false, [](const Tested& t) { return t.value.is(Kind::kUndefined); }},
    {"none", false, [](const Tested& t) { return t.value.is(Kind::kNone); }},
    {"string", false, [](const Tested& t) { return t.value.is(Kind::kString); }},
    {"number", false, [](const Tested& t) { return t.value.is_number(); }},
    {"integer", false, [](const Tested& t) { return t.value.is(Kind::kInt); }},
    {"float", false, [](const Tested& t) { return t.value.is(Kind::kFloat); }},
    {"boolean", false, [](const Tested& t) { return t.value.is(Kind::kBool); }},
    {"true", false, [](const Tested& t) { return t.value.is(Kind::kBool) && t.value.boolean(); }},
    {"false", false, [](const Tested& t) { return t.value.is(Kind::kBool) && !t.value.boolean(); }},
    {"mapping", false, [](const Tested& t) { return is_mapping(t.value); }},
    {"iterable", false,
     [](const Tested& t) {
       return t.value.is(Kind::kUndefined) || t.value.is(Kind::kString) || t.value.is(Kind::kList) ||
              is_mapping(t.value);
     }},
    {"sequence", false,
     [](const Tested& t) {
       return t.value.is(Kind::kUndefined) || t.value.is(Kind::kString) || is_mapping(t.value) ||
              (t.value.is(Kind::kList) && t.value.list().form <= List::Form::kTuple);
     }},
    {"callable", false,
     [](const Tested& t) { return t.value.is(Kind::kUndefined) || t.value.is(Kind::kCallable); }},
    {"odd", false,
     [](const Tested& t) {
       return is_divisible({t.value, Value(int64_t{2}), t.budget}) == false;
     }},
    {"even", false,
     [](const Tested& t) {
       return is_divisible({t.value, Value(int64_t{2}), t.budget});
     }},
    {"lower", false,
     [](const Tested& t) { return has_case(to_text(t.value, t.budget).bytes, Case::kLower, t.budget); }},
    {"upper", false,
     [](const Tested& t) { return has_case(to_text(t.value, t.budget).bytes, Case::kUpper, t.budget); }},
    {"divisibleby", true, is_divisible},
    {"eq", true, [](const Tested& t) { return equal(t.value, t.other, t.budget); }},
    {"ne", true, [](const Tested& t) { return !equal(t.value, t.other, t.budget); }},
    {"lt", true, [](const Tested& t) { return compare(t.value, t.other, t.budget) < 0; }},
    {"le", true, [](const Tested& t) { return compare(t.value, t.other, t.budget) <= 0; }},
    {"gt", true, [](const Tested& t) { return compare(t.value, t.other, t.budget) > 0; }},
    {"ge", true, [](const Tested& t) { return compare(t.value, t.other, t.budget) >= 0; }},
    {"in", true, [](const Tested& t) { return contains(t.other, t.value, t.budget); }},
    {"sameas", true,
     [](const Tested& t) { return t.value.kind() == t.other.kind() && equal(t.value, t.other, t.budget); }},
};

std::string_view without_synonym(std::string_view name) {
  static constexpr std::pair<std::string_view, std::string_view> kSynonyms[] = {
      {"equalto", "eq"}, {"==", "eq"}, {"!=", "ne"}, {"lessthan", "lt"},   {"<", "lt"},
      {"<=", "le"},      {">", "gt"},  {">=", "ge"}, {"greaterthan", "gt"}};
  for (const auto& [synonym, meant] : kSynonyms) {
    if (synonym == name) return meant;
  }
  return name;
}

}  // namespace

bool apply_test(const std::string& name, const Value& value, const CallArguments& arguments, Budget& budget) {
  budget.step();
  const auto* test = std::find_if(std::begin(kTests), std::end(kTests),
                                  [&](const Test& t) { return t.name == without_synonym(name); });
  if (test == std::end(kTests)) fail("there is no test '" + name + "'");
  const size_t wanted = test->has_argument ? 1 : 0;
  if (arguments.positional.size() != wanted || !arguments.named.empty())
    fail("the test '" + name + "' takes " + (wanted == 1 ? "one argument" : "no arguments"));
  return test->holds({value, wanted == 1 ? arguments.positional[0] : value, budget});
}

}  // namespace shoal::jinja
