// What the encoders of Q4_K and Q5_K share.
#pragma once

#include "tensor/formats/fit.h"

namespace shoal {

// Scales and minima of the 8 sub-blocks of 256 values, six bits each in the file's twelve bytes, and the
// values q in 0..levels for them. `trials` hold where importance is null.
void encode_scale_min(const float* x, const float* importance, int levels, const TrialScales& trials,
                      uint16_t* d, uint16_t* dmin, uint8_t* scales, uint8_t* q);

}  // namespace shoal
