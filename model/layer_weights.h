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
  WeightMatrix ffn_router;                      // [n_expert, n_embd]; a mixture instead of the three above
  std::vector<WeightMatrix> expert_gate, expert_up;  // [n_expert] of [n_ff, n_embd]
  std::vector<WeightMatrix> expert_down;             // [n_expert] of [n_embd, n_ff]
  std::vector<float> ffn_post_norm;                  // [n_embd]

  // Of encoders, and of decoders behind them.
  std::vector<float> relative_bias;        // [relative_buckets, n_head]
  std::vector<float> cross_norm;           // [n_embd]
  WeightMatrix cross_q, cross_k, cross_v;  // as those of attn
  WeightMatrix cross_output;               // [n_embd, n_head * head_dim_v]
  std::vector<float> encoder_norm;         // [n_embd] after the encoder's last layer
  std::vector<float> attn_output_bias, ffn_down_bias, attn_post_norm_bias, ffn_post_norm_bias;  // [n_embd]
  std::vector<float> ffn_up_bias;                                                               // [n_ff]

  LayerWeights() = default;
  explicit LayerWeights(const ModelConfig& config);  // with places for the experts
  uint64_t bytes() const;                            // resident
};

// What is added to the tokens' embedding, and the norm of the sum; empty where the family has none.
struct EmbeddingWeights {
  std::vector<float> positions;        // [n_positions, n_embd]
  std::vector<float> types;            // [n_token_types, n_embd]
  std::vector<float> norm, norm_bias;  // [n_embd]

  uint64_t bytes() const;
};

// Of a model that ranks: scores = W_output tanh(W_dense x + bias) + bias.
struct ClassifierWeights {
  WeightMatrix dense, output;                  // [n_embd, n_embd] or empty | [n_scores, n_embd]
  std::vector<float> dense_bias, output_bias;  // or empty

  uint64_t bytes() const;
};

// Rows [first_row, first_row + rows) of a tensor of the file are one matrix of the layer.
struct LayerMatrix {
  std::string tensor;
  int64_t first_row, rows, cols;
  WeightMatrix LayerWeights::*field;
  std::vector<WeightMatrix> LayerWeights::*experts = nullptr;  // instead of `field`: it is one of these
  int expert = 0;

  WeightMatrix& in(LayerWeights& w) const { return experts == nullptr ? w.*field : (w.*experts)[expert]; }
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
struct EmbeddingVector {
  const char* tensor;
  int64_t size, rows;  // as in LayerVector
  std::vector<float> EmbeddingWeights::*field;
};
std::vector<EmbeddingVector> embedding_vectors(const ModelConfig& config);
struct ClassifierMatrix {
  const char* tensor;
  int64_t rows, cols;
  WeightMatrix ClassifierWeights::*field;
};
struct ClassifierVector {
  const char* tensor;  // a file may leave it out
  int64_t size;
  std::vector<float> ClassifierWeights::*field;
};
std::vector<ClassifierMatrix> classifier_matrices(const ModelConfig& config);
std::vector<ClassifierVector> classifier_vectors(const ModelConfig& config);

// Tensors that a file may have and no computation reads.
std::vector<std::string> unread_tensors(const ModelConfig& config);

}  // namespace shoal
