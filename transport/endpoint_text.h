// An endpoint as people write it: 192.168.1.10:7701, [::1]:8080.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <string>

namespace shoal {

inline std::string endpoint_text(const boost::asio::ip::tcp::endpoint& endpoint) {
  const std::string address = endpoint.address().to_string();
  const std::string port = std::to_string(endpoint.port());
  return endpoint.address().is_v6() ? "[" + address + "]:" + port : address + ":" + port;
}

}  // namespace shoal
