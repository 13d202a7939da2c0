#include "node/http/json_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <map>
#include <optional>
#include <string_view>

#include "base/check.h"
#include "model/utf8.h"

namespace shoal {

namespace json = boost::json;

namespace {

using Kind = JsonShape::Kind;

// Thrown inside this file alone and caught at its door.
struct SchemaError {
  ApiError error;
};

[[noreturn]] void refuse(const std::string& path, const std::string& problem) {
  constexpr size_t kPathBytesMax = 300;  // names come from the client
  const std::string field = path.substr(0, kPathBytesMax);
  throw SchemaError{{400, fmt::format("{}: {}", field, problem), field, "", 0}};
}

constexpr std::string_view kAnnotations[] = {"title",      "description", "default",   "examples",
                                             "deprecated", "readOnly",    "writeOnly", "$comment",
                                             "$schema",    "$id",         "$defs",     "definitions"};
constexpr std::string_view kObjectWords[] = {"properties", "required", "additionalProperties"};
constexpr std::string_view kArrayWords[] = {"items", "minItems", "maxItems"};
constexpr std::string_view kStringWords[] = {"minLength", "maxLength"};
constexpr std::string_view kValueWords[] = {"enum", "const"};
constexpr std::string_view kOtherWords[] = {"type", "anyOf", "$ref"};
constexpr std::string_view kTypes[] = {"object", "array", "string", "number", "integer", "boolean", "null"};

template <size_t N>
bool among(std::string_view word, const std::string_view (&words)[N]) {
  return std::find(std::begin(words), std::end(words), word) != std::end(words);
}

template <size_t N>
bool has_any(const json::object& schema, const std::string_view (&words)[N]) {
  return std::any_of(std::begin(words), std::end(words), [&](auto word) { return schema.contains(word); });
}

class Compiler {
 public:
  Compiler(const json::value& root, std::string path) : root_(root), path_(std::move(path)) {}

  std::shared_ptr<const JsonGrammar> compile() {
    const int root = reference("#", path_);
    while (!open_.empty()) {
      const Open next = std::move(open_.back());
      open_.pop_back();
      fill(next.type, *next.schema, next.path);
    }
    std::string problem;
    if (!grammar_->finish(root, problem)) refuse(path_, problem);
    return grammar_;
  }

 private:
  struct Open {
    int type;
    const json::value* schema;
    std::string path;
  };

  int new_type(const std::string& path) {
    if (grammar_->types() >= kGrammarTypesMax)
      refuse(path, fmt::format("the schema has more than {} parts", kGrammarTypesMax));
    return grammar_->add_type();
  }
  // The type of a schema; what it is made of is found out later, so that nothing recurses.
  int type_of(const json::value& schema, const std::string& path) {
    const int type = new_type(path);
    open_.push_back({type, &schema, path});
    return type;
  }
  int reference(std::string_view target, const std::string& path);
  void fill(int type, const json::value& schema, const std::string& path);
  std::vector<std::string_view> named_types(const json::object& schema, const std::string& path) const;
  void add_values(int type, const json::object& schema, const std::vector<std::string_view>& types,
                  const std::string& path);
  void add_shape_of(int type, std::string_view name, const json::object& schema, const std::string& path);
  JsonShape object_shape(const json::object& schema, const std::string& path);
  void add_property(JsonShape& shape, const json::string& name, int type, const std::string& path);
  void count_bytes(size_t bytes, const std::string& path) {
    bytes_ += bytes;
    if (bytes_ > kGrammarBytesMax)
      refuse(path, fmt::format("names and values hold more than {} bytes in all", kGrammarBytesMax));
  }
  static void read_counts(const json::object& schema, const char* least, const char* most,
                          const std::string& path, JsonShape& shape);

  const json::value& root_;
  const std::string path_;
  std::shared_ptr<JsonGrammar> grammar_ = std::make_shared<JsonGrammar>();
  std::vector<Open> open_;
  std::map<std::string, int, std::less<>> references_;
  size_t bytes_ = 0;
};

// "#" or a pointer (RFC 6901) into the schema.
int Compiler::reference(std::string_view target, const std::string& path) {
  if (const auto known = references_.find(target); known != references_.end()) return known->second;
  if (!target.starts_with('#') || target.find('%') != std::string_view::npos)
    refuse(path, "only references into the schema itself are offered, such as #/$defs/name");
  json::error_code code;
  const json::value* found = root_.find_pointer({target.data() + 1, target.size() - 1}, code);
  if (found == nullptr) refuse(path, "refers to what is not there");
  const int type = type_of(*found, target == "#" ? path_ : path);
  references_.emplace(target, type);
  return type;
}

void check_words(const json::object& schema, const std::string& path) {
  for (const auto& member : schema) {
    const std::string_view word(member.key().data(), member.key().size());
    if (!among(word, kAnnotations) && !among(word, kObjectWords) && !among(word, kArrayWords) &&
        !among(word, kStringWords) && !among(word, kValueWords) && !among(word, kOtherWords)) {
      refuse(path, fmt::format("the keyword \"{}\" is not offered", word.substr(0, 60)));
    }
  }
  // Two that would both have to hold are not worked out against each other.
  int ways = 0;
  for (const char* word : {"anyOf", "$ref", "enum", "const"}) ways += schema.contains(word) ? 1 : 0;
  const bool more =
      has_any(schema, kObjectWords) || has_any(schema, kArrayWords) || has_any(schema, kStringWords);
  const bool indirect = schema.contains("anyOf") || schema.contains("$ref");
  if (ways > 1 || (ways == 1 && more) || (indirect && schema.contains("type")))
    refuse(path,
           "anyOf, $ref, enum and const are offered alone, not beside keywords that limit the value too");
}

void Compiler::fill(int type, const json::value& schema, const std::string& path) {
  if (schema.is_bool()) {
    if (schema.get_bool()) grammar_->add_alternative(type, JsonGrammar::kAny);
    return;  // false: no value at all
  }
  const json::object* object = schema.if_object();
  if (object == nullptr) refuse(path, "a schema is an object, true or false");
  check_words(*object, path);
  if (const json::value* target = object->if_contains("$ref")) {
    if (!target->is_string()) refuse(path + ".$ref", "must be a string");
    return grammar_->add_alternative(type, reference(target->get_string(), path + ".$ref"));
  }
  if (const json::value* alternatives = object->if_contains("anyOf")) {
    const json::array* list = alternatives->if_array();
    if (list == nullptr || list->empty()) refuse(path + ".anyOf", "must be an array of at least one schema");
    for (size_t i = 0; i < list->size(); ++i)
      grammar_->add_alternative(type, type_of((*list)[i], fmt::format("{}.anyOf[{}]", path, i)));
    return;
  }
  const std::vector<std::string_view> types = named_types(*object, path);
  if (has_any(*object, kValueWords)) return add_values(type, *object, types, path);
  if (types.empty()) return grammar_->add_alternative(type, JsonGrammar::kAny);
  for (const std::string_view name : types) add_shape_of(type, name, *object, path);
}

// What `type` says; where it says nothing, what the other keywords are about; nothing where there are none.
std::vector<std::string_view> Compiler::named_types(const json::object& schema,
                                                    const std::string& path) const {
  std::vector<std::string_view> types;
  const auto add = [&](const json::value& value) {
    const json::string* name = value.if_string();
    if (name == nullptr || !among({name->data(), name->size()}, kTypes))
      refuse(path + ".type", fmt::format("must be one of {}, or an array of them", fmt::join(kTypes, ", ")));
    if (!std::count(types.begin(), types.end(), std::string_view(*name))) types.emplace_back(*name);
  };
  if (const json::value* named = schema.if_contains("type")) {
    const json::array* list = named->if_array();
    if (list == nullptr) add(*named);
    if (list != nullptr && list->empty()) refuse(path + ".type", "names no type");
    for (size_t i = 0; list != nullptr && i < list->size(); ++i) add((*list)[i]);
    return types;
  }
  if (has_any(schema, kObjectWords)) types.emplace_back("object");
  if (has_any(schema, kArrayWords)) types.emplace_back("array");
  if (has_any(schema, kStringWords)) types.emplace_back("string");
  return types;
}

bool is_of(const json::value& value, std::string_view type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_bool();
  if (type == "null") return value.is_null();
  if (type == "number") return value.is_number();
  return value.is_int64() || value.is_uint64();
}

std::string text_of(const json::value& value, const std::string& path) {
  const double* number = value.if_double();
  if (number == nullptr) return json::serialize(value);
  if (!std::isfinite(*number)) refuse(path, "holds a number that is too large");
  return fmt::format("{}", *number);  // as people write it: 1.5 and not 1.5E0
}

// enum and const: the texts of these values.
void Compiler::add_values(int type, const json::object& schema, const std::vector<std::string_view>& types,
                          const std::string& path) {
  const bool one = schema.contains("const");
  const std::string here = path + (one ? ".const" : ".enum");
  const json::array single{one ? schema.at("const") : json::value()};
  const json::array* values = one ? &single : schema.at("enum").if_array();
  if (values == nullptr || values->empty()) refuse(here, "must be an array of at least one value");
  if (values->size() > kEnumValuesMax) refuse(here, fmt::format("holds more than {} values", kEnumValuesMax));
  JsonShape shape;
  shape.kind = Kind::kLiteral;
  int number = 0;
  for (const json::value& value : *values) {
    const auto fits = [&](std::string_view name) { return is_of(value, name); };
    if (!types.empty() && std::none_of(types.begin(), types.end(), fits)) continue;
    const std::string text = text_of(value, here);
    if (!is_valid_utf8(text)) refuse(here, "holds text that is not UTF-8");
    count_bytes(text.size(), here);
    shape.bytes.add(text, number++);
  }
  if (number == 0) refuse(here, "has no value of the type");
  grammar_->add_shape(type, std::move(shape));
}

void Compiler::read_counts(const json::object& schema, const char* least, const char* most,
                           const std::string& path, JsonShape& shape) {
  const auto read = [&](const char* word, int fallback) {
    const json::value* value = schema.if_contains(word);
    if (value == nullptr) return fallback;
    const int64_t* number = value->if_int64();
    if (number == nullptr || *number < 0 || *number > kSchemaCountMax)
      refuse(path + "." + word, fmt::format("must be an integer from 0 to {}", kSchemaCountMax));
    return static_cast<int>(*number);
  };
  shape.least = read(least, shape.least);
  shape.most = read(most, shape.most);
  if (shape.least > shape.most) refuse(path + "." + least, fmt::format("is more than {}", most));
}

void Compiler::add_shape_of(int type, std::string_view name, const json::object& schema,
                            const std::string& path) {
  JsonShape shape;
  if (name == "object") {
    shape = object_shape(schema, path);
  } else if (name == "array") {
    shape.kind = Kind::kArray;
    const json::value* items = schema.if_contains("items");
    shape.items = items == nullptr ? JsonGrammar::kAny : type_of(*items, path + ".items");
    read_counts(schema, "minItems", "maxItems", path, shape);
  } else if (name == "string") {
    shape.kind = Kind::kString;
    read_counts(schema, "minLength", "maxLength", path, shape);
  } else if (name == "number" || name == "integer") {
    shape.kind = name == "number" ? Kind::kNumber : Kind::kInteger;
  } else if (name == "boolean") {
    shape.bytes.add("true", 0);
    shape.bytes.add("false", 1);
  } else {
    shape.bytes.add("null", 0);
  }
  grammar_->add_shape(type, std::move(shape));
}

void Compiler::add_property(JsonShape& shape, const json::string& name, int type, const std::string& path) {
  if (shape.property_types.size() >= kPropertiesMax)
    refuse(path, fmt::format("has more than {} properties", kPropertiesMax));
  const std::string text = json::serialize(name);  // with quotes
  if (!is_valid_utf8(text)) refuse(path, "holds a name that is not UTF-8");
  count_bytes(text.size(), path);
  const std::string_view inner = std::string_view(text).substr(1, text.size() - 2);
  SHOAL_CHECK(
      shape.bytes.add(inner, static_cast<int>(shape.property_types.size())));  // names of an object differ
  shape.property_types.push_back(type);
}

JsonShape Compiler::object_shape(const json::object& schema, const std::string& path) {
  JsonShape shape;
  shape.kind = Kind::kObject;
  const json::value* properties = schema.if_contains("properties");
  const json::value* additional = schema.if_contains("additionalProperties");
  std::map<std::string_view, size_t> known;
  if (properties != nullptr) {
    if (!properties->is_object()) refuse(path + ".properties", "must be an object");
    for (const auto& member : properties->get_object()) {
      const std::string here =
          fmt::format("{}.properties.{}", path, std::string_view(member.key()).substr(0, 60));
      known.emplace(member.key(), shape.property_types.size());
      add_property(shape, json::string(member.key()), type_of(member.value(), here), path + ".properties");
    }
  }
  const bool others = additional != nullptr || properties == nullptr;
  int rest = JsonGrammar::kAny;
  if (additional != nullptr) rest = type_of(*additional, path + ".additionalProperties");
  if (others) shape.additional = rest;
  const json::value* required = schema.if_contains("required");
  if (required == nullptr) return shape;
  if (!required->is_array()) refuse(path + ".required", "must be an array of names");
  for (const json::value& name : required->get_array()) {
    if (!name.is_string()) refuse(path + ".required", "must be an array of names");
    const std::string_view text(name.get_string());
    if (!known.contains(text)) {  // a member that is only known to be there
      known.emplace(text, shape.property_types.size());
      add_property(shape, name.get_string(), rest, path + ".required");
    }
    shape.required.set(known.at(text));
  }
  return shape;
}

}  // namespace

ApiResult<std::shared_ptr<const JsonGrammar>> compile_json_schema(const json::value& schema,
                                                                  const std::string& path) {
  try {
    return Compiler(schema, path).compile();
  } catch (const SchemaError& refused) {
    return refused.error;
  }
}

std::shared_ptr<const JsonGrammar> any_json_object() {
  auto grammar = std::make_shared<JsonGrammar>();
  const int root = grammar->add_type();
  JsonShape object;
  object.kind = Kind::kObject;
  object.additional = JsonGrammar::kAny;
  grammar->add_shape(root, std::move(object));
  std::string problem;
  SHOAL_CHECK(grammar->finish(root, problem));
  return grammar;
}

}  // namespace shoal
