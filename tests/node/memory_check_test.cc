#include "node/memory_check.h"

#include <doctest/doctest.h>

namespace shoal {

TEST_CASE("memory promised and not there is told by node, and by host where nodes share one") {
  constexpr uint64_t kGib = 1u << 30;
  CHECK(memory_warnings({{"a", "x", 4 * kGib, 4 * kGib}, {"b", "y", kGib, 2 * kGib}}, "c.yaml").empty());
  const std::vector<std::string> one =
      memory_warnings({{"a", "x", 4 * kGib, 8 * kGib}, {"b", "y", 3 * kGib, 2 * kGib}}, "c.yaml");
  REQUIRE(one.size() == 1);
  CHECK(one[0] ==
        "c.yaml: nodes.b.memory is 3.00 GiB and its device has 2.00 GiB: the plan may fill more than "
        "there is");
  const std::vector<std::string> shared =
      memory_warnings({{"a", "x", 5 * kGib, 8 * kGib}, {"b", "x", 4 * kGib, 8 * kGib}}, "c.yaml");
  REQUIRE(shared.size() == 1);
  CHECK(shared[0] ==
        "c.yaml: nodes a, b share the host x, their memory adds up to 9.00 GiB and it has 8.00 GiB");
  // Containers of one host, each with a limit of its own.
  CHECK(memory_warnings({{"a", "x", 5 * kGib, 5 * kGib}, {"b", "x", 4 * kGib, 4 * kGib}}, "c.yaml").empty());
}

}  // namespace shoal
