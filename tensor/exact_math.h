// exp, log, sin and cos in double out of IEEE add, multiply and divide alone, so that every machine gets the
// same bits; the C library's differ between versions. Polynomials are Taylor series, long enough for double.
// Only for files without instruction-set flags.
#pragma once

#include <cstdint>
#include <cstring>

namespace shoal::exact_math {

// Added to |x| < 2^51, it leaves the nearest integer in the low bits.
inline constexpr double kIntegerShift = 6755399441055744.0;  // 1.5 * 2^52

// ln 2 and pi/2 as sums of parts (W. Cody and W. Waite, 1980; the splits are fdlibm's): the leading ones have
// 32 or 33 bits, so that their product with an integer of up to 20 bits is exact.
inline constexpr double kLn2High = 6.93147180369123816490e-01;
inline constexpr double kLn2Low = 1.90821492927058770002e-10;
inline constexpr double kHalfPi1 = 1.57079632673412561417e+00;
inline constexpr double kHalfPi2 = 6.07710050630396597660e-11;
inline constexpr double kHalfPi3 = 2.02226624879595063154e-21;

inline double nearest_integer(double x) {
  return (x + kIntegerShift) - kIntegerShift;
}

inline double scale_by_power_of_two(double x, int64_t n) {
  uint64_t bits;
  std::memcpy(&bits, &x, 8);
  bits += static_cast<uint64_t>(n) << 52;
  std::memcpy(&x, &bits, 8);
  return x;
}

// Natural logarithm of a positive normal number: x = m 2^e with m near 1, ln m = 2 artanh((m - 1) / (m + 1)).
inline double log_of(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, 8);
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  double m = scale_by_power_of_two(x, -exponent);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double s = (m - 1.0) / (m + 1.0), s2 = s * s;
  double series = 0.0;
  for (int k = 21; k >= 1; k -= 2) series = series * s2 + 1.0 / k;
  const double e = static_cast<double>(exponent);
  return e * kLn2High + (2.0 * s * series + e * kLn2Low);
}

// e^x for |x| < 700.
inline double exp_of(double x) {
  const double n = nearest_integer(x * 1.4426950408889634);
  const double r = (x - n * kLn2High) - n * kLn2Low;
  double series = 1.0;
  for (int k = 14; k >= 1; --k) series = 1.0 + series * r / k;
  return scale_by_power_of_two(series, static_cast<int64_t>(n));
}

// sin and cos of x, good to 1e-9 for |x| up to 1e6 radians and to double precision for small x.
inline void sin_cos(double x, double* sin, double* cos) {
  const double n = nearest_integer(x * 0.63661977236758134);
  const double r = ((x - n * kHalfPi1) - n * kHalfPi2) - n * kHalfPi3;
  const double r2 = r * r;
  double s = 1.0, c = 1.0;
  for (int k = 18; k >= 2; k -= 2) {
    s = 1.0 - s * r2 / (k * (k + 1));
    c = 1.0 - c * r2 / (k * (k - 1));
  }
  s *= r;
  const double rotated_sin[4] = {s, c, -s, -c}, rotated_cos[4] = {c, -s, -c, s};
  const int quadrant = static_cast<int>(static_cast<int64_t>(n) & 3);
  *sin = rotated_sin[quadrant];
  *cos = rotated_cos[quadrant];
}

}  // namespace shoal::exact_math
