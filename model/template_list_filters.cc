// The filters of lists and mappings: `value | name(...)`.
#include <algorithm>
#include <memory>
#include <utility>

#include "model/template_filter.h"
#include "model/template_text.h"

namespace shoal::jinja {
namespace {

using Kind = Value::Kind;

// What `attribute` ("a.b.0") leads to.
Value follow(const Value& value, const Value& path, Budget& budget) {
  if (!path.is(Kind::kString)) return item(value, path, budget);
  Value found = value;
  for (const MarkedText& part : split(path.text(), ".", -1, false, budget)) {
    const auto index = parse_integer(part);
    found = item(found, index ? Value(*index) : Value(part), budget);
  }
  return found;
}

Value run_length(const Filtered& f) {
  (void)f.bind({});
  size_t length = 0;
  if (f.value.is(Kind::kString)) {
    f.budget.step(f.value.text().size() / 16);
    length = count_code_points(f.value.text().bytes);
  } else if (f.value.is(Kind::kList) && f.value.list().form != List::Form::kGenerator) {
    length = f.value.list().items.size();
  } else if (f.value.is(Kind::kDict) && !f.value.dict().is_namespace) {
    length = f.value.dict().items.size();
  } else if (!f.value.is(Kind::kUndefined)) {
    fail(f.value.type_name() + " has no length");
  }
  return Value(static_cast<int64_t>(length));
}

Value run_default(const Filtered& f) {
  const auto bound = f.bind({"default_value", "boolean"});
  if (!f.value.is(Kind::kUndefined) && (!flag(bound[1]) || f.value.truthy())) return f.value;
  return bound[0] != nullptr ? *bound[0] : Value("", true);
}

Value run_first_last(const Filtered& f) {
  (void)f.bind({});
  const auto list = iterate(f.value, f.budget);
  if (list->items.empty()) return Value(Undefined{"the " + f.name + " item of nothing"});
  return f.name == "first" ? list->items.front() : list->items.back();
}

Value run_list(const Filtered& f) {
  (void)f.bind({});
  return make_list(iterate(f.value, f.budget)->items, f.budget);
}

Value run_items(const Filtered& f) {
  (void)f.bind({});
  if (f.value.is(Kind::kUndefined)) return make_list({}, f.budget, List::Form::kGenerator);
  if (!f.value.is(Kind::kDict) || f.value.dict().is_namespace)
    fail("the filter 'items' is for mappings, not " + f.value.type_name());
  return make_list(call_method(f.value, "items", {}, f.budget).list().items, f.budget,
                   List::Form::kGenerator);
}

Value run_join(const Filtered& f) {
  const auto bound = f.bind({"d", "attribute"});
  const MarkedText separator = bound[0] != nullptr ? to_text(*bound[0], f.budget) : MarkedText();
  MarkedText out;
  bool first = true;
  const auto list = iterate(f.value, f.budget);
  for (const Value& part : list->items) {
    f.budget.bytes(2 * separator.size());
    if (!first) out.append(separator);
    out.append(to_text(given(bound[1]) ? follow(part, *bound[1], f.budget) : part, f.budget));
    first = false;
  }
  return make_text(std::move(out), f.budget);
}

Value run_reverse(const Filtered& f) {
  (void)f.bind({});
  std::vector<Value> items = iterate(f.value, f.budget)->items;
  std::reverse(items.begin(), items.end());
  if (!f.value.is(Kind::kString)) return make_list(std::move(items), f.budget, List::Form::kGenerator);
  MarkedText out;
  for (const Value& character : items) out.append(character.text());
  return make_text(std::move(out), f.budget);
}

// To these filters none, false and 0 are an empty list, as in Jinja2.
std::shared_ptr<const List> items_if_any(const Filtered& f) {
  return f.value.truthy() ? iterate(f.value, f.budget) : std::make_shared<const List>();
}

Value run_map(const Filtered& f) {
  const auto items = items_if_any(f);
  std::vector<Value> out;
  if (f.arguments.positional.empty()) {
    const auto bound = f.bind({"attribute", "default"});
    if (bound[0] == nullptr) fail("the filter 'map' needs a filter's name or an attribute");
    for (const Value& value : items->items) {
      Value found = follow(value, *bound[0], f.budget);
      out.push_back(found.is(Kind::kUndefined) && given(bound[1]) ? *bound[1] : std::move(found));
    }
  } else {
    const std::string name = text_of(f.arguments.positional[0], "map's filter").bytes;
    if (name == "map") fail("the filter 'map' within itself is not offered");
    const CallArguments rest = f.arguments.from(1);
    for (const Value& value : items->items) out.push_back(apply_filter(name, value, rest, f.budget));
  }
  return make_list(std::move(out), f.budget, List::Form::kGenerator);
}

Value run_select(const Filtered& f) {  // select, reject, selectattr, rejectattr
  const bool by_attribute = f.name.ends_with("attr");
  const bool keep = f.name.starts_with("select");
  const auto& given = f.arguments.positional;
  const size_t test_at = by_attribute ? 1 : 0;
  if (by_attribute && given.empty()) fail("the filter '" + f.name + "' needs an attribute");
  const std::string test = given.size() > test_at ? text_of(given[test_at], "the test").bytes : "";
  const CallArguments rest = f.arguments.from(test_at + 1);
  std::vector<Value> out;
  const auto list = items_if_any(f);
  for (const Value& value : list->items) {
    f.budget.step();
    const Value tested = by_attribute ? follow(value, given[0], f.budget) : value;
    if ((test.empty() ? tested.truthy() : apply_test(test, tested, rest, f.budget)) == keep)
      out.push_back(value);
  }
  return make_list(std::move(out), f.budget, List::Form::kGenerator);
}

// What values are sorted and compared by: strings without regard to case unless asked.
Value sort_key(const Value& value, const Value* attribute, const Value* case_sensitive, Budget& budget) {
  const Value key = given(attribute) ? follow(value, *attribute, budget) : value;
  if (!key.is(Kind::kString) || flag(case_sensitive)) return key;
  return make_text(change_case(key.text(), Case::kLower, budget), budget);
}

std::vector<Value> sorted(const std::vector<Value>& items, const std::vector<Value>& keys, bool reverse,
                          Budget& budget) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const int way = compare(keys[a], keys[b], budget);
    return reverse ? way > 0 : way < 0;
  });
  std::vector<Value> out;
  for (const size_t i : order) out.push_back(items[i]);
  return out;
}

Value run_sort(const Filtered& f) {
  const auto bound = f.bind({"reverse", "case_sensitive", "attribute"});
  const auto list = iterate(f.value, f.budget);
  std::vector<Value> keys;
  for (const Value& value : list->items) keys.push_back(sort_key(value, bound[2], bound[1], f.budget));
  return make_list(sorted(list->items, keys, flag(bound[0]), f.budget), f.budget);
}

Value run_dictsort(const Filtered& f) {
  const auto bound = f.bind({"case_sensitive", "by", "reverse"});
  const std::string by = bound[1] != nullptr ? text_of(*bound[1], "by").bytes : "key";
  if (by != "key" && by != "value") fail("dictsort: by must be key or value");
  const bool by_value = by == "value";
  const std::vector<Value> items = run_items({f.name, f.value, {}, f.budget}).list().items;
  std::vector<Value> keys;
  for (const Value& pair : items)
    keys.push_back(sort_key(pair.list().items[by_value ? 1 : 0], nullptr, bound[0], f.budget));
  return make_list(sorted(items, keys, flag(bound[2]), f.budget), f.budget);
}

Value run_unique(const Filtered& f) {
  const auto bound = f.bind({"case_sensitive", "attribute"});
  std::vector<Value> keys, out;
  const auto list = iterate(f.value, f.budget);
  for (const Value& value : list->items) {
    Value key = sort_key(value, bound[1], bound[0], f.budget);
    if (std::any_of(keys.begin(), keys.end(), [&](const Value& k) { return equal(k, key, f.budget); }))
      continue;
    keys.push_back(std::move(key));
    out.push_back(value);
  }
  return make_list(std::move(out), f.budget, List::Form::kGenerator);
}

Value run_min_max(const Filtered& f) {
  const auto bound = f.bind({"case_sensitive", "attribute"});
  const auto list = iterate(f.value, f.budget);
  if (list->items.empty()) return Value(Undefined{"the " + f.name + " of nothing"});
  size_t best = 0;
  Value best_key = sort_key(list->items[0], bound[1], bound[0], f.budget);
  for (size_t i = 1; i < list->items.size(); ++i) {
    Value key = sort_key(list->items[i], bound[1], bound[0], f.budget);
    const int way = compare(key, best_key, f.budget);
    if (f.name == "min" ? way >= 0 : way <= 0) continue;
    best = i;
    best_key = std::move(key);
  }
  return list->items[best];
}

Value run_sum(const Filtered& f) {
  const auto bound = f.bind({"attribute", "start"});
  Value total = bound[1] != nullptr ? *bound[1] : Value(int64_t{0});
  const auto list = iterate(f.value, f.budget);
  for (const Value& value : list->items)
    total = binary("+", total, given(bound[0]) ? follow(value, *bound[0], f.budget) : value, f.budget);
  return total;
}

Value run_batch(const Filtered& f) {
  const auto bound = f.bind({"linecount", "fill_with"});
  const int64_t size = bound[0] != nullptr ? integer_of(*bound[0], "linecount") : 0;
  if (size < 1) fail("the filter 'batch' needs a size of at least 1");
  std::vector<Value> out, batch;
  const auto list = iterate(f.value, f.budget);
  for (const Value& value : list->items) {
    batch.push_back(value);
    if (static_cast<int64_t>(batch.size()) == size)
      out.push_back(make_list(std::exchange(batch, {}), f.budget));
  }
  while (!batch.empty() && given(bound[1]) && static_cast<int64_t>(batch.size()) < size) {
    f.budget.bytes(sizeof(Value));
    batch.push_back(*bound[1]);
  }
  if (!batch.empty()) out.push_back(make_list(std::move(batch), f.budget));
  return make_list(std::move(out), f.budget, List::Form::kGenerator);
}

Value run_attr(const Filtered& f) {
  const auto bound = f.bind({"name"});
  if (bound[0] == nullptr) fail("the filter 'attr' needs a name");
  // Python's attributes alone, not a mapping's members.
  const std::string& name = text_of(*bound[0], "name").bytes;
  return f.value.is(Kind::kDict) && !has_method(f.value, name) && !f.value.dict().is_namespace
             ? Value(Undefined{name})
             : attribute(f.value, name, f.budget);
}

constexpr Filter kListFilters[] = {
    {"attr", run_attr},        {"batch", run_batch},       {"count", run_length},
    {"d", run_default},        {"default", run_default},   {"dictsort", run_dictsort},
    {"first", run_first_last}, {"items", run_items},       {"join", run_join},
    {"last", run_first_last},  {"length", run_length},     {"list", run_list},
    {"map", run_map},          {"max", run_min_max},       {"min", run_min_max},
    {"reject", run_select},    {"rejectattr", run_select}, {"reverse", run_reverse},
    {"select", run_select},    {"selectattr", run_select}, {"sort", run_sort},
    {"sum", run_sum},          {"unique", run_unique}};

}  // namespace

std::span<const Filter> list_filters() {
  return kListFilters;
}

}  // namespace shoal::jinja
