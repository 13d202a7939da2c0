#include "base/loopback.h"

#include <boost/asio/ip/address.hpp>

namespace shoal {

bool is_loopback_host(const std::string& host) {
  boost::system::error_code no_number;
  const boost::asio::ip::address address = boost::asio::ip::make_address(host, no_number);
  return no_number ? host == "localhost" : address.is_loopback();
}

}  // namespace shoal
