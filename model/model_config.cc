#include "model/model_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "base/error.h"
#include "model/encoder_decoder_config.h"
#include "model/gguf_reader.h"
#include "model/layer_weights.h"
#include "model/model_keys.h"
#include "tensor/weight_matrix.h"

namespace shoal {
namespace {

const Architecture& read_architecture(const GgufFile& file) {
  const std::string name = file.get_string("general.architecture");
  if (const Architecture* found = find_architecture(name)) return *found;
  std::string known;
  for (const std::string& candidate : known_architectures()) known += (known.empty() ? "" : ", ") + candidate;
  refuse_file(file, "the model's architecture is " + quoted(name) +
                        ", which Shoal does not compute; known are " + known);
}

void read_attention(const Keys& keys, ModelConfig& config) {
  config.n_head = keys.sizes("attention.head_count", config.n_layer, kHeadsMax);
  config.n_head_kv = config.n_head;
  if (keys.has("attention.head_count_kv")) {
    config.n_head_kv = keys.sizes("attention.head_count_kv", config.n_layer, kHeadsMax);
  }
  for (int layer = 0; layer < config.n_layer; ++layer) {
    if (config.n_head[layer] % config.n_head_kv[layer] == 0) continue;
    keys.refuse_key("attention.head_count_kv", "gives layer " + std::to_string(layer) + " " +
                                                   std::to_string(config.n_head_kv[layer]) +
                                                   " key-value heads, which do not divide its " +
                                                   std::to_string(config.n_head[layer]) + " heads");
  }
  // Without the keys, the heads of layer 0 share n_embd evenly; all layers have the same head dimensions.
  const auto head_dim = [&](const char* what) {
    if (keys.has(what)) return keys.size(what, kHeadDimMax);
    if (config.n_embd % config.n_head[0] != 0) {
      keys.refuse_key("attention.head_count", "is " + std::to_string(config.n_head[0]) +
                                                  ", which does not divide the embedding length " +
                                                  std::to_string(config.n_embd));
    }
    return keys.size(what, static_cast<uint64_t>(config.n_embd / config.n_head[0]), kHeadDimMax);
  };
  config.head_dim_k = head_dim("attention.key_length");
  config.head_dim_v = head_dim("attention.value_length");
  // Sliding-window keys are not read: llama.cpp ignores them for these architectures (Mistral 7B v0.1 and
  // some Qwen2 files carry one) and the models answer well with full attention.
}

void read_rope(const GgufFile& file, const Keys& keys, ModelConfig& config) {
  config.n_rot = keys.size("rope.dimension_count", static_cast<uint64_t>(config.head_dim_k), kHeadDimMax);
  if (config.n_rot > config.head_dim_k || config.n_rot % 2 != 0) {
    keys.refuse_key("rope.dimension_count", "is " + std::to_string(config.n_rot) +
                                                "; it must be even and at most the head's " +
                                                std::to_string(config.head_dim_k) + " dimensions");
  }
  config.rope_freq_base = keys.number("rope.freq_base", 10000);
  if (!(config.rope_freq_base >= 1 && config.rope_freq_base <= 1e12)) {
    keys.refuse_key("rope.freq_base", "is not a number from 1 to 1e12");
  }
  const std::string type = file.get_string(keys.name("rope.scaling.type"), "linear");
  if (type != "none" && type != "linear") {
    keys.refuse_key("rope.scaling.type", "asks for rope scaling " + quoted(type) +
                                             ", which Shoal does not compute; known are none, linear and the "
                                             "factors tensor rope_freqs.weight (Llama 3)");
  }
  // An absent type with a factor means linear; "scale_linear" is the key's old name; 0 means no scaling.
  const char* factor_key = keys.has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
  const double factor = keys.number(factor_key, 0);
  if (factor != 0 && !(factor >= 1e-3 && factor <= 1e6)) {
    keys.refuse_key(factor_key, "is not a number from 0.001 to 1000000");
  }
  if (type == "linear" && factor != 0) config.rope_freq_scale = 1 / factor;
  if (keys.number("rope.scaling.attn_factor", 1) != 1) {
    keys.refuse_key("rope.scaling.attn_factor", "is not 1; Shoal does not scale attention with rope");
  }
  config.rope_factors = file.find_tensor("rope_freqs.weight") != nullptr;
}

void read_vocabulary(const GgufFile& file, ModelConfig& config) {
  const TensorInfo& embedding = file.tensor("token_embd.weight");
  const uint64_t rows = static_cast<uint64_t>(embedding.rows());
  if (rows > kVocabMax) {
    refuse_file(file, "tensor 'token_embd.weight' has " + std::to_string(rows) + " rows; the limit is " +
                          std::to_string(kVocabMax));
  }
  const std::string key = "tokenizer.ggml.tokens";
  if (const MetaValue* value = file.find(key)) {
    const auto* tokens = std::get_if<std::vector<std::string>>(value);
    if (!tokens) refuse_file(file, "key '" + key + "' is not an array of strings");
    if (tokens->size() != rows) {
      refuse_file(file, "key '" + key + "' lists " + std::to_string(tokens->size()) +
                            " tokens, but tensor 'token_embd.weight' has " + std::to_string(rows) + " rows");
    }
  }
  config.n_vocab = static_cast<int>(rows);
}

void check_layer(TensorCheck& check, const ModelConfig& config, int layer) {
  const auto name = [&](const char* what) { return TensorNames::layer(layer, what); };
  const int64_t n_embd = config.n_embd, n_ff = config.n_ff[layer];
  const int64_t n_q = int64_t{config.n_head[layer]} * config.head_dim_k;
  const int64_t n_k = config.n_embd_k(layer), n_v = config.n_embd_v(layer);
  check.vector(name("attn_norm.weight"), n_embd);
  check.matrix(name("attn_q.weight"), n_embd, n_q);
  check.matrix(name("attn_k.weight"), n_embd, n_k);
  check.matrix(name("attn_v.weight"), n_embd, n_v);
  if (config.arch->qkv_bias) {
    check.vector(name("attn_q.bias"), n_q);
    check.vector(name("attn_k.bias"), n_k);
    check.vector(name("attn_v.bias"), n_v);
  }
  if (config.arch->qk_norm) {
    check.vector(name("attn_q_norm.weight"), config.head_dim_k);
    check.vector(name("attn_k_norm.weight"), config.head_dim_k);
  }
  check.matrix(name("attn_output.weight"), int64_t{config.n_head[layer]} * config.head_dim_v, n_embd);
  check.vector(name("ffn_norm.weight"), n_embd);
  check.matrix(name("ffn_gate.weight"), n_embd, n_ff);
  check.matrix(name("ffn_up.weight"), n_embd, n_ff);
  check.matrix(name("ffn_down.weight"), n_ff, n_embd);
}

void check_tensors(const GgufFile& file, const ModelConfig& config) {
  TensorCheck check(file);
  check.matrix("token_embd.weight", config.n_embd, config.n_vocab);
  for (int layer = 0; layer < config.n_layer; ++layer) check_layer(check, config, layer);
  check.vector("output_norm.weight", config.n_embd);
  if (!config.tied_output) check.matrix("output.weight", config.n_embd, config.n_vocab);
  if (config.rope_factors) check.vector("rope_freqs.weight", config.n_rot / 2);
  check.refuse_unused(*config.arch);
}

std::string model_name(const GgufFile& file) {
  const std::string name = file.get_string("general.name", "");
  if (!name.empty()) return printable(name);
  const std::string& path = file.path();
  return printable(path.substr(path.find_last_of('/') + 1));
}

}  // namespace

ModelConfig ModelConfig::from(const GgufFile& file) {
  ModelConfig config;
  config.arch = &read_architecture(file);
  config.name = model_name(file);
  if (config.arch->relative_bias) {
    read_vocabulary(file, config);
    read_encoder_decoder(file, config);
    return config;
  }
  const Keys keys(file, config.arch->name);
  if (file.get_uint(keys.name("expert_count"), 0) != 0) {
    keys.refuse_key("expert_count", "asks for a mixture of experts, which Shoal does not compute");
  }
  config.n_layer = keys.size("block_count", kLayersMax);
  config.n_embd = keys.size("embedding_length", kEmbdMax);
  config.n_ctx_train = keys.size("context_length", kContextMax);
  config.n_ff = keys.sizes("feed_forward_length", config.n_layer, kFeedForwardMax);
  if (!file.get_bool(keys.name("attention.causal"), true)) {
    keys.refuse_key("attention.causal", "is false: this is an embedding model; Shoal generates text");
  }
  read_attention(keys, config);
  read_rope(file, keys, config);
  config.norm_eps = keys.norm_eps("attention.layer_norm_rms_epsilon");
  config.tied_output = file.find_tensor("output.weight") == nullptr;
  read_vocabulary(file, config);
  check_tensors(file, config);
  return config;
}

std::string TensorNames::layer(int layer, const char* what) {
  return "blk." + std::to_string(layer) + "." + what;
}

namespace {

// Bytes a tensor takes in memory: norms, biases and rope factors as f32, matrices packed.
uint64_t stored_bytes(const TensorInfo& tensor) {
  const std::string_view name = tensor.name;
  if (name.ends_with("norm.weight") || name.ends_with(".bias") || name == "rope_freqs.weight") {
    return static_cast<uint64_t>(tensor.cols()) * sizeof(float);
  }
  return WeightMatrix::packed_bytes(tensor.type, tensor.rows(), tensor.cols());
}

}  // namespace

const char* output_norm_tensor(const ModelConfig& config) {
  return config.encodes() ? "dec.output_norm.weight" : "output_norm.weight";
}

UnitBytes unit_bytes(const GgufFile& file, const ModelConfig& config) {
  UnitBytes bytes;
  bytes.layers.resize(static_cast<size_t>(config.n_layer));
  bytes.embedding = stored_bytes(file.tensor("token_embd.weight"));
  if (config.decodes())
    bytes.output = stored_bytes(file.tensor(output_norm_tensor(config))) +
                   (config.tied_output ? bytes.embedding : stored_bytes(file.tensor("output.weight")));
  if (config.rope_factors) bytes.shared = stored_bytes(file.tensor("rope_freqs.weight"));
  for (int layer = 0; layer < config.n_layer; ++layer) {
    for (const LayerMatrix& m : layer_matrices(config, layer))
      bytes.layers[layer] += WeightMatrix::packed_bytes(file.tensor(m.tensor).type, m.rows, m.cols);
    for (const LayerVector& v : layer_vectors(config, layer))
      bytes.layers[layer] += static_cast<uint64_t>(v.size) * sizeof(float);
  }
  return bytes;
}

}  // namespace shoal
