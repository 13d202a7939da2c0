// The layers of T5 (C. Raffel et al. 2020): an encoder whose rows see the whole input of their sequence, and
// a decoder that looks back at its own rows and across at the encoder's output. On the engine thread and its
// pool; nothing allocates; a row's result depends on the rows of its own sequence only, bit for bit.
//
// An *encode step* carries whole inputs: of each slot in it all rows, at positions from 0. Encoder layers
// transform them, the last followed by the encoder's norm; decoder layers keep K and V of them for
// cross-attention and pass hidden on. A decode step's rows pass encoder layers by.
#pragma once

#include <span>

#include "model/relative_bias.h"
#include "model/transformer.h"

namespace shoal {

// hidden[rows, n_embd] of an encode step in place through an encoder layer. `input` holds K and V of one
// layer (its layer 0) while the rows of it are computed; its slots have the inputs' lengths.
void encoder_layer(const ComputeContext& cx, int layer, const LayerWeights& w, const RelativeBias& bias,
                   std::span<const BatchRow> rows, KvCache& input, float* hidden);

// Keeps K and V of an encode step's hidden for the cross-attention of a decoder layer.
void keep_encoded(const ComputeContext& cx, int layer, const LayerWeights& w, std::span<const BatchRow> rows,
                  KvCache& encoded, const float* hidden);

// hidden[rows, n_embd] of a decode step in place through a decoder layer. `cache` has been extended to hold
// the rows; `encoded` holds what keep_encoded() kept for their slots.
void decoder_layer(const ComputeContext& cx, int layer, const LayerWeights& w, const RelativeBias& bias,
                   std::span<const BatchRow> rows, KvCache& cache, const KvCache& encoded, float* hidden);

}  // namespace shoal
