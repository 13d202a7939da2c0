// Text without the spaces around it.
#pragma once

#include <algorithm>
#include <string_view>

namespace shoal {

// ASCII's spaces alone, line ends among them. Pure; what it returns is part of `text`.
inline std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpaces = " \t\r\n";
  text.remove_prefix(std::min(text.find_first_not_of(kSpaces), text.size()));
  return text.substr(0, text.find_last_not_of(kSpaces) + 1);
}

}  // namespace shoal
