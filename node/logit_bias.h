// Biases that a request puts on single tokens: added to their logits before anything else is done to them.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "model/sampler.h"

namespace shoal {

using LogitBias = std::vector<std::pair<int32_t, float>>;  // token, added to its logit

// How many best candidates are needed so that after the bias the best `needed` are still right; 0: all. A
// token that is pushed down makes room for one more; one that is lifted may come from anywhere.
int candidates_for_bias(const LogitBias& bias, int needed);

// The candidates after the bias, best first, equals by lower id.
std::vector<Candidate> biased(std::span<const Candidate> candidates, const LogitBias& bias);

}  // namespace shoal
