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

  // Of encoders, and of decoders behind them.
  std::vector<float> relative_bias;        // [relative_buckets, n_head]
  std::vector<float> cross_norm;           // [n_embd]
  WeightMatrix cross_q, cross_k, cross_v;  // as those of attn
  WeightMatrix cross_output;               // [n_embd, n_head * head_dim_v]
  std::vector<float> encoder_norm;         // [n_embd] after the encoder's last layer

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
  int64_t rows = 1;  // of a table, whose rows follow each other; `size` counts all of them
};

// In the order of computation. Parts of one tensor follow each other and cover it.
std::vector<LayerMatrix> layer_matrices(const ModelConfig& config, int layer);
std::vector<LayerVector> layer_vectors(const ModelConfig& config, int layer);
// Tensors that a file may have and no computation reads.
std::vector<std::string> unread_tensors(const ModelConfig& config);

}  // namespace shoal
