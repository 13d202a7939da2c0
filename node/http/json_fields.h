// A request's body as bounded JSON, and its members read by name. What is wrong throws FieldError, which
// names the field and is caught at the door of the file that reads a request: it never leaves node/http.
// Bounded: nesting, and the members of one object; a member that comes twice is refused, because a proxy in
// front might have read the other one.
#pragma once

#include <boost/json.hpp>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "node/http/api_error.h"

namespace shoal {

inline constexpr int kJsonDepthMax = 64;
inline constexpr size_t kJsonMembersMax = 4096;  // of one object

struct FieldError {
  ApiError error;
};

[[noreturn]] void refuse_field(const std::string& field, const std::string& problem);

// "an integer", "a string", ... for messages.
const char* kind_name(const boost::json::value& value);

// What a request said, for a message: the text itself unless it is long.
std::string brief(std::string_view given);

// Nothing but white space.
bool blank(std::string_view text);

// The object that a body is. Throws FieldError.
boost::json::object parse_json_body(std::string_view body);

const boost::json::object& object_of(const boost::json::value& value, const std::string& path);

// Reads members of one object, which outlives it. A member that is null counts as absent, as OpenAI's clients
// send it.
class Fields {
 public:
  Fields(const boost::json::object& object, std::string path) : object_(object), path_(std::move(path)) {}

  std::string path(const char* key) const { return path_.empty() ? key : path_ + "." + key; }
  const boost::json::value* find(const char* key) const;
  bool boolean(const char* key, bool fallback) const;
  std::optional<int> integer(const char* key, int low, int high) const;
  float number(const char* key, float fallback, double low, double high) const;
  std::string text(const char* key) const;  // "" where it is absent
  std::string required_text(const char* key) const;
  // A field for what is not offered: refused unless absent, null, or one of the values that ask for nothing.
  void not_offered(const char* key, std::initializer_list<boost::json::value> harmless,
                   const char* why) const;

  static float number_of(const boost::json::value& value, const std::string& path, double low, double high);

 private:
  const boost::json::object& object_;
  std::string path_;
};

// What `read` makes of a body, or the field that it refused.
template <class Request>
ApiResult<Request> guarded(Request (*read)(std::string_view), std::string_view body) {
  try {
    return read(body);
  } catch (const FieldError& refused) {
    return refused.error;
  }
}

}  // namespace shoal
