// Values of the template language (Jinja): what a template's variables hold. A string knows of each of its
// bytes whether the template wrote it or somebody outside did, and keeps that through every operation; so
// what a user typed is never taken for a control token, wherever the template puts it.
//
// Values are immutable but for namespaces, and cheap to copy: strings, lists and mappings are shared. A
// budget counts the steps and the bytes of one rendering; whoever makes something charges it first. No
// threads: values of one rendering stay on one thread, and those that come from outside are only read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace shoal::jinja {

// A template cannot be parsed or rendered: which line of it, and why. Thrown in this language's files alone
// and caught at their door, model/chat_template.cc.
struct TemplateError {
  int line = 0;  // 0: not known yet, whoever knows it fills it in
  std::string message;
};
[[noreturn]] void fail(std::string message);

inline constexpr int kValueDepthMax = 100;  // lists and mappings within each other

// What one rendering may use.
class Budget {
 public:
  Budget(size_t steps, size_t bytes) : steps_(steps), bytes_(bytes), steps_max_(steps), bytes_max_(bytes) {}
  void step(size_t count = 1);
  void bytes(size_t count);  // also counts a step for each kBytesPerStep of them

 private:
  static constexpr size_t kBytesPerStep = 256;
  size_t steps_, bytes_, steps_max_, bytes_max_;
};

// `trust` holds a kTrusted or kUntrusted for each byte.
struct MarkedText {
  static constexpr char kTrusted = 1, kUntrusted = 0;
  std::string bytes, trust;

  MarkedText() = default;
  MarkedText(std::string text, bool trusted)
      : bytes(std::move(text)), trust(bytes.size(), trusted ? kTrusted : kUntrusted) {}
  size_t size() const { return bytes.size(); }
  void append(const MarkedText& other);
  void append(std::string_view text, bool trusted);
  MarkedText substr(size_t begin, size_t length) const;
};

class Value;
struct List;
struct Dict;
struct Loop;
struct Callable;

struct Undefined {
  std::string name;  // of what was not found, for messages
};
struct None {};

class Value {
 public:
  enum class Kind { kUndefined, kNone, kBool, kInt, kFloat, kString, kList, kDict, kLoop, kCallable };

  Value() : content_(Undefined{}) {}
  Value(Undefined undefined) : content_(std::move(undefined)) {}
  Value(None none) : content_(none) {}
  explicit Value(bool value) : content_(value) {}
  explicit Value(int64_t value) : content_(value) {}
  explicit Value(double value) : content_(value) {}
  Value(MarkedText text) : content_(std::make_shared<const MarkedText>(std::move(text))) {}
  Value(std::string text, bool trusted) : Value(MarkedText(std::move(text), trusted)) {}
  Value(std::shared_ptr<const List> list) : content_(std::move(list)) {}
  Value(std::shared_ptr<Dict> dict) : content_(std::move(dict)) {}
  Value(std::shared_ptr<const Loop> loop) : content_(std::move(loop)) {}
  Value(std::shared_ptr<const Callable> callable) : content_(std::move(callable)) {}

  Kind kind() const { return static_cast<Kind>(content_.index()); }
  bool is(Kind kind) const { return this->kind() == kind; }
  bool is_number() const { return is(Kind::kBool) || is(Kind::kInt) || is(Kind::kFloat); }
  bool is_integer() const { return is(Kind::kBool) || is(Kind::kInt); }

  // Of the kind that was asked for before.
  const std::string& undefined_name() const { return std::get<Undefined>(content_).name; }
  bool boolean() const { return std::get<bool>(content_); }
  int64_t integer() const;  // a boolean counts as 0 or 1
  double number() const;    // any number
  const MarkedText& text() const { return *std::get<std::shared_ptr<const MarkedText>>(content_); }
  const List& list() const { return *std::get<std::shared_ptr<const List>>(content_); }
  std::shared_ptr<const List> shared_list() const { return std::get<std::shared_ptr<const List>>(content_); }
  Dict& dict() const { return *std::get<std::shared_ptr<Dict>>(content_); }
  const Loop& loop() const { return *std::get<std::shared_ptr<const Loop>>(content_); }
  const Callable& callable() const { return *std::get<std::shared_ptr<const Callable>>(content_); }

  bool truthy() const;
  int depth() const;              // 0 for what holds no other values
  std::string type_name() const;  // as Python calls it, for messages

 private:
  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const MarkedText>,
               std::shared_ptr<const List>, std::shared_ptr<Dict>, std::shared_ptr<const Loop>,
               std::shared_ptr<const Callable>>
      content_;
};

struct List {
  // A view has a length but no indices (a mapping's items); a generator has neither and is always true.
  enum class Form { kList, kTuple, kView, kGenerator };
  Form form = Form::kList;
  std::vector<Value> items;
  int depth = 1;
};

// In order of insertion; keys are strings.
struct Dict {
  bool is_namespace = false;
  std::vector<std::pair<MarkedText, Value>> items;
  int depth = 1;
  const Value* find(std::string_view key) const;  // nullptr if absent
};

// A `for` in progress.
struct Loop {
  size_t index = 0;
  std::shared_ptr<const List> items;
};

struct MacroNode;
struct Callable {
  const MacroNode* macro = nullptr;
  std::string name;  // of a global function, or of a method of `self`
  Value self;        // undefined: not a method
};

// Charge the budget; refuse what would be nested too deep, and namespaces or functions as members.
Value make_list(std::vector<Value> items, Budget& budget, List::Form form = List::Form::kList);
Value make_dict(std::vector<std::pair<MarkedText, Value>> items, Budget& budget);
Value make_text(MarkedText text, Budget& budget);
// From outside, before any rendering: no budget. All keys differ.
Value given_list(std::vector<Value> items);
Value given_dict(std::vector<std::pair<MarkedText, Value>> items);
// What a value holds, in bytes, about: a budget is made by it.
size_t weight(const Value& value);
void set_member(Dict& dict, const MarkedText& key, Value value, Budget& budget);

// As Python compares.
bool equal(const Value& a, const Value& b, Budget& budget);
int compare(const Value& a, const Value& b, Budget& budget);  // < 0, 0, > 0; fails where there is no order
bool contains(const Value& container, const Value& item, Budget& budget);

// The members of what can be gone through: a list, a mapping's keys, a string's characters, nothing for
// undefined.
std::shared_ptr<const List> iterate(const Value& value, Budget& budget);

// `{{ value }}`: as Python's str(). `to_repr`: as its repr().
MarkedText to_text(const Value& value, Budget& budget);
MarkedText to_repr(const Value& value, Budget& budget);
// As Python's json.dumps(value, ensure_ascii=False, indent=indent); -1: in one line.
struct JsonStyle {
  int indent = -1;
  bool sort_keys = false;
  std::string item_separator = ", ", key_separator = ": ";
};
MarkedText to_json(const Value& value, const JsonStyle& style, Budget& budget);

}  // namespace shoal::jinja
