// The mixture of experts in place of a feed-forward. Runs on the pool of a ComputeContext, allocates nothing,
// and computes every row as if it were alone.
#pragma once

#include "model/transformer.h"

namespace shoal {

// out[n_rows, n_embd] = the mixture over x[n_rows, n_embd]: for each row the sum, in the order of the
// experts, of weight * W_down (silu(W_gate x) * W_up x) of the n_expert_used experts that the router gives
// the largest logits; a weight is the softmax among these. x is none of the buffers of the mixture.
void mix_experts(const ComputeContext& cx, const LayerWeights& w, const float* x, int n_rows, float* out);

}  // namespace shoal
