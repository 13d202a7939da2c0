#include "node/rate_limit.h"

#include <doctest/doctest.h>

namespace shoal::test {
namespace {

TEST_CASE("a user may make a minute's requests at once, and then as many as a minute gives") {
  RateLimit limit(30);
  for (int i = 0; i < 30; ++i) CHECK_FALSE(limit.take("a", 100));
  CHECK(limit.take("a", 100) == 2);
  CHECK(limit.take("a", 101) == 1);
  CHECK_FALSE(limit.take("b", 100));  // another user's is another's
  CHECK_FALSE(limit.take("a", 102));
  CHECK(limit.take("a", 102) == 2);
  int taken = 0;
  for (int second = 103; second < 163; ++second)
    for (int i = 0; i < 5; ++i) taken += !limit.take("a", second);
  CHECK(taken == 30);
  for (int i = 0; i < 30; ++i) CHECK_FALSE(limit.take("a", 1e6));  // no more than a minute is saved up
  CHECK(limit.take("a", 1e6) == 2);
}

TEST_CASE("no limit is no limit") {
  RateLimit limit(0);
  for (int i = 0; i < 10'000; ++i) CHECK_FALSE(limit.take("a", 0));
}

}  // namespace
}  // namespace shoal::test
