// What the encoders of IQ4_NL and IQ4_XS share: scales for the table kIq4Values.
#pragma once

#include <cstdint>

namespace shoal {

// The scale of 32 values that leaves the least weighted squares of 15 and one trial scales; weights are x^2,
// or by importance.
float fit_iq4(const float* x, const float* importance, float spread);

// The table's nearest value to each x / scale; zeros of the scale choose the value nearest to 0.
void choose_iq4(const float* x, float scale, uint8_t* q);

}  // namespace shoal
