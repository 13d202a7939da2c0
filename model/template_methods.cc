// The methods of strings, mappings and lists that the template language can call, as Python has them. Those
// that would change their object are known and refused: nothing that a template is given can be changed.
#include <algorithm>
#include <optional>

#include "model/template_call.h"
#include "model/template_text.h"

namespace shoal::jinja {
namespace {

using Kind = Value::Kind;

struct Call {
  const Value& self;
  const std::string& name;
  const CallArguments& arguments;
  Budget& budget;
  const MarkedText& text() const { return self.text(); }
  std::vector<const Value*> bind(std::initializer_list<std::string_view> names) const {
    return arguments.bind(name + "()", names);
  }
};

struct Method {
  std::string_view name;
  Value (*run)(const Call&);
};

Value texts(std::vector<MarkedText> parts, Budget& budget, List::Form form = List::Form::kList) {
  std::vector<Value> items;
  for (MarkedText& part : parts) items.push_back(make_text(std::move(part), budget));
  return make_list(std::move(items), budget, form);
}

Value run_strip(const Call& c) {
  const auto given_chars = c.bind({"chars"})[0];
  const auto chars = given(given_chars)
                         ? std::optional<std::string_view>(text_of(*given_chars, "chars").bytes)
                         : std::nullopt;
  return make_text(strip(c.text(), chars, c.name != "rstrip", c.name != "lstrip"), c.budget);
}

Value run_split(const Call& c) {
  const auto bound = c.bind({"sep", "maxsplit"});
  const int64_t most = bound[1] != nullptr ? integer_of(*bound[1], "maxsplit") : -1;
  const bool right = c.name == "rsplit";
  if (!given(bound[0])) return texts(split_at_spaces(c.text(), most, right, c.budget), c.budget);
  const std::string& separator = text_of(*bound[0], "sep").bytes;
  if (separator.empty()) fail(c.name + "(): the separator is empty");
  return texts(split(c.text(), separator, most, right, c.budget), c.budget);
}

Value run_split_lines(const Call& c) {
  const auto keep = c.bind({"keepends"})[0];
  return texts(split_lines(c.text(), keep != nullptr && keep->truthy(), c.budget), c.budget);
}

Value run_affix(const Call& c) {  // startswith, endswith
  const auto affix = c.bind({"affix"})[0];
  if (affix == nullptr) fail(c.name + "() needs a string");
  const auto has = [&](const Value& value) {
    const std::string& text = text_of(value, c.name + "()'s argument").bytes;
    return c.name == "startswith" ? c.text().bytes.starts_with(text) : c.text().bytes.ends_with(text);
  };
  if (!affix->is(Kind::kList) || affix->list().form != List::Form::kTuple) return Value(has(*affix));
  return Value(std::any_of(affix->list().items.begin(), affix->list().items.end(), has));
}

Value run_remove_affix(const Call& c) {  // removeprefix, removesuffix
  const auto affix = c.bind({"affix"})[0];
  if (affix == nullptr) fail(c.name + "() needs a string");
  const std::string& text = text_of(*affix, c.name + "()'s argument").bytes;
  const bool prefix = c.name == "removeprefix";
  if (!(prefix ? c.text().bytes.starts_with(text) : c.text().bytes.ends_with(text))) return c.self;
  return make_text(c.text().substr(prefix ? text.size() : 0, c.text().size() - text.size()), c.budget);
}

Value run_case(const Call& c) {
  (void)c.bind({});
  const Case to = c.name == "upper"   ? Case::kUpper
                  : c.name == "lower" ? Case::kLower
                  : c.name == "title" ? Case::kTitle
                                      : Case::kCapitalise;
  return make_text(change_case(c.text(), to, c.budget), c.budget);
}

Value run_is_case(const Call& c) {
  (void)c.bind({});
  return Value(has_case(c.text().bytes, c.name == "isupper" ? Case::kUpper : Case::kLower, c.budget));
}

Value run_is_digit(const Call& c) {
  (void)c.bind({});
  const std::string& text = c.text().bytes;
  return Value(!text.empty() &&
               std::all_of(text.begin(), text.end(), [](char d) { return d >= '0' && d <= '9'; }));
}

Value run_is_space(const Call& c) {
  (void)c.bind({});
  return Value(c.text().size() > 0 && strip(c.text(), std::nullopt, true, false).size() == 0);
}

Value run_replace(const Call& c) {
  const auto bound = c.bind({"old", "new", "count"});
  if (bound[0] == nullptr || bound[1] == nullptr) fail("replace() needs what to replace and by what");
  const int64_t most = bound[2] != nullptr ? integer_of(*bound[2], "count") : -1;
  c.budget.bytes(2 * c.text().size());
  return make_text(
      replace(c.text(), text_of(*bound[0], "old").bytes, text_of(*bound[1], "new"), most, c.budget),
      c.budget);
}

Value run_find(const Call& c) {  // find, rfind, index of strings: in code points
  const auto bound = c.bind({"sub"});
  if (bound[0] == nullptr) fail(c.name + "() needs a string");
  const std::string& wanted = text_of(*bound[0], "sub").bytes;
  c.budget.step(c.text().size() / 16);
  const size_t at = c.name == "rfind" ? c.text().bytes.rfind(wanted) : c.text().bytes.find(wanted);
  if (at != std::string::npos)
    return Value(static_cast<int64_t>(count_code_points(std::string_view(c.text().bytes).substr(0, at))));
  if (c.name == "index") fail("index(): the string is not there");
  return Value(int64_t{-1});
}

Value run_count(const Call& c) {  // of strings and lists
  const auto bound = c.bind({"wanted"});
  if (bound[0] == nullptr) fail("count() needs what to count");
  int64_t count = 0;
  if (c.self.is(Kind::kString)) {
    const std::string& wanted = text_of(*bound[0], "sub").bytes;
    if (wanted.empty()) return Value(static_cast<int64_t>(count_code_points(c.text().bytes)) + 1);
    c.budget.step(c.text().size() / 16);
    for (size_t at = c.text().bytes.find(wanted); at != std::string::npos;
         at = c.text().bytes.find(wanted, at + wanted.size()))
      ++count;
  } else {
    for (const Value& member : c.self.list().items) count += equal(member, *bound[0], c.budget) ? 1 : 0;
  }
  return Value(count);
}

Value run_list_index(const Call& c) {
  const auto bound = c.bind({"wanted"});
  const auto& items = c.self.list().items;
  for (size_t i = 0; bound[0] != nullptr && i < items.size(); ++i) {
    if (equal(items[i], *bound[0], c.budget)) return Value(static_cast<int64_t>(i));
  }
  fail("index(): the value is not there");
}

Value run_join(const Call& c) {
  const auto bound = c.bind({"items"});
  if (bound[0] == nullptr) fail("join() needs what to join");
  MarkedText out;
  bool first = true;
  const auto list = iterate(*bound[0], c.budget);
  for (const Value& part : list->items) {
    const MarkedText& text = text_of(part, "what join() joins");
    c.budget.bytes(2 * (text.size() + c.text().size()));
    if (!first) out.append(c.text());
    out.append(text);
    first = false;
  }
  return Value(std::move(out));
}

Value run_partition(const Call& c) {
  const auto bound = c.bind({"sep"});
  if (bound[0] == nullptr || text_of(*bound[0], "sep").size() == 0) fail(c.name + "() needs a separator");
  const MarkedText& separator = bound[0]->text();
  const bool right = c.name == "rpartition";
  std::vector<MarkedText> parts = split(c.text(), separator.bytes, 1, right, c.budget);
  if (parts.size() == 2) {
    parts.insert(parts.begin() + 1, separator);
  } else {
    parts.insert(right ? parts.begin() : parts.end(), 2, MarkedText());
  }
  return texts(std::move(parts), c.budget, List::Form::kTuple);
}

Value run_items(const Call& c) {
  (void)c.bind({});
  std::vector<Value> items;
  for (const auto& [key, value] : c.self.dict().items) {
    c.budget.bytes(sizeof(MarkedText) + 2 * key.size());
    if (c.name == "keys") {
      items.emplace_back(key);
    } else if (c.name == "values") {
      items.push_back(value);
    } else {
      items.push_back(make_list({Value(key), value}, c.budget, List::Form::kTuple));
    }
  }
  return make_list(std::move(items), c.budget, List::Form::kView);
}

Value run_get(const Call& c) {
  const auto bound = c.bind({"key", "default"});
  if (bound[0] == nullptr) fail("get() needs a key");
  c.budget.step(c.self.dict().items.size() / 8);
  const Value* found = bound[0]->is(Kind::kString) ? c.self.dict().find(bound[0]->text().bytes) : nullptr;
  if (found != nullptr) return *found;
  return bound[1] != nullptr ? *bound[1] : Value(None{});
}

Value run_copy(const Call& c) {
  (void)c.bind({});
  return c.self;  // nothing can change it
}

Value run_cycle(const Call& c) {
  if (c.arguments.positional.empty()) fail("loop.cycle() needs values");
  return c.arguments.positional[c.self.loop().index % c.arguments.positional.size()];
}

Value run_changing(const Call& c) {
  fail(c.name + "() would change " + c.self.type_name() + ": templates cannot");
}

constexpr Method kStringMethods[] = {{"strip", run_strip},
                                     {"lstrip", run_strip},
                                     {"rstrip", run_strip},
                                     {"split", run_split},
                                     {"rsplit", run_split},
                                     {"splitlines", run_split_lines},
                                     {"startswith", run_affix},
                                     {"endswith", run_affix},
                                     {"removeprefix", run_remove_affix},
                                     {"removesuffix", run_remove_affix},
                                     {"upper", run_case},
                                     {"lower", run_case},
                                     {"title", run_case},
                                     {"capitalize", run_case},
                                     {"isupper", run_is_case},
                                     {"islower", run_is_case},
                                     {"isdigit", run_is_digit},
                                     {"isspace", run_is_space},
                                     {"replace", run_replace},
                                     {"find", run_find},
                                     {"rfind", run_find},
                                     {"index", run_find},
                                     {"count", run_count},
                                     {"join", run_join},
                                     {"partition", run_partition},
                                     {"rpartition", run_partition}};

constexpr Method kDictMethods[] = {
    {"items", run_items},    {"keys", run_items},         {"values", run_items},     {"get", run_get},
    {"copy", run_copy},      {"pop", run_changing},       {"popitem", run_changing}, {"update", run_changing},
    {"clear", run_changing}, {"setdefault", run_changing}};

constexpr Method kListMethods[] = {
    {"index", run_list_index}, {"count", run_count},     {"copy", run_copy},       {"append", run_changing},
    {"extend", run_changing},  {"insert", run_changing}, {"pop", run_changing},    {"remove", run_changing},
    {"clear", run_changing},   {"sort", run_changing},   {"reverse", run_changing}};

constexpr Method kTupleMethods[] = {{"index", run_list_index}, {"count", run_count}};
constexpr Method kLoopMethods[] = {{"cycle", run_cycle}};

template <size_t kCount>
const Method* find_in(const Method (&methods)[kCount], std::string_view name) {
  for (const Method& method : methods) {
    if (method.name == name) return &method;
  }
  return nullptr;
}

const Method* find_method(const Value& value, std::string_view name) {
  if (value.is(Kind::kString)) return find_in(kStringMethods, name);
  if (value.is(Kind::kLoop)) return find_in(kLoopMethods, name);
  if (value.is(Kind::kDict)) return value.dict().is_namespace ? nullptr : find_in(kDictMethods, name);
  if (!value.is(Kind::kList) || value.list().form > List::Form::kTuple) return nullptr;
  return value.list().form == List::Form::kTuple ? find_in(kTupleMethods, name) : find_in(kListMethods, name);
}

}  // namespace

bool has_method(const Value& value, std::string_view name) {
  return find_method(value, name) != nullptr;
}

Value call_method(const Value& self, const std::string& name, const CallArguments& arguments,
                  Budget& budget) {
  budget.step();
  const Method* method = find_method(self, name);
  if (method == nullptr) fail(self.type_name() + " has no method " + name);
  return method->run({self, name, arguments, budget});
}

}  // namespace shoal::jinja
