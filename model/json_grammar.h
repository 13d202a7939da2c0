// Which JSON texts are allowed: a grammar over types, made from a JSON schema or for any JSON, that
// JsonMatcher walks byte by byte. It has a rule for containers, strings and numbers instead of productions
// for each, so that the members of an object may come in any order without a rule for each order.
//
// Every state that the matcher can reach can be completed: a type's `height`, the least nesting that a value
// of it needs, is computed when the grammar is finished, and values that cannot be finished within
// kNestingMax are never begun. Built by one thread; immutable and safe from several once finish() has
// succeeded.
#pragma once

#include <bitset>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shoal {

inline constexpr int kNestingMax = 64;               // containers within each other, in the text
inline constexpr size_t kPropertiesMax = 128;        // of one object
inline constexpr size_t kGrammarTypesMax = 4096;     // of one grammar
inline constexpr size_t kGrammarShapesMax = 65536;   // of all its types, alternatives spread out
inline constexpr size_t kGrammarBytesMax = 1 << 18;  // of its property names and literals

using PropertySet = std::bitset<kPropertiesMax>;

// Byte strings that begin alike share nodes. The root is node 0.
struct ByteTrie {
  struct Node {
    int terminal = -1;                                   // which string ends here; -1: none
    PropertySet below;                                   // strings that end here or further on; of names only
    std::vector<std::pair<uint8_t, uint32_t>> children;  // few: searched in order
  };
  std::vector<Node> nodes{1};
  // Returns false where the string is there already.
  bool add(std::string_view bytes, int number);
  const uint32_t* child(uint32_t node, uint8_t byte) const;
};

// One shape of value. A type is a set of them.
struct JsonShape {
  enum class Kind : uint8_t { kObject, kArray, kString, kNumber, kInteger, kLiteral };
  Kind kind = Kind::kLiteral;
  int least = 0, most = std::numeric_limits<int>::max();  // items, or code points of a string
  int items = -1;                                         // array: their type
  ByteTrie bytes;                                         // literals, or property names as JSON writes them
  std::vector<int> property_types;                        // object
  PropertySet required;
  int additional = -1;  // object: type of members that are not named; -1: there are none
};

class JsonGrammar {
 public:
  JsonGrammar();
  // A type that any JSON value has. Always type 0.
  static constexpr int kAny = 0;

  // Building. Types are numbers; what a type is made of may be added after it has been referred to.
  int add_type();
  void add_shape(int type, JsonShape shape);
  void add_alternative(int type, int other);  // `type` may also be what `other` is
  size_t types() const { return types_.size(); }

  // False: it has more shapes than kGrammarShapesMax, or no value of the root type exists that ends within
  // kNestingMax; `problem` says which.
  bool finish(int root, std::string& problem);

  int root() const { return root_; }
  const std::vector<int>& shapes_of(int type) const { return types_[static_cast<size_t>(type)].shapes; }
  const JsonShape& shape(int index) const { return shapes_[static_cast<size_t>(index)]; }
  // Containers within each other that a value needs at least, itself included; above kNestingMax: none
  // exists.
  int height_of_type(int type) const { return types_[static_cast<size_t>(type)].height; }
  int height_of_shape(int shape) const { return heights_[static_cast<size_t>(shape)]; }

 private:
  struct Type {
    std::vector<int> shapes;        // indices into shapes_; after finish() its alternatives' too
    std::vector<int> alternatives;  // other types
    int height = kNestingMax + 1;
  };
  bool spread_alternatives();
  void leave_out_twins(std::vector<int>& shapes) const;
  int height_by_parts(const JsonShape& shape) const;
  void find_heights();

  std::vector<Type> types_;
  std::vector<JsonShape> shapes_;
  std::vector<int> heights_;
  int root_ = kAny;
};

}  // namespace shoal
