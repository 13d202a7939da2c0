#include "node/strangers.h"

#include <doctest/doctest.h>

using namespace shoal;

TEST_CASE("each refused connection gets a line, a flood of them does not") {
  StrangerLines lines;
  int said = 0;
  for (int i = 0; i < 1000; ++i)
    said += lines.line(fmt::format("10.0.0.7:{}", i), "refused", 5).has_value() ? 1 : 0;
  CHECK(said == StrangerLines::kOfAddressPerMinute);
  CHECK(lines.line("10.0.0.8:1", "refused", 5) == "refused (970 more since the last such line)");
  CHECK(lines.line("10.0.0.8:2", "refused", 5) == "refused");
  CHECK(lines.line("10.0.0.7:2", "refused", 7.1) == "refused");  // a minute's worth comes back evenly
  CHECK_FALSE(lines.line("10.0.0.7:3", "refused", 7.1).has_value());
  CHECK_FALSE(lines.line("pi-9 at 10.0.0.7:4", "refused", 7.1).has_value());
}

TEST_CASE("refused connections from many addresses share the lines of a minute") {
  StrangerLines lines;
  int said = 0;
  for (int i = 0; i < 5000; ++i)
    said += lines.line(fmt::format("[fd00::{:x}]:7", i), "refused", 0).has_value() ? 1 : 0;
  CHECK(said == StrangerLines::kPerMinute);
}

TEST_CASE("of those that wait the oldest of the busiest address goes") {
  CHECK(first_of_most_frequent({"a"}) == 0);
  CHECK(first_of_most_frequent({"a", "b", "c"}) == 0);  // the oldest of all
  CHECK(first_of_most_frequent({"a", "b", "c", "b", "c"}) == 1);
  CHECK(first_of_most_frequent({"home", "x", "x", "x"}) == 1);
  CHECK(address_of("pi-2 at [fe80::1]:7000") == "[fe80::1]");
  CHECK(address_of("10.0.0.7:1") == "10.0.0.7");
}

TEST_CASE("an address that does not say who it is may connect so often, others go on") {
  ConnectionRates rates;
  int served = 0;
  for (int i = 0; i < 13'000; ++i) {  // in eight seconds
    const double now_s = 5 + i * 8 / 13'000.0;
    const std::string peer = fmt::format("10.0.0.7:{}", i);
    if (!rates.admits(peer, now_s)) continue;
    ++served;
    rates.ungreeted(peer, now_s);
  }
  CHECK(served >= ConnectionRates::kUngreetedPerMinute);
  CHECK(served <= ConnectionRates::kUngreetedPerMinute + 80);
  while (rates.admits("10.0.0.7:1", 13)) rates.ungreeted("10.0.0.7:1", 13);
  CHECK(rates.admits("10.0.0.8:1", 13));
  CHECK_FALSE(rates.admits("10.0.0.7:1", 13));
  CHECK(rates.admits("10.0.0.7:1", 13.2));
}

TEST_CASE("nodes on one address that say who they are may connect far more often, and not without end") {
  ConnectionRates rates;
  int served = 0;
  for (int i = 0; i < 10'000; ++i) served += rates.admits(fmt::format("127.0.0.1:{}", i), 5) ? 1 : 0;
  CHECK(served == ConnectionRates::kPerMinute);
  CHECK(rates.admits("127.0.0.1:1", 5.1));
}
