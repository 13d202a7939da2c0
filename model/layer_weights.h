// The weights of one layer, and the list of tensors of a file that they come from: the one place that knows
// both. Reading them is sharding/shard.cc's; the list also serves to check a file and to count bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "tensor/weight_matrix.h"

namespace shoal {

// Vectors are f32; what the architecture does not have is empty.
struct LayerWeights {
  std::vector<float> attn_norm;  // [n_embd]
  WeightMatrix attn_q, attn_k,
      attn_v;  // [n_head * head_dim_k | n_head_kv * head_dim_k | n_head_kv * head_dim_v, n_embd]
  std::vector<float> attn_q_bias, attn_k_bias, attn_v_bias;
  std::vector<float> attn_q_norm, attn_k_norm;  // [head_dim_k]
  WeightMatrix attn_output;                     // [n_embd, n_head * head_dim_v]
  std::vector<float> attn_post_norm;            // [n_embd]
  std::vector<float> ffn_norm;                  // [n_embd]
  WeightMatrix ffn_gate, ffn_up;                // [n_ff, n_embd]
  WeightMatrix ffn_down;                        // [n_embd, n_ff]
  std::vector<float> ffn_post_norm;             // [n_embd]

  uint64_t bytes() const;  // resident
};

// Rows [first_row, first_row + rows) of a tensor of the file are one matrix of the layer.
struct LayerMatrix {
  std::string tensor;
  int64_t first_row, rows, cols;
  WeightMatrix LayerWeights::*field;
};
struct LayerVector {
  std::string tensor;
  int64_t size;
  std::vector<float> LayerWeights::*field;
};

// In the order of computation. Parts of one tensor follow each other and cover it.
std::vector<LayerMatrix> layer_matrices(const ModelConfig& config, int layer);
std::vector<LayerVector> layer_vectors(const ModelConfig& config, int layer);

}  // namespace shoal
