#include "model/template_json.h"

#include <boost/json.hpp>

namespace shoal::jinja {

namespace json = boost::json;

Value value_of(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return Value(None{});
    case json::kind::bool_:
      return Value(value.get_bool());
    case json::kind::int64:
      return Value(value.get_int64());
    case json::kind::uint64:  // beyond what an integer here holds
      return Value(static_cast<double>(value.get_uint64()));
    case json::kind::double_:
      return Value(value.get_double());
    case json::kind::string:
      return Value(std::string(value.get_string()), /*trusted=*/false);
    case json::kind::array: {
      std::vector<Value> items;
      for (const json::value& item : value.get_array()) items.push_back(value_of(item));
      return given_list(std::move(items));
    }
    case json::kind::object: {
      std::vector<std::pair<MarkedText, Value>> items;
      for (const auto& [key, member] : value.get_object())
        items.emplace_back(MarkedText(std::string(key), false), value_of(member));
      return given_dict(std::move(items));
    }
  }
  return {};
}

}  // namespace shoal::jinja
