#include "node/http/host_header.h"

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/host_name.hpp>
#include <boost/beast/core/string.hpp>
#include <string>

namespace shoal {
namespace {

constexpr size_t kPortDigitsMax = 5;
constexpr int kPortMax = 65535;

// What follows a host: nothing, or a colon and a port, whose digits may be left out.
bool is_port(std::string_view rest) {
  if (rest.empty()) return true;
  if (rest.front() != ':' || rest.size() > 1 + kPortDigitsMax) return false;
  int port = 0;
  for (const char digit : rest.substr(1)) {
    if (digit < '0' || digit > '9') return false;
    port = 10 * port + (digit - '0');
  }
  return port <= kPortMax;
}

}  // namespace

bool names_this_device(std::string_view host) {
  const bool bracketed = host.starts_with('[');
  const size_t end = std::min(host.find(bracketed ? ']' : ':'), host.size());
  if (bracketed && end == host.size()) return false;
  if (!is_port(host.substr(end + bracketed))) return false;
  std::string_view name = host.substr(bracketed, end - bracketed);
  boost::system::error_code not_an_address, nameless;
  if (bracketed) {
    (void)boost::asio::ip::make_address_v6(name, not_an_address);
    return !not_an_address;
  }
  if (name.ends_with('.')) name.remove_suffix(1);
  if (name.empty()) return false;
  (void)boost::asio::ip::make_address_v4(name, not_an_address);
  if (!not_an_address || boost::beast::iequals(name, "localhost")) return true;
  const std::string own = boost::asio::ip::host_name(nameless);
  return !nameless && (boost::beast::iequals(name, own) || boost::beast::iequals(name, own + ".local"));
}

}  // namespace shoal
