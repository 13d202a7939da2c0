// The transformer once more, written for nothing but plainness: double precision, one row at a time, weights
// decoded from the file one by one, no kernel, no packed matrix. What the engine computes is held against it.
//
// Two roundings are part of the engine's definition and can be asked for, so that the rest can be compared
// closely: activations as int8 in blocks of 32 in front of quantised weights, and K and V as f16 in the
// cache.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "model/gguf_file.h"
#include "model/model_config.h"

namespace shoal::test {

struct ReferenceOptions {
  bool int8_activations = true;
  bool f16_cache = true;
  int context = 512;  // which of Phi-3's two factors are taken
};

class ReferenceModel {
 public:
  ReferenceModel(const GgufFile& file, const ModelConfig& config, const ReferenceOptions& options);

  std::vector<double> embed(int token) const;  // [n_embd]
  // The next row of the one sequence through layer `layer`: its position is the number of rows that came
  // before.
  std::vector<double> forward_layer(int layer, std::span<const double> hidden);
  std::vector<double> logits(std::span<const double> hidden) const;  // [n_vocab]

 private:
  struct Tensor {
    bool quantised = false;
    int cols = 0;
    std::vector<float> values;  // [rows, cols]; empty if the file has no such tensor
  };
  struct Layer {
    Tensor attn_norm, q, k, v, q_bias, k_bias, v_bias, q_norm, k_norm, attn_output, attn_post_norm;
    Tensor ffn_norm, gate, up, down, ffn_post_norm, router;  // gate, up and down of all experts in one
    std::vector<std::vector<double>> cached_k, cached_v;     // [positions][n_head_kv * head_dim]
  };

  Tensor load(const GgufFile& file, const std::string& name) const;
  static Tensor rows_of(const Tensor& t, int first, int rows);
  std::vector<double> product(const Tensor& w, std::span<const double> x) const;
  std::vector<double> norm(std::span<const double> x, const Tensor& weight) const;
  void normalise_heads(std::vector<double>& x, const Tensor& weight) const;
  double pair_angle(const RopeScaling& rope, int i, int position) const;
  void rotate(std::vector<double>& x, int layer, int position) const;
  std::vector<double> attention(int layer, std::span<const double> q) const;
  std::vector<double> gated(const Tensor& gate, const Tensor& up, const Tensor& down,
                            std::span<const double> x) const;
  std::vector<double> feed_forward(int layer, std::span<const double> x) const;

  ModelConfig config_;
  ReferenceOptions options_;
  Tensor token_embd_, output_norm_, output_, rope_factors_;
  std::vector<Layer> layers_;
};

}  // namespace shoal::test
