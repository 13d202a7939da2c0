#include "node/best_threads.h"

#include <doctest/doctest.h>

namespace shoal {

TEST_CASE("best thread count: the fewest that are about as fast as the fastest") {
  CHECK(best_thread_count({{1, 0.010}}) == 1);
  CHECK(best_thread_count({{1, 0.010}, {2, 0.006}, {4, 0.0059}, {8, 0.007}}) == 2);
  CHECK(best_thread_count({{1, 0.010}, {2, 0.006}, {4, 0.005}}) == 4);
  CHECK(best_thread_count({{4, 0.005}, {2, 0.005}, {1, 0.010}}) == 2);
}

}  // namespace shoal
