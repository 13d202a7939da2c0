// The tables that kernels.cc offers are among those that the float op tests compare with the generic one.
#include <doctest/doctest.h>

#include <algorithm>

#include "tensor/kernels.h"
#include "tests/tensor/float_ops_testing.h"

namespace shoal::testing {
namespace {

TEST_CASE("kernels: every table on offer has tested float ops, the generic one comes first") {
  const std::vector<NamedTable> tested = tables_here();
  for (const Kernels* kernels : available_kernels()) {
    CAPTURE(kernels->name);
    CHECK(std::any_of(tested.begin(), tested.end(),
                      [&](const NamedTable& table) { return table.ops == kernels->floats; }));
  }
  CHECK(available_kernels().front()->floats == &kFloatOpsGeneric);
}

}  // namespace
}  // namespace shoal::testing
