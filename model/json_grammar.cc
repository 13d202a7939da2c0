#include "model/json_grammar.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "base/check.h"

namespace shoal {
namespace {

constexpr size_t kShapesOfTypeMax = 128;  // all of them are looked at where a value begins

}  // namespace

bool ByteTrie::add(std::string_view bytes, int number) {
  auto mark = [&](uint32_t node) {
    if (number >= 0 && static_cast<size_t>(number) < kPropertiesMax)
      nodes[node].below.set(static_cast<size_t>(number));
  };
  uint32_t node = 0;
  mark(node);
  for (const char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    const uint32_t* next = child(node, byte);
    if (next == nullptr) {
      const auto added = static_cast<uint32_t>(nodes.size());
      nodes.emplace_back();
      nodes[node].children.emplace_back(byte, added);
      node = added;
    } else {
      node = *next;
    }
    mark(node);
  }
  if (nodes[node].terminal >= 0) return false;
  nodes[node].terminal = number;
  return true;
}

const uint32_t* ByteTrie::child(uint32_t node, uint8_t byte) const {
  for (const auto& [value, next] : nodes[node].children) {
    if (value == byte) return &next;
  }
  return nullptr;
}

JsonGrammar::JsonGrammar() {
  using Kind = JsonShape::Kind;
  SHOAL_CHECK(add_type() == kAny);
  JsonShape object, array, string, number, words;
  object.kind = Kind::kObject;
  object.additional = kAny;
  array.kind = Kind::kArray;
  array.items = kAny;
  string.kind = Kind::kString;
  number.kind = Kind::kNumber;
  int count = 0;
  for (const char* word : {"true", "false", "null"}) words.bytes.add(word, count++);
  for (JsonShape* shape : {&object, &array, &string, &number, &words}) add_shape(kAny, std::move(*shape));
}

int JsonGrammar::add_type() {
  types_.emplace_back();
  return static_cast<int>(types_.size()) - 1;
}

void JsonGrammar::add_shape(int type, JsonShape shape) {
  types_[static_cast<size_t>(type)].shapes.push_back(static_cast<int>(shapes_.size()));
  shapes_.push_back(std::move(shape));
}

void JsonGrammar::add_alternative(int type, int other) {
  types_[static_cast<size_t>(type)].alternatives.push_back(other);
}

// Alternatives that accept the same would each be followed. Strings and numbers alone: what else is alike
// seldom comes twice.
void JsonGrammar::leave_out_twins(std::vector<int>& shapes) const {
  std::set<std::tuple<JsonShape::Kind, int, int>> had;
  std::erase_if(shapes, [&](int index) {
    const JsonShape& shape = this->shape(index);
    const bool plain = shape.kind == JsonShape::Kind::kString || shape.kind == JsonShape::Kind::kNumber ||
                       shape.kind == JsonShape::Kind::kInteger;
    return plain && !had.insert({shape.kind, shape.least, shape.most}).second;
  });
}

// Gives each type the shapes of all types that it may also be, however these refer to each other.
bool JsonGrammar::spread_alternatives() {
  std::vector<std::vector<int>> spread(types_.size());
  size_t total = 0;
  for (size_t type = 0; type < types_.size(); ++type) {
    std::vector<bool> seen(types_.size());
    std::vector<int> open{static_cast<int>(type)};
    seen[type] = true;
    while (!open.empty()) {
      const Type& from = types_[static_cast<size_t>(open.back())];
      open.pop_back();
      spread[type].insert(spread[type].end(), from.shapes.begin(), from.shapes.end());
      for (const int other : from.alternatives) {
        if (!seen[static_cast<size_t>(other)]) open.push_back(other);
        seen[static_cast<size_t>(other)] = true;
      }
    }
    total += spread[type].size();
    if (total > kGrammarShapesMax || spread[type].size() > kShapesOfTypeMax) return false;
    leave_out_twins(spread[type]);
  }
  for (size_t type = 0; type < types_.size(); ++type) types_[type].shapes = std::move(spread[type]);
  return true;
}

// From what is known of the heights of its parts.
int JsonGrammar::height_by_parts(const JsonShape& shape) const {
  int inner = 0;
  switch (shape.kind) {
    case JsonShape::Kind::kObject:
      for (size_t i = 0; i < shape.property_types.size(); ++i) {
        if (shape.required[i]) inner = std::max(inner, height_of_type(shape.property_types[i]));
      }
      return 1 + inner;
    case JsonShape::Kind::kArray:
      return shape.least > shape.most ? kNestingMax + 1
                                      : 1 + (shape.least > 0 ? height_of_type(shape.items) : 0);
    case JsonShape::Kind::kLiteral:
      return shape.bytes.nodes.size() > 1 ? 0 : kNestingMax + 1;
    default:
      return shape.least > shape.most ? kNestingMax + 1 : 0;
  }
}

// The least fixed point. Heights of at most r are final after r + 1 rounds, and larger ones than kNestingMax
// do not count.
void JsonGrammar::find_heights() {
  heights_.assign(shapes_.size(), kNestingMax + 1);
  for (int round = 0; round <= kNestingMax; ++round) {
    bool changed = false;
    for (size_t i = 0; i < shapes_.size(); ++i) {
      const int height = std::min(height_by_parts(shapes_[i]), kNestingMax + 1);
      changed = changed || height != heights_[i];
      heights_[i] = height;
    }
    for (Type& type : types_) {
      for (const int shape : type.shapes) type.height = std::min(type.height, height_of_shape(shape));
    }
    if (!changed) return;
  }
}

bool JsonGrammar::finish(int root, std::string& problem) {
  root_ = root;
  if (!spread_alternatives()) {
    problem = "has too many alternatives";
    return false;
  }
  find_heights();
  if (height_of_type(root) <= kNestingMax) return true;
  problem = "allows no value at all (or none that ends)";
  return false;
}

}  // namespace shoal
