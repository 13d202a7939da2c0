// Conversions of the 16-bit floats to f32, exact, without branches so that compilers can vectorise loops of
// them.
#pragma once

#include <bit>
#include <cstdint>

namespace shoal {

// IEEE 754 binary16. Subnormals are exact: the 10-bit fraction is placed in a float's exponent and fraction
// fields and scaled by 2^112, the difference of the exponent biases.
inline float half_to_float(uint16_t h) {
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fffu) << 13;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special =
      (h & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;  // infinity and NaN keep their fraction
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | sign);
}

// bfloat16: the upper half of an f32.
inline float bfloat_to_float(uint16_t b) {
  return std::bit_cast<float>(static_cast<uint32_t>(b) << 16);
}

}  // namespace shoal
