// Whether an error, a log or a page says something.
#pragma once

#include <string_view>

namespace shoal::test {

inline bool mentions(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

}  // namespace shoal::test
