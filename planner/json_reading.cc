#include "planner/json_reading.h"

#include <cmath>

#include "base/printable.h"

namespace shoal::json_reading {

void bad(const std::string& what) {
  constexpr size_t kBytesMax = 4096;
  throw BadJson{printable(what, kBytesMax)};
}

const json::value& member(const json::object& object, const char* key) {
  const json::value* value = object.if_contains(key);
  if (!value) bad(std::string("\"") + key + "\" is missing");
  return *value;
}

const json::object& as_object(const json::value& value, const char* key) {
  const json::object* object = value.if_object();
  if (!object) bad(std::string("\"") + key + "\" must be an object");
  return *object;
}

const json::object& get_object(const json::object& object, const char* key) {
  return as_object(member(object, key), key);
}

const json::array& get_array(const json::object& object, const char* key, size_t size_max) {
  const json::array* array = member(object, key).if_array();
  if (!array || array->size() > size_max)
    bad(std::string("\"") + key + "\" must be a list of at most " + std::to_string(size_max));
  return *array;
}

std::string text_of(const json::value& value, const char* key, size_t size_max) {
  const json::string* text = value.if_string();
  if (!text || text->size() > size_max)
    bad(std::string("\"") + key + "\" must be a text of at most " + std::to_string(size_max) + " bytes");
  return std::string(*text);
}

std::string get_text(const json::object& object, const char* key, size_t size_max) {
  return text_of(member(object, key), key, size_max);
}

bool get_bool(const json::object& object, const char* key) {
  const bool* value = member(object, key).if_bool();
  if (!value) bad(std::string("\"") + key + "\" must be true or false");
  return *value;
}

uint64_t unsigned_of(const json::value& value, const char* key, uint64_t max) {
  uint64_t number = 0;
  if (const int64_t* positive = value.if_int64(); positive && *positive >= 0) {
    number = static_cast<uint64_t>(*positive);
  } else if (const uint64_t* large = value.if_uint64()) {
    number = *large;
  } else {
    bad(std::string("\"") + key + "\" must be a whole number, not negative");
  }
  if (number > max) bad(std::string("\"") + key + "\" is more than " + std::to_string(max));
  return number;
}

uint64_t get_unsigned(const json::object& object, const char* key, uint64_t max) {
  return unsigned_of(member(object, key), key, max);
}

int get_int(const json::object& object, const char* key, int max) {
  return static_cast<int>(get_unsigned(object, key, static_cast<uint64_t>(max)));
}

double number_of(const json::value& value, const char* key) {
  double number = std::nan("");
  if (const double* real = value.if_double()) number = *real;
  if (const int64_t* whole = value.if_int64()) number = static_cast<double>(*whole);
  if (const uint64_t* large = value.if_uint64()) number = static_cast<double>(*large);
  if (!std::isfinite(number) || std::signbit(number))
    bad(std::string("\"") + key + "\" must be a number, not negative");
  return number;
}

double get_number(const json::object& object, const char* key) {
  return number_of(member(object, key), key);
}

std::vector<RowSeconds> read_points(const json::object& object, const char* key) {
  std::vector<RowSeconds> points;
  for (const json::value& value : get_array(object, key, kPointsMax)) {
    const json::object& point = as_object(value, key);
    points.push_back({get_int(point, "rows", kPlanRowsMax), get_number(point, "seconds")});
    const int before = points.size() > 1 ? points[points.size() - 2].rows : 0;
    if (points.back().rows <= before) bad(std::string("the rows of \"") + key + "\" must rise from 1");
  }
  return points;
}

void check_keys(const json::object& object, const std::string& where, std::vector<std::string> known) {
  for (const json::key_value_pair& entry : object) {
    const std::string key(entry.key());
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::string near = nearest_name(key, known);
    bad(where + ": unknown key \"" + key.substr(0, kNameBytesMax) + "\"" +
        (near.empty() ? std::string() : "; did you mean \"" + near + "\"?"));
  }
}

}  // namespace shoal::json_reading
