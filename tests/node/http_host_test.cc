#include "node/http/host_header.h"

#include <doctest/doctest.h>

#include <boost/asio/ip/host_name.hpp>
#include <string>

namespace shoal::test {

TEST_CASE("a Host header that is an address, localhost or this device's name is this device's") {
  const std::string own = boost::asio::ip::host_name();
  for (const std::string& host :
       {std::string("127.0.0.1"), std::string("10.0.0.5"), std::string("[::1]"), std::string("[fe80::1]"),
        std::string("localhost"), std::string("LocalHost"), std::string("localhost."), own, own + ".local"}) {
    // A port may have up to five digits, and none at all after its colon.
    for (const std::string port : {"", ":", ":0", ":80", ":8080", ":00080", ":65535"}) {
      CAPTURE(host + port);
      CHECK(names_this_device(host + port));
    }
  }
}

TEST_CASE("a Host header with another name, or with anything but a port behind its host, is refused") {
  for (const char* host : {"",
                           ".",
                           ":",
                           ":80",
                           "evil.example",
                           "evil.example:80",
                           "localhost.evil.example",
                           "127.0.0.1.evil.example",
                           "127.0.0.1:evil",
                           "127.0.0.1:80.evil.example",
                           "127.0.0.1:8o",
                           "127.0.0.1:-1",
                           "127.0.0.1:+80",
                           "127.0.0.1: 80",
                           "127.0.0.1:65536",
                           "127.0.0.1:99999",
                           "127.0.0.1:000080",
                           "127.0.0.1:4294967376",
                           "localhost:80:80",
                           "localhost::80",
                           "localhost:evil.example",
                           "user@localhost",
                           "localhost/x",
                           "[::1",
                           "[::1]evil.example",
                           "[::1].evil.example",
                           "[::1].",
                           "[::1]80",
                           "[::1]:8o",
                           "[::1]:65536",
                           "[::1]:80:80",
                           "[::1]]",
                           "[[::1]]",
                           "[]",
                           "[]:80",
                           "[127.0.0.1]",
                           "[localhost]",
                           "::1",
                           "::1:80",
                           "fe80::1:80",
                           "1.2.3",
                           "0x7f000001",
                           "127.0.0.1 ",
                           " 127.0.0.1"}) {
    CAPTURE(host);
    CHECK_FALSE(names_this_device(host));
  }
}

}  // namespace shoal::test
