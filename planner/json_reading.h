// Reading JSON that nobody vouches for: each field is asked for by name, kind and largest value, and the
// first that is missing or wrong ends the reading with a sentence that names it. Used by the planner's
// readers; pure.
#pragma once

#include <algorithm>
#include <boost/json.hpp>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/units.h"
#include "planner/types.h"

namespace shoal::json_reading {

namespace json = boost::json;

inline constexpr size_t kNameBytesMax = 256;
inline constexpr size_t kReasonBytesMax = 4096;
inline constexpr size_t kPointsMax = 4096;

// Thrown while reading and caught in read_json() only.
struct BadJson {
  std::string message;
};

[[noreturn]] void bad(const std::string& what);

const json::value& member(const json::object& object, const char* key);
const json::object& as_object(const json::value& value, const char* key);
const json::object& get_object(const json::object& object, const char* key);
const json::array& get_array(const json::object& object, const char* key, size_t size_max);
std::string text_of(const json::value& value, const char* key, size_t size_max);
std::string get_text(const json::object& object, const char* key, size_t size_max);
bool get_bool(const json::object& object, const char* key);
uint64_t unsigned_of(const json::value& value, const char* key, uint64_t max);
uint64_t get_unsigned(const json::object& object, const char* key, uint64_t max);
int get_int(const json::object& object, const char* key, int max);
double number_of(const json::value& value, const char* key);  // finite, not negative
double get_number(const json::object& object, const char* key);
std::vector<RowSeconds> read_points(const json::object& object, const char* key);  // rows rise from 1

// Fails if `object` has a key that is not `known`, naming the nearest one: for files that people write.
void check_keys(const json::object& object, const std::string& where, std::vector<std::string> known);

// Parses `text` and reads it with `reader`; any fault becomes an Error that names `what`. `what` is not a
// format string and may hold a path.
template <class T, class Reader>
Result<T> read_json(std::string_view text, const std::string& what, size_t bytes_max, Reader reader) {
  const auto invalid = [&](const std::string& why) { return Error{Errc::kInvalidInput, what + ": " + why}; };
  if (text.size() > bytes_max) return invalid("longer than " + std::to_string(bytes_max) + " bytes");
  boost::system::error_code error;
  const json::value value = json::parse(json::string_view(text.data(), text.size()), error);
  if (error) return invalid("not JSON: " + error.message());
  try {
    return reader(as_object(value, what.c_str()));
  } catch (const BadJson& fault) {
    return invalid(fault.message);
  }
}

}  // namespace shoal::json_reading
