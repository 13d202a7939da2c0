// Conversions of the 16-bit floats to f32, exact, without branches so that compilers can vectorise loops of
// them, and back, rounded to nearest even.
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

// Rounded to nearest even; magnitudes from 65520 become infinity. The quiet NaN keeps its sign.
inline uint16_t float_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;
  if (magnitude < 0x38800000u) {  // below 2^-14 the unit is 2^-24: adding 1/2 aligns it with the last bit
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(aligned) - 0x3f000000u);
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return sign | static_cast<uint16_t>((rounded - (112u << 23)) >> 13);
}

// Rounded to nearest even; a NaN stays one.
inline uint16_t float_to_bfloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 64u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace shoal
