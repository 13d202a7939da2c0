#include "node/http/json_fields.h"

#include <fmt/format.h>

#include <boost/json/basic_parser_impl.hpp>
#include <cmath>
#include <unordered_set>
#include <vector>

namespace shoal {

namespace json = boost::json;

void refuse_field(const std::string& field, const std::string& problem) {
  throw FieldError{{400, fmt::format("{}: {}", field, problem), field, "", 0}};
}

const char* kind_name(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::bool_:
      return "a boolean";
    case json::kind::int64:
    case json::kind::uint64:
      return "an integer";
    case json::kind::double_:
      return "a number";
    case json::kind::string:
      return "a string";
    case json::kind::array:
      return "an array";
    default:
      return "an object";
  }
}

std::string brief(std::string_view given) {
  constexpr size_t kBytesMax = 64;
  return given.size() > kBytesMax ? fmt::format("(a text of {} bytes)", given.size()) : std::string(given);
}

namespace {

// Walks over a text without building anything; finds what json::parse would let pass: a member that comes
// twice (it would keep the last), and objects of very many members.
class MemberCheck {
 public:
  using error_code = json::error_code;
  constexpr static size_t max_object_size = SIZE_MAX, max_array_size = SIZE_MAX, max_key_size = SIZE_MAX,
                          max_string_size = SIZE_MAX;

  bool on_object_begin(error_code&) { return open(/*object=*/true); }
  bool on_array_begin(error_code&) { return open(/*object=*/false); }
  bool on_object_end(size_t, error_code&) { return close(); }
  bool on_array_end(size_t, error_code&) { return close(); }
  bool on_key_part(json::string_view part, size_t, error_code&) {
    key_.append(part.data(), part.size());
    return true;
  }
  bool on_key(json::string_view part, size_t, error_code&) {
    key_.append(part.data(), part.size());
    Level& level = levels_.back();
    level.key = std::exchange(key_, {});
    if (!level.keys.insert(level.key).second) refuse_field(path(), "comes twice");
    if (level.keys.size() > kJsonMembersMax) {
      levels_.pop_back();
      throw FieldError{
          {400, fmt::format("an object holds more than {} members", kJsonMembersMax), path(), "", 0}};
    }
    return true;
  }
  bool on_string(json::string_view, size_t, error_code&) { return value(); }
  bool on_int64(int64_t, json::string_view, error_code&) { return value(); }
  bool on_uint64(uint64_t, json::string_view, error_code&) { return value(); }
  bool on_double(double, json::string_view, error_code&) { return value(); }
  bool on_bool(bool, error_code&) { return value(); }
  bool on_null(error_code&) { return value(); }
  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) { return true; }
  bool on_string_part(json::string_view, size_t, error_code&) { return true; }
  bool on_number_part(json::string_view, error_code&) { return true; }
  bool on_comment_part(json::string_view, error_code&) { return true; }
  bool on_comment(json::string_view, error_code&) { return true; }

 private:
  struct Level {
    bool object;
    size_t index = 0;                      // of an array's next element
    std::string key;                       // of an object's newest member
    std::unordered_set<std::string> keys;  // of all so far
  };
  bool open(bool object) {
    levels_.push_back({object, 0, {}, {}});
    return true;
  }
  bool close() {
    levels_.pop_back();
    return value();
  }
  bool value() {
    if (!levels_.empty()) ++levels_.back().index;
    return true;
  }
  std::string path() const {
    std::string text;
    for (const Level& level : levels_) {
      if (!level.object) {
        text += fmt::format("[{}]", level.index);
      } else {
        text += (text.empty() ? "" : ".") + brief(level.key);
      }
    }
    return text;
  }

  std::vector<Level> levels_;
  std::string key_;
};

}  // namespace

bool blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos;
}

json::object parse_json_body(std::string_view body) {
  json::parse_options options;
  options.max_depth = kJsonDepthMax;
  json::error_code code;
  json::basic_parser<MemberCheck> check(options);
  check.write_some(/*more=*/false, body.data(), body.size(), code);
  json::value value;
  if (!code) value = json::parse(body, code, {}, options);
  if (code == json::error::too_deep)
    throw FieldError{{400, fmt::format("the body is nested more than {} deep", kJsonDepthMax), "", "", 0}};
  if (code) throw FieldError{{400, "the body is not valid JSON: " + code.message(), "", "invalid_json", 0}};
  if (!value.is_object())
    throw FieldError{
        {400, fmt::format("the body must be a JSON object, not {}", kind_name(value)), "", "", 0}};
  return std::move(value.get_object());
}

const json::object& object_of(const json::value& value, const std::string& path) {
  if (!value.is_object()) refuse_field(path, fmt::format("must be an object, not {}", kind_name(value)));
  return value.get_object();
}

const json::value* Fields::find(const char* key) const {
  const json::value* value = object_.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

bool Fields::boolean(const char* key, bool fallback) const {
  const json::value* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_bool())
    refuse_field(path(key), fmt::format("must be true or false, not {}", kind_name(*value)));
  return value->get_bool();
}

std::optional<int> Fields::integer(const char* key, int low, int high) const {
  const json::value* value = find(key);
  if (value == nullptr) return std::nullopt;
  const std::string range = fmt::format("must be an integer from {} to {}", low, high);
  if (value->is_uint64()) refuse_field(path(key), range);
  if (!value->is_int64()) refuse_field(path(key), fmt::format("{}, not {}", range, kind_name(*value)));
  const int64_t number = value->get_int64();
  if (number < low || number > high) refuse_field(path(key), fmt::format("{}, not {}", range, number));
  return static_cast<int>(number);
}

float Fields::number(const char* key, float fallback, double low, double high) const {
  const json::value* value = find(key);
  return value == nullptr ? fallback : number_of(*value, path(key), low, high);
}

std::string Fields::text(const char* key) const {
  const json::value* value = find(key);
  if (value == nullptr) return "";
  if (!value->is_string())
    refuse_field(path(key), fmt::format("must be a string, not {}", kind_name(*value)));
  return std::string(value->get_string());
}

std::string Fields::required_text(const char* key) const {
  std::string given = text(key);
  if (given.empty()) refuse_field(path(key), find(key) == nullptr ? "is missing" : "is empty");
  return given;
}

void Fields::not_offered(const char* key, std::initializer_list<json::value> harmless,
                         const char* why) const {
  const json::value* value = find(key);
  if (value == nullptr) return;
  for (const json::value& allowed : harmless) {
    const bool numbers = value->is_number() && allowed.is_number();  // 1 and 1.0 are one
    if (numbers ? value->to_number<double>() == allowed.to_number<double>() : *value == allowed) return;
  }
  refuse_field(path(key), why);
}

float Fields::number_of(const json::value& value, const std::string& path, double low, double high) {
  if (!value.is_number()) refuse_field(path, fmt::format("must be a number, not {}", kind_name(value)));
  const double number = value.to_number<double>();
  if (!std::isfinite(number) || number < low || number > high)
    refuse_field(path, fmt::format("must be a number from {} to {}", low, high));
  return static_cast<float>(number);
}

}  // namespace shoal
