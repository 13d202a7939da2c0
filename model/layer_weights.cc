#include "model/layer_weights.h"

#include "model/bert.h"
#include "model/encoder_decoder_config.h"

namespace shoal {

LayerWeights::LayerWeights(const ModelConfig& config)
    : expert_gate(config.n_expert), expert_up(config.n_expert), expert_down(config.n_expert) {}

uint64_t LayerWeights::bytes() const {
  uint64_t total = ffn_router.bytes();
  for (const std::vector<WeightMatrix>* experts : {&expert_gate, &expert_up, &expert_down}) {
    for (const WeightMatrix& m : *experts) total += m.bytes();
  }
  for (const WeightMatrix* m : {&attn_q, &attn_k, &attn_v, &attn_output, &ffn_gate, &ffn_up, &ffn_down,
                                &cross_q, &cross_k, &cross_v, &cross_output}) {
    total += m->bytes();
  }
  for (const std::vector<float>* v :
       {&attn_norm, &attn_q_bias, &attn_k_bias, &attn_v_bias, &attn_q_norm, &attn_k_norm, &attn_post_norm,
        &ffn_norm, &ffn_post_norm, &relative_bias, &cross_norm, &encoder_norm, &attn_output_bias,
        &ffn_down_bias, &attn_post_norm_bias, &ffn_post_norm_bias, &ffn_up_bias}) {
    total += v->size() * sizeof(float);
  }
  return total;
}

std::vector<LayerMatrix> layer_matrices(const ModelConfig& config, int layer) {
  if (config.arch->layout == LayerLayout::kT5) return encoder_decoder_matrices(config, layer);
  if (config.arch->layout == LayerLayout::kBert) return bert_matrices(config, layer);
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
  if (config.n_expert > 0) {
    const auto add_experts = [&](const char* what, int64_t cols, int64_t rows,
                                 std::vector<WeightMatrix> W::*field) {
      for (int e = 0; e < config.n_expert; ++e)
        matrices.push_back({TensorNames::layer(layer, what), e * rows, rows, cols, nullptr, field, e});
    };
    add("ffn_gate_inp.weight", n_embd, {{&W::ffn_router, config.n_expert}});
    add_experts("ffn_gate_exps.weight", n_embd, n_ff, &W::expert_gate);
    add_experts("ffn_up_exps.weight", n_embd, n_ff, &W::expert_up);
    add_experts("ffn_down_exps.weight", n_ff, n_embd, &W::expert_down);
    return matrices;
  }
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
  if (config.arch->layout == LayerLayout::kT5) return encoder_decoder_vectors(config, layer);
  if (config.arch->layout == LayerLayout::kBert) return bert_vectors(config, layer);
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

uint64_t EmbeddingWeights::bytes() const {
  return (positions.size() + types.size() + norm.size() + norm_bias.size()) * sizeof(float);
}

uint64_t ClassifierWeights::bytes() const {
  return dense.bytes() + output.bytes() + (dense_bias.size() + output_bias.size()) * sizeof(float);
}

std::vector<EmbeddingVector> embedding_vectors(const ModelConfig& config) {
  using E = EmbeddingWeights;
  if (config.arch->layout != LayerLayout::kBert) return {};
  const int64_t n = config.n_embd;
  std::vector<EmbeddingVector> vectors = {{"token_embd_norm.weight", n, 1, &E::norm},
                                          {"token_embd_norm.bias", n, 1, &E::norm_bias}};
  if (config.n_positions > 0)
    vectors.push_back({"position_embd.weight", n * config.n_positions, config.n_positions, &E::positions});
  if (config.n_token_types > 0)
    vectors.push_back({"token_types.weight", n * config.n_token_types, config.n_token_types, &E::types});
  return vectors;
}

std::vector<ClassifierMatrix> classifier_matrices(const ModelConfig& config) {
  std::vector<ClassifierMatrix> matrices;
  if (!config.ranks()) return matrices;
  if (config.classifier_dense)
    matrices.push_back({"cls.weight", config.n_embd, config.n_embd, &ClassifierWeights::dense});
  matrices.push_back({"cls.output.weight", config.n_scores, config.n_embd, &ClassifierWeights::output});
  return matrices;
}

std::vector<ClassifierVector> classifier_vectors(const ModelConfig& config) {
  std::vector<ClassifierVector> vectors;
  if (!config.ranks()) return vectors;
  if (config.classifier_dense) vectors.push_back({"cls.bias", config.n_embd, &ClassifierWeights::dense_bias});
  vectors.push_back({"cls.output.bias", config.n_scores, &ClassifierWeights::output_bias});
  return vectors;
}

std::vector<std::string> unread_tensors(const ModelConfig& config) {
  if (config.arch->layout == LayerLayout::kT5) return encoder_decoder_unread(config);
  return {};
}

}  // namespace shoal
