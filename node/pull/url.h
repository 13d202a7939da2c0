// Addresses of model hubs: http and https URLs, read strictly, as RFC 3986 has them. Pure values.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace shoal {

struct Url {
  bool tls = true;
  std::string host;    // a name or an IP address, without brackets
  std::string port;    // always a number
  std::string target;  // path and query, at least "/"

  std::string origin() const;  // "https://host:port"; the port only where it is not the scheme's own
  std::string host_header() const;
  // For messages: without the query, which may hold a signature that gives access.
  std::string shown() const;
  bool same_origin(const Url& other) const {
    return tls == other.tls && host == other.host && port == other.port;
  }
};

// Refuses other schemes, user names and passwords, blanks and control characters.
Result<Url> parse_url(std::string_view text);

// What a Location or Link header means beside the URL that it came with: absolute, "//host/x", "/x" or "x".
Result<Url> resolve_url(const Url& base, std::string_view reference);

// A path as it stands in a URL: every byte but letters, digits, "-._~" and "/" as %XX.
std::string percent_encoded(std::string_view path);

// "localhost", 127.0.0.0/8 or ::1: what stays on this machine.
bool is_loopback(const Url& url);

}  // namespace shoal
