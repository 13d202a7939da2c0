// BERT's layers and embedding (J. Devlin et al. 2019), and nomic-bert's (Z. Nussbaum et al. 2024), which
// rotates q and k and has a gated feed-forward without biases. An encoder whose rows see the whole input of
// their sequence; norms follow what they norm. On the engine thread and its pool; nothing allocates; a row's
// result depends on the rows of its own sequence only, bit for bit.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "model/model_keys.h"
#include "model/transformer.h"

namespace shoal {

// Fills everything of `config` but arch, name and the vocabulary's size, which are set already. Throws
// SetupError naming the key. Tensors are checked by check_tensors().
void read_bert(const ModelKeys& keys, ModelConfig& config);

// As model/layer_weights.h lists them.
std::vector<LayerMatrix> bert_matrices(const ModelConfig& config, int layer);
std::vector<LayerVector> bert_vectors(const ModelConfig& config, int layer);

// hidden[rows, n_embd] = norm(tokens + positions + types) of whole inputs, hidden holding the tokens'
// embedding.
void embed_positions(const ComputeContext& cx, const EmbeddingWeights& w, std::span<const BatchRow> rows,
                     float* hidden);

// hidden[rows, n_embd] of whole inputs in place through a layer. `input` holds K and V of one layer (its
// layer 0) while the rows of it are computed; its slots have the inputs' lengths.
void bert_layer(const ComputeContext& cx, int layer, const LayerWeights& w, std::span<const BatchRow> rows,
                KvCache& input, float* hidden);

}  // namespace shoal
