#include "model/template_value.h"

#include <algorithm>

#include "model/template_text.h"

namespace shoal::jinja {

void fail(std::string message) {
  throw TemplateError{0, std::move(message)};
}

void Budget::step(size_t count) {
  if (count > steps_) {
    fail("the template takes more than " + std::to_string(steps_max_) +
         " steps, the most that one rendering may");
  }
  steps_ -= count;
}

void Budget::bytes(size_t count) {
  step(count / kBytesPerStep);
  if (count > bytes_) {
    fail("the template makes more than " + std::to_string(bytes_max_) +
         " bytes of text and lists, the most that one rendering may");
  }
  bytes_ -= count;
}

void MarkedText::append(const MarkedText& other) {
  bytes += other.bytes;
  trust += other.trust;
}

void MarkedText::append(std::string_view text, bool trusted) {
  bytes += text;
  trust.append(text.size(), trusted ? kTrusted : kUntrusted);
}

MarkedText MarkedText::substr(size_t begin, size_t length) const {
  MarkedText part;
  part.bytes = bytes.substr(begin, length);
  part.trust = trust.substr(begin, length);
  return part;
}

int64_t Value::integer() const {
  return is(Kind::kBool) ? int64_t{boolean()} : std::get<int64_t>(content_);
}

double Value::number() const {
  return is(Kind::kFloat) ? std::get<double>(content_) : static_cast<double>(integer());
}

bool Value::truthy() const {
  switch (kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat:
      return number() != 0;
    case Kind::kString:
      return text().size() > 0;
    case Kind::kList:
      return list().form == List::Form::kGenerator || !list().items.empty();
    case Kind::kDict:
      return dict().is_namespace || !dict().items.empty();
    default:
      return true;
  }
}

int Value::depth() const {
  if (is(Kind::kList)) return list().depth;
  if (is(Kind::kDict)) return dict().depth;
  return 0;
}

std::string Value::type_name() const {
  switch (kind()) {
    case Kind::kUndefined:
      return "undefined";
    case Kind::kNone:
      return "none";
    case Kind::kBool:
      return "a boolean";
    case Kind::kInt:
      return "an integer";
    case Kind::kFloat:
      return "a float";
    case Kind::kString:
      return "a string";
    case Kind::kList:
      return list().form == List::Form::kTuple  ? "a tuple"
             : list().form == List::Form::kList ? "a list"
                                                : "an iterator";
    case Kind::kDict:
      return dict().is_namespace ? "a namespace" : "a mapping";
    case Kind::kLoop:
      return "a loop";
    case Kind::kCallable:
      return callable().self.is(Kind::kUndefined) ? "a function" : "a method (" + callable().name + ")";
  }
  return {};
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [name, value] : items) {
    if (name.bytes == key) return &value;
  }
  return nullptr;
}

namespace {

// The depth of what holds `member`. Namespaces can be changed and could come to hold themselves.
int depth_over(const Value& member) {
  if (member.is(Value::Kind::kCallable) || member.is(Value::Kind::kLoop) ||
      (member.is(Value::Kind::kDict) && member.dict().is_namespace)) {
    fail(member.type_name() + " cannot be put into a list, a mapping or a namespace");
  }
  const int depth = member.depth() + 1;
  if (depth > kValueDepthMax)
    fail("lists and mappings are nested more than " + std::to_string(kValueDepthMax) + " deep");
  return depth;
}

}  // namespace

Value make_list(std::vector<Value> items, Budget& budget, List::Form form) {
  budget.bytes(sizeof(List) + items.size() * sizeof(Value));
  auto list = std::make_shared<List>();
  list->form = form;
  for (const Value& item : items) list->depth = std::max(list->depth, depth_over(item));
  list->items = std::move(items);
  return Value(std::shared_ptr<const List>(std::move(list)));
}

Value make_dict(std::vector<std::pair<MarkedText, Value>> items, Budget& budget) {
  auto dict = std::make_shared<Dict>();
  budget.bytes(sizeof(Dict));
  for (auto& [key, value] : items) set_member(*dict, key, std::move(value), budget);
  return Value(std::move(dict));
}

Value make_text(MarkedText text, Budget& budget) {
  budget.bytes(sizeof(MarkedText) + 2 * text.size());
  return Value(std::move(text));
}

Value given_list(std::vector<Value> items) {
  auto list = std::make_shared<List>();
  for (const Value& item : items) list->depth = std::max(list->depth, depth_over(item));
  list->items = std::move(items);
  return Value(std::shared_ptr<const List>(std::move(list)));
}

Value given_dict(std::vector<std::pair<MarkedText, Value>> items) {
  auto dict = std::make_shared<Dict>();
  for (const auto& item : items) dict->depth = std::max(dict->depth, depth_over(item.second));
  dict->items = std::move(items);
  return Value(std::move(dict));
}

size_t weight(const Value& value) {
  size_t total = sizeof(Value);
  if (value.is(Value::Kind::kString)) total += 2 * value.text().size();
  if (value.is(Value::Kind::kList)) {
    for (const Value& item : value.list().items) total += weight(item);
  }
  if (value.is(Value::Kind::kDict)) {
    for (const auto& [key, member] : value.dict().items) total += 2 * key.size() + weight(member);
  }
  return total;
}

void set_member(Dict& dict, const MarkedText& key, Value value, Budget& budget) {
  budget.step(1 + dict.items.size() / 8);
  dict.depth = std::max(dict.depth, depth_over(value));
  for (auto& [name, member] : dict.items) {
    if (name.bytes != key.bytes) continue;
    member = std::move(value);
    return;
  }
  budget.bytes(2 * key.size() + sizeof(MarkedText) + sizeof(Value));
  dict.items.emplace_back(key, std::move(value));
}

// ---- comparing ----

namespace {

bool equal_lists(const List& a, const List& b, Budget& budget) {
  return a.form == b.form && std::equal(a.items.begin(), a.items.end(), b.items.begin(), b.items.end(),
                                        [&](const Value& x, const Value& y) { return equal(x, y, budget); });
}

bool equal_dicts(const Dict& a, const Dict& b, Budget& budget) {
  if (a.is_namespace || b.is_namespace) return &a == &b;
  if (a.items.size() != b.items.size()) return false;
  return std::all_of(a.items.begin(), a.items.end(), [&](const auto& item) {
    budget.step(1 + b.items.size() / 8);
    const Value* other = b.find(item.first.bytes);
    return other != nullptr && equal(item.second, *other, budget);
  });
}

}  // namespace

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_integer() && b.is_integer()) return a.integer() == b.integer();
  if (a.is_number() && b.is_number()) return a.number() == b.number();
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Value::Kind::kUndefined:
    case Value::Kind::kNone:
      return true;
    case Value::Kind::kString:
      budget.step(std::min(a.text().size(), b.text().size()) / 256);
      return a.text().bytes == b.text().bytes;
    case Value::Kind::kList:
      return equal_lists(a.list(), b.list(), budget);
    case Value::Kind::kDict:
      return equal_dicts(a.dict(), b.dict(), budget);
    default:
      return false;
  }
}

int compare(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_integer() && b.is_integer()) return a.integer() < b.integer() ? -1 : a.integer() > b.integer();
  if (a.is_number() && b.is_number()) return a.number() < b.number() ? -1 : a.number() > b.number();
  if (a.is(Value::Kind::kString) && b.is(Value::Kind::kString)) {
    budget.step(std::min(a.text().size(), b.text().size()) / 256);
    return a.text().bytes.compare(b.text().bytes);
  }
  if (a.is(Value::Kind::kList) && b.is(Value::Kind::kList)) {
    const auto &x = a.list().items, &y = b.list().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equal(x[i], y[i], budget)) return compare(x[i], y[i], budget);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size();
  }
  fail("there is no order between " + a.type_name() + " and " + b.type_name());
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  budget.step();
  switch (container.kind()) {
    case Value::Kind::kUndefined:
      return false;
    case Value::Kind::kString:
      if (!item.is(Value::Kind::kString)) fail(item.type_name() + " cannot be looked for in a string");
      budget.step(container.text().size() / 16);
      return container.text().bytes.find(item.text().bytes) != std::string::npos;
    case Value::Kind::kList:
      for (const Value& member : container.list().items) {
        if (equal(member, item, budget)) return true;
      }
      return false;
    case Value::Kind::kDict:
      if (container.dict().is_namespace) break;
      budget.step(container.dict().items.size() / 8);
      return item.is(Value::Kind::kString) && container.dict().find(item.text().bytes) != nullptr;
    default:
      break;
  }
  fail("`in` cannot look into " + container.type_name());
}

std::shared_ptr<const List> iterate(const Value& value, Budget& budget) {
  auto list = std::make_shared<List>();
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      return list;
    case Value::Kind::kList:
      return value.shared_list();
    case Value::Kind::kString: {
      const std::vector<size_t> starts = code_point_starts(value.text().bytes);
      budget.bytes(starts.size() * (sizeof(Value) + sizeof(MarkedText)));
      for (size_t i = 0; i + 1 < starts.size(); ++i)
        list->items.emplace_back(value.text().substr(starts[i], starts[i + 1] - starts[i]));
      return list;
    }
    case Value::Kind::kDict:
      if (value.dict().is_namespace) break;
      budget.bytes(value.dict().items.size() * sizeof(Value));
      for (const auto& item : value.dict().items) list->items.emplace_back(item.first);
      return list;
    default:
      break;
  }
  fail(value.type_name() + " cannot be gone through");
}

}  // namespace shoal::jinja
