#include "node/http/cors.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/beast/core/string.hpp>

#include "base/error.h"

namespace shoal {

AllowedOrigins AllowedOrigins::parse(const std::string& text, const std::string& what) {
  constexpr const char* kSeparators = ", \t";
  AllowedOrigins allowed;
  for (size_t begin = text.find_first_not_of(kSeparators); begin != std::string::npos;) {
    const size_t end = std::min(text.find_first_of(kSeparators, begin), text.size());
    const std::string origin = text.substr(begin, end - begin);
    begin = text.find_first_not_of(kSeparators, end);
    if (origin == "*") {
      allowed.any_ = true;
      continue;
    }
    const size_t scheme = origin.find("://");
    const bool web = origin.starts_with("http://") || origin.starts_with("https://");
    const bool plain = std::all_of(origin.begin(), origin.end(), [](char c) { return c > 0x20 && c < 0x7f; });
    if (!web || !plain || origin.size() == scheme + 3 ||
        origin.find_first_of("/?#@", scheme + 3) != std::string::npos) {
      throw SetupError(fmt::format(
          "{}: '{}' is no origin: write it like http://localhost:3000, without a path", what, origin));
    }
    allowed.origins_.push_back(origin);
  }
  return allowed;
}

bool AllowedOrigins::allows(std::string_view origin) const {
  return !origin.empty() && (any_ || std::any_of(origins_.begin(), origins_.end(), [&](const auto& one) {
                               return boost::beast::iequals(one, origin);
                             }));
}

std::vector<std::pair<std::string, std::string>> AllowedOrigins::headers(std::string_view origin,
                                                                         bool preflight,
                                                                         std::string_view asked) const {
  std::vector<std::pair<std::string, std::string>> list;
  if (!any_ && origins_.empty()) return list;
  list.emplace_back("Vary", "Origin");  // a cache must not give one origin's answer to another
  if (!allows(origin)) return list;
  list.emplace_back("Access-Control-Allow-Origin", origin);
  list.emplace_back("Access-Control-Expose-Headers", "Retry-After");
  if (!preflight) return list;
  list.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
  list.emplace_back("Access-Control-Allow-Headers", asked.empty() ? "Authorization, Content-Type" : asked);
  list.emplace_back("Access-Control-Max-Age", "600");
  return list;
}

}  // namespace shoal
