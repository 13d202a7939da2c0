// A GET over HTTP or HTTPS for downloads, as coroutines of the caller's io_context. Nothing that a server
// sends is trusted: headers, redirects and waiting are bounded, certificates are verified against the
// system's authorities (SSL_CERT_FILE and SSL_CERT_DIR name others), and a body goes piece by piece to a sink
// that counts. One connection a request. RFC 9110 and 9112 (HTTP), 6750 (bearer token).
//
// Errors: kPeerLost and kTimeout are worth another try, everything else is not.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/error.h"
#include "node/pull/url.h"

namespace shoal {

struct HttpGetOptions {
  std::chrono::milliseconds connect_timeout{15'000};  // for name, connection and TLS, each
  std::chrono::milliseconds idle_timeout{30'000};     // without a single byte
  bool allow_http = false;                            // unencrypted beyond this machine
  std::string token;  // sent as a bearer token to token_origin alone, and never unencrypted off this machine
  std::optional<Url> token_origin;
};

struct HttpHead {
  unsigned status = 0;
  Url url;                              // that answered, after redirects
  std::optional<uint64_t> length;       // Content-Length
  std::optional<uint64_t> range_first;  // Content-Range: bytes FIRST-LAST/TOTAL
  std::optional<uint64_t> range_total;
  std::optional<int> retry_after_s;
  std::string next_page;  // the URL of Link: <URL>; rel="next", as written
};

// Where the body of an answer with status 200 or 206 goes; other bodies are not read.
class BodySink {
 public:
  virtual ~BodySink() = default;
  virtual Result<void> begin(const HttpHead& head) = 0;  // once; an error ends the request
  virtual Result<void> write(std::span<const char> bytes) = 0;
};

// From `first_byte` on, where that is not 0: the server may answer 206 or, ignoring it, 200. Follows up to 5
// redirects.
boost::asio::awaitable<Result<HttpHead>> http_get(const HttpGetOptions& options, Url url, uint64_t first_byte,
                                                  BodySink& sink);

}  // namespace shoal
