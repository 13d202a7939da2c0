// 64 bits from the system, for seeds and names of answers. Safe from any thread.
#pragma once

#include <cstdint>
#include <random>

namespace shoal {

inline uint64_t random_bits() {
  static thread_local std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

}  // namespace shoal
