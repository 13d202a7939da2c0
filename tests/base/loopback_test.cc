#include "base/loopback.h"

#include <doctest/doctest.h>

namespace shoal {

TEST_CASE("what stays on this device") {
  for (const char* here : {"localhost", "127.0.0.1", "127.255.0.9", "::1"}) {
    CAPTURE(here);
    CHECK(is_loopback_host(here));
  }
  for (const char* away : {"", "192.168.1.10", "0.0.0.0", "::", "127.0.0.1.example.com",
                           "localhost.example.com", "128.0.0.1", "::2", "[::1]"}) {
    CAPTURE(away);
    CHECK_FALSE(is_loopback_host(away));
  }
}

}  // namespace shoal
