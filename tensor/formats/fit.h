// How encoders choose scales and integers: the searches that the formats share. Each follows the reference
// method of ggml (ggml-quants.c) operation by operation in f32, so that the bytes are the same; nothing here
// may be reassociated or contracted. `weight` says how much an error in each value matters.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>

#include "tensor/half.h"

namespace shoal {

// To nearest, ties to even, for magnitudes below 2^22: in [2^23, 2^24) floats are the integers.
inline int round_to_int(float x) {
  return (std::bit_cast<int32_t>(x + 12582912.0f) & 0x007fffff) - 0x00400000;
}

inline int clamp_int(int x, int low, int high) {
  return x < low ? low : x > high ? high : x;
}

// Sums of w x q and w q q: the best scale for given levels is xq / qq, and the squares it leaves are smaller
// the larger xq^2 / qq is.
struct Moments {
  float xq = 0, qq = 0;
  void add(float w, float x, float q) {
    xq += w * x * q;
    qq += w * q * q;
  }
  void remove(float w, float x, float q) {
    xq -= w * x * q;
    qq -= w * q * q;
  }
  float scale() const { return qq > 0 ? xq / qq : 0.0f; }
  bool better_than(const Moments& other) const { return xq * xq * other.qq > other.xq * other.xq * qq; }
};

// Sum of squares, in order.
float sum_of_squares(std::span<const float> x);

// weight[i] = importance[i] sqrt(spread + x[i]^2).
void weigh(std::span<const float> x, const float* importance, float spread, float* weight);

// x ~ scale (q - half), q in 0..2 half - 1: least weighted squares over 19 trial scales. Null weight: x^2.
float fit_signed(std::span<const float> x, const float* weight, int half, uint8_t* q);

// The same by changing one integer at a time while that helps, weighted by x^2 (Q3_K's own method).
float fit_signed_stepwise(std::span<const float> x, int half, uint8_t* q);

// x ~ scale q - min with min >= 0, q in 0..levels: `steps` + 1 trial scales, (first + step i + levels) levels
// over the range of x.
struct TrialScales {
  float first, step;
  int steps;
  bool absolute;  // errors count by magnitude instead of square
};
struct ScaleMin {
  float scale, min;
};
inline constexpr TrialScales kTrialsWeighted = {-0.9f, 0.05f, 36, false};
ScaleMin fit_with_min(std::span<const float> x, const float* weight, int levels, const TrialScales& trials,
                      uint8_t* q);

// x ~ scale q of values >= 0, q in 0..levels: the scales (or minima) of a super-block. Where some x is below
// 0, as IQ2_XXS has it, the method counts its level as a byte, 256 more, in places; only the scale is of use
// then.
float fit_positive(std::span<const float> x, const float* weight, int levels, uint8_t* q);

// The mean of the squares of x: the spread that weigh() wants for a row.
float mean_square(std::span<const float> x);

// One block of at most 32 values in either way: by least weighted squares where importance is given (that of
// the block's own values), else by rounding with the scale that the extremes fix. x ~ scale (q - half), q in
// 0..2 half - 1; returns the scale.
float quantise_signed(std::span<const float> x, const float* importance, float spread, int half, uint8_t* q);
// x ~ scale q - min, q in 0..levels.
ScaleMin quantise_with_min(std::span<const float> x, const float* importance, float spread, int levels,
                           uint8_t* q);

// The signed value of largest magnitude, the first of several; 0 if all are 0.
float extreme_of(std::span<const float> x);

// 32 values as nibbles: byte k holds values k (low) and k + 16.
void store_nibbles(const uint8_t* q, uint8_t* out);

// The fifth bits of 32 values, first lowest.
void store_fifth_bits(const uint8_t* q, uint8_t* out);

inline void store_half(uint16_t* out, float value) {
  *out = float_to_half(value);
}

}  // namespace shoal
