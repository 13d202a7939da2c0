#include "model/encoder_decoder_config.h"

#include <cmath>

namespace shoal {
namespace {

constexpr uint64_t kBucketsMax = 1024;

void read_layers(const ModelKeys& keys, ModelConfig& config) {
  config.n_encoder = keys.size("block_count", kLayersMax);
  config.n_layer = config.n_encoder;
  if (!config.arch->encoder_only) {
    config.n_layer += keys.size("decoder_block_count", static_cast<uint64_t>(config.n_encoder), kLayersMax);
  }
  const auto all = [&](int value) { return std::vector<int>(static_cast<size_t>(config.n_layer), value); };
  config.n_ff = all(keys.size("feed_forward_length", kFeedForwardMax));
  const int n_head = keys.size("attention.head_count", kHeadsMax);
  if (keys.size("attention.head_count_kv", static_cast<uint64_t>(n_head), kHeadsMax) != n_head)
    keys.refuse("attention.head_count_kv", "differs from attention.head_count, which no T5 has");
  config.n_head = config.n_head_kv = all(n_head);
  if (!keys.has("attention.key_length") && config.n_embd % n_head != 0)
    keys.refuse("attention.key_length", "is missing, and the heads do not divide the embedding length");
  config.head_dim_k =
      keys.size("attention.key_length", static_cast<uint64_t>(config.n_embd / n_head), kHeadDimMax);
  config.head_dim_v =
      keys.size("attention.value_length", static_cast<uint64_t>(config.head_dim_k), kHeadDimMax);
}

std::string tensor_name(const ModelConfig& config, int layer, const std::string& what) {
  return config.is_encoder(layer) ? "enc.blk." + std::to_string(layer) + "." + what
                                  : "dec.blk." + std::to_string(layer - config.n_encoder) + "." + what;
}

// A file that gives a layer no bias of its own means that of its stack's first layer.
void read_bias_layers(const GgufFile& file, ModelConfig& config) {
  for (int layer = 0; layer < config.n_layer; ++layer) {
    const bool own = file.find_tensor(tensor_name(config, layer, "attn_rel_b.weight")) != nullptr;
    const int first = config.is_encoder(layer) ? 0 : config.n_encoder;
    config.bias_layer.push_back(own ? layer : first);
  }
}

}  // namespace

void read_encoder_decoder(const ModelKeys& keys, ModelConfig& config) {
  const GgufFile& file = keys.file();
  config.n_embd = keys.size("embedding_length", kEmbdMax);
  config.n_ctx_train = keys.size("context_length", kContextMax);
  read_layers(keys, config);
  config.norm_eps = keys.norm_eps("attention.layer_norm_rms_epsilon");
  config.relative_buckets = keys.size("attention.relative_buckets_count", kBucketsMax);
  read_bias_layers(file, config);
  config.gated_ffn = file.find_tensor("enc.blk.0.ffn_gate.weight") != nullptr;
  if (!config.decodes()) return;
  const uint64_t padding = file.get_uint("tokenizer.ggml.padding_token_id", 0);
  config.decoder_start_token = keys.token("decoder_start_token_id", padding, config.n_vocab);
  config.tied_output = file.find_tensor("output.weight") == nullptr;
  // A tied head was trained with hidden scaled so (Raffel et al. 2020; transformers'
  // T5ForConditionalGeneration).
  if (config.tied_output) config.logit_scale = 1 / std::sqrt(static_cast<float>(config.n_embd));
}

std::vector<LayerMatrix> encoder_decoder_matrices(const ModelConfig& config, int layer) {
  using W = LayerWeights;
  const int64_t n_embd = config.n_embd, n_ff = config.n_ff[layer], n_head = config.n_head[layer];
  const int64_t n_q = n_head * config.head_dim_k, n_attended = n_head * config.head_dim_v;
  std::vector<LayerMatrix> matrices;
  const auto add = [&](const char* what, int64_t rows, int64_t cols, WeightMatrix W::*field) {
    matrices.push_back({tensor_name(config, layer, what), 0, rows, cols, field});
  };
  add("attn_q.weight", n_q, n_embd, &W::attn_q);
  add("attn_k.weight", config.n_embd_k(layer), n_embd, &W::attn_k);
  add("attn_v.weight", config.n_embd_v(layer), n_embd, &W::attn_v);
  add("attn_o.weight", n_embd, n_attended, &W::attn_output);
  if (!config.is_encoder(layer)) {
    add("cross_attn_q.weight", n_q, n_embd, &W::cross_q);
    add("cross_attn_k.weight", config.n_embd_k(layer), n_embd, &W::cross_k);
    add("cross_attn_v.weight", config.n_embd_v(layer), n_embd, &W::cross_v);
    add("cross_attn_o.weight", n_embd, n_attended, &W::cross_output);
  }
  if (config.gated_ffn) add("ffn_gate.weight", n_ff, n_embd, &W::ffn_gate);
  add("ffn_up.weight", n_ff, n_embd, &W::ffn_up);
  add("ffn_down.weight", n_embd, n_ff, &W::ffn_down);
  return matrices;
}

std::vector<LayerVector> encoder_decoder_vectors(const ModelConfig& config, int layer) {
  using W = LayerWeights;
  const auto name = [&](const char* what) { return tensor_name(config, layer, what); };
  std::vector<LayerVector> vectors;
  vectors.push_back({name("attn_norm.weight"), config.n_embd, &W::attn_norm});
  vectors.push_back({tensor_name(config, config.bias_layer[layer], "attn_rel_b.weight"),
                     int64_t{config.relative_buckets} * config.n_head[layer], &W::relative_bias,
                     config.relative_buckets});
  if (!config.is_encoder(layer))
    vectors.push_back({name("cross_attn_norm.weight"), config.n_embd, &W::cross_norm});
  vectors.push_back({name("ffn_norm.weight"), config.n_embd, &W::ffn_norm});
  if (layer + 1 == config.n_encoder)
    vectors.push_back({"enc.output_norm.weight", config.n_embd, &W::encoder_norm});
  return vectors;
}

std::vector<std::string> encoder_decoder_unread(const ModelConfig& config) {
  if (!config.decodes()) return {"output.weight"};  // an encoder's answer is hidden itself
  std::vector<std::string> names;                   // some converters write these
  for (int layer = config.n_encoder; layer < config.n_layer; ++layer)
    names.push_back(tensor_name(config, layer, "cross_attn_rel_b.weight"));
  return names;
}

}  // namespace shoal
