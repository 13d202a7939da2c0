// Logging through spdlog, to stderr only: results alone go to stdout. Use spdlog::info(...) and friends
// directly.
#pragma once

#include <string>

namespace shoal {

// Prefixes each line with the program's or node's name. `level`: trace, debug, info, warning, error, off.
// Throws SetupError on an unknown level. Call once early, again when the node's name is known.
void init_logging(const std::string& name, const std::string& level);

}  // namespace shoal
