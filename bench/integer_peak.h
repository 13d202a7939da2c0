// Chains of the processor's integer multiply-add in registers: the peak that weight products are held
// against.
#pragma once

#include <cstdint>

namespace shoal::bench {

// A chain function does `rounds` rounds and returns something that depends on all of them. An operation is a
// multiplication or an addition of a product.
struct IntegerChains {
  const char* instruction;
  uint64_t (*bytes)(int64_t rounds);
  int64_t bytes_operations;  // a round
  uint64_t (*nibbles)(int64_t rounds);
  int64_t nibbles_operations;
};

// Those of the best instruction that this processor runs.
IntegerChains best_integer_chains();

}  // namespace shoal::bench
