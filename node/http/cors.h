// Which web pages from elsewhere may use the server through their visitors' browsers (Cross-Origin Resource
// Sharing, https://fetch.spec.whatwg.org/#http-cors-protocol). None, unless the operator names their origins.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shoal {

class AllowedOrigins {
 public:
  AllowedOrigins() = default;
  // Origins like http://localhost:3000, separated by commas or blanks; "*" is any. Throws SetupError naming
  // `what`.
  static AllowedOrigins parse(const std::string& text, const std::string& what);

  bool any() const { return any_; }
  bool allows(std::string_view origin) const;
  // What a response to a request with this Origin header ("": none) says; nothing where no origin is allowed.
  // `asked`: the request's Access-Control-Request-Headers; a preflight's answer repeats it.
  std::vector<std::pair<std::string, std::string>> headers(std::string_view origin, bool preflight,
                                                           std::string_view asked) const;

 private:
  std::vector<std::string> origins_;
  bool any_ = false;
};

}  // namespace shoal
