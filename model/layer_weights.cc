#include "model/layer_weights.h"

namespace shoal {

uint64_t LayerWeights::bytes() const {
  uint64_t total = 0;
  for (const WeightMatrix* m : {&attn_q, &attn_k, &attn_v, &attn_output, &ffn_gate, &ffn_up, &ffn_down}) {
    total += m->bytes();
  }
  for (const std::vector<float>* v : {&attn_norm, &attn_q_bias, &attn_k_bias, &attn_v_bias, &attn_q_norm,
                                      &attn_k_norm, &attn_post_norm, &ffn_norm, &ffn_post_norm}) {
    total += v->size() * sizeof(float);
  }
  return total;
}

std::vector<LayerMatrix> layer_matrices(const ModelConfig& config, int layer) {
  using W = LayerWeights;
  struct Part {
    WeightMatrix W::*field;
    int64_t rows;
  };
  std::vector<LayerMatrix> matrices;
  const auto add = [&](const char* what, int64_t cols, std::initializer_list<Part> parts) {
    int64_t row = 0;
    for (const Part& part : parts) {
      matrices.push_back({TensorNames::layer(layer, what), row, part.rows, cols, part.field});
      row += part.rows;
    }
  };
  const int64_t n_embd = config.n_embd, n_ff = config.n_ff[layer], n_head = config.n_head[layer];
  const Part q{&W::attn_q, n_head * config.head_dim_k}, k{&W::attn_k, config.n_embd_k(layer)},
      v{&W::attn_v, config.n_embd_v(layer)};
  if (config.arch->fused_qkv) {
    add("attn_qkv.weight", n_embd, {q, k, v});
  } else {
    add("attn_q.weight", n_embd, {q});
    add("attn_k.weight", n_embd, {k});
    add("attn_v.weight", n_embd, {v});
  }
  add("attn_output.weight", n_head * config.head_dim_v, {{&W::attn_output, n_embd}});
  const Part gate{&W::ffn_gate, n_ff}, up{&W::ffn_up, n_ff};
  if (config.arch->fused_gate_up) {
    add("ffn_up.weight", n_embd, {gate, up});
  } else {
    add("ffn_gate.weight", n_embd, {gate});
    add("ffn_up.weight", n_embd, {up});
  }
  add("ffn_down.weight", n_ff, {{&W::ffn_down, n_embd}});
  return matrices;
}

std::vector<LayerVector> layer_vectors(const ModelConfig& config, int layer) {
  using W = LayerWeights;
  std::vector<LayerVector> vectors;
  const auto add = [&](bool present, const char* what, int64_t size, std::vector<float> W::*field) {
    if (present) vectors.push_back({TensorNames::layer(layer, what), size, field});
  };
  const Architecture& arch = *config.arch;
  add(true, "attn_norm.weight", config.n_embd, &W::attn_norm);
  add(arch.qkv_bias, "attn_q.bias", int64_t{config.n_head[layer]} * config.head_dim_k, &W::attn_q_bias);
  add(arch.qkv_bias, "attn_k.bias", config.n_embd_k(layer), &W::attn_k_bias);
  add(arch.qkv_bias, "attn_v.bias", config.n_embd_v(layer), &W::attn_v_bias);
  add(arch.qk_norm, "attn_q_norm.weight", config.head_dim_k, &W::attn_q_norm);
  add(arch.qk_norm, "attn_k_norm.weight", config.head_dim_k, &W::attn_k_norm);
  add(arch.post_norms, "post_attention_norm.weight", config.n_embd, &W::attn_post_norm);
  add(true, "ffn_norm.weight", config.n_embd, &W::ffn_norm);
  add(arch.post_norms, "post_ffw_norm.weight", config.n_embd, &W::ffn_post_norm);
  return vectors;
}

}  // namespace shoal
