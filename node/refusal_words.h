// Words by which a node knows why another refused it.
#pragma once

#include <string_view>

namespace shoal {

// Membership's, to a node whose name another one has.
inline constexpr std::string_view kNameTaken = "is here already";

}  // namespace shoal
