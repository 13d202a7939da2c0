// Text from outside made safe for a terminal and a log.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace shoal {

// One line: control characters, line and paragraph separators, marks that reorder or hide the text around
// them and invalid UTF-8 become \n, \t, \xNN or \u{NNNN}, and what exceeds `bytes_max` bytes of `text` is
// replaced by "...". Those who read model files find it in model/gguf_reader.h, with a length of its own.
std::string printable(std::string_view text, size_t bytes_max);

}  // namespace shoal
