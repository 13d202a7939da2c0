// Whether numbers are numbers: what stages look at before and after they compute. Not for the kernel files,
// whose instruction-set flags an inline function must not be compiled with (tensor/simd/vec_scalar.h).
#pragma once

#include <cstdint>
#include <cstring>

namespace shoal {

// Neither infinite nor NaN, by the exponent bits, so that the loop vectorises. `x`: [n].
inline bool all_finite(const float* x, int64_t n) {
  uint32_t broken = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    broken |= (bits & 0x7f800000u) == 0x7f800000u;
  }
  return broken == 0;
}

}  // namespace shoal
