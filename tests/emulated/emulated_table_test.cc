// Linked with the tests of tensor/ into the emulated programs: they prove something only if the table that
// the emulation is for takes part.
#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "tensor/kernels.h"

namespace shoal {

TEST_CASE("the emulated table is the last of those available") {
  const char* expected = std::getenv("SHOAL_EXPECT_TABLE");
  REQUIRE(expected != nullptr);
  CHECK(std::string(available_kernels().back()->name) == expected);
}

}  // namespace shoal
