// The steps that a layer is written with (model/transformer.cc, model/experts.cc): each runs on the pool of a
// ComputeContext, allocates nothing, and computes every row as if it were alone.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>

#include "model/transformer.h"

namespace shoal {

// y = rms_norm(x) * weight, both [n_rows, n_embd]; y may be x.
void rms_norm_rows(const ComputeContext& cx, const float* x, std::span<const float> weight, int n_rows,
                   float* y);

// hidden += residual_scale * added, both [n_rows, n_embd]; `added` is normed first where the family does so.
void add_to_hidden(const ComputeContext& cx, float* hidden, float* added, std::span<const float> post_norm,
                   int n_rows);

// gate = silu(gate) * up, or gelu; n elements.
void activate_gate(const ComputeContext& cx, float* gate, const float* up, int64_t n);

// All products of the same rows x[n_rows, n_in] at once.
void multiply(const ComputeContext& cx, const float* x, int n_in, int n_rows,
              std::initializer_list<Product> products);

// out[n_rows, n_embd] = the mixture of experts over x[n_rows, n_embd]: for each row the sum, in the order of
// the experts, of weight * W_down (silu(W_gate x) * W_up x) of the n_expert_used experts that the router
// gives the largest logits; a weight is the softmax among these. x is none of the buffers of the mixture.
void mix_experts(const ComputeContext& cx, const LayerWeights& w, const float* x, int n_rows, float* out);

}  // namespace shoal
