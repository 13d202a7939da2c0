// Text from outside made safe for a terminal and a log.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace shoal {

// One line: control characters, line and paragraph separators, marks that reorder or hide the text around
// them and invalid UTF-8 become \n, \t, \xNN or \u{NNNN}, and what exceeds `bytes_max` bytes of `text` is
// replaced by "...".
std::string printable(std::string_view text, size_t bytes_max = 120);
std::string in_quotes(std::string_view text, size_t bytes_max = 120);  // the same in single quotes

}  // namespace shoal
