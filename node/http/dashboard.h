// The live page, embedded in the program by CMake from node/dashboard.html.
#pragma once

#include <string_view>

namespace shoal {

extern const std::string_view kDashboardHtml;

}  // namespace shoal
