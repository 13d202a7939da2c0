#include "model/model_config.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/printable.h"
#include "model/bert.h"
#include "model/encoder_decoder_config.h"
#include "model/gguf_reader.h"
#include "model/model_keys.h"

namespace shoal {
namespace {

constexpr int64_t kScoresMax = 1024;  // of a classifier
constexpr uint64_t kVocabMax = uint64_t{1} << 20;
constexpr uint64_t kExpertsMax = 1024;

const Architecture& read_architecture(const GgufFile& file) {
  refuse_companion(file);
  const std::string name = file.get_string("general.architecture");
  if (const Architecture* found = find_architecture(name)) return *found;
  std::string known;
  for (const std::string& candidate : known_architectures()) known += (known.empty() ? "" : ", ") + candidate;
  refuse_model(file, "the model's architecture is " + in_quotes(name) +
                         ", which Shoal does not compute; known are " + known);
}

void read_attention(const ModelKeys& keys, ModelConfig& config) {
  config.n_head = keys.sizes("attention.head_count", config.n_layer, kHeadsMax);
  config.n_head_kv = config.n_head;
  if (keys.has("attention.head_count_kv")) {
    config.n_head_kv = keys.sizes("attention.head_count_kv", config.n_layer, kHeadsMax);
  }
  for (int layer = 0; layer < config.n_layer; ++layer) {
    if (config.n_head[layer] % config.n_head_kv[layer] == 0) continue;
    keys.refuse("attention.head_count_kv", "gives layer " + std::to_string(layer) + " " +
                                               std::to_string(config.n_head_kv[layer]) +
                                               " key-value heads, which do not divide its " +
                                               std::to_string(config.n_head[layer]) + " heads");
  }
  // Without the keys, the heads of layer 0 share n_embd evenly; all layers have the same head dimensions.
  const auto head_dim = [&](const char* what) {
    if (keys.has(what)) return keys.size(what, kHeadDimMax);
    if (config.n_embd % config.n_head[0] != 0) {
      keys.refuse("attention.head_count", "is " + std::to_string(config.n_head[0]) +
                                              ", which does not divide the embedding length " +
                                              std::to_string(config.n_embd));
    }
    return keys.size(what, static_cast<uint64_t>(config.n_embd / config.n_head[0]), kHeadDimMax);
  };
  config.head_dim_k = head_dim("attention.key_length");
  config.head_dim_v = head_dim("attention.value_length");
}

void read_experts(const ModelKeys& keys, ModelConfig& config) {
  config.n_expert = keys.size_or_zero("expert_count", 0, kExpertsMax);
  if (config.n_expert == 0) return;
  config.n_expert_used = keys.size("expert_used_count", static_cast<uint64_t>(config.n_expert));
  if (keys.has("expert_feed_forward_length")) {
    config.n_ff = keys.sizes("expert_feed_forward_length", config.n_layer, kFeedForwardMax);
  }
}

// Layers that see only so many positions.
void read_windows(const ModelKeys& keys, ModelConfig& config) {
  const Architecture& arch = *config.arch;
  config.window.assign(static_cast<size_t>(config.n_layer), 0);
  if (arch.windows == WindowPattern::kNone) return;
  const int window =
      keys.size_or_zero("attention.sliding_window", static_cast<uint64_t>(arch.window), kContextMax);
  std::vector<bool> has_window(config.window.size(), true);
  if (arch.windows == WindowPattern::kAllButEveryNth) {
    const char* const key = "attention.sliding_window_pattern";
    const MetaValue* value = keys.file().find(keys.name(key));
    if (const auto* by_layer = value ? std::get_if<std::vector<bool>>(value) : nullptr) {
      if (by_layer->size() != has_window.size()) {
        keys.refuse(key, "has " + std::to_string(by_layer->size()) + " entries for " +
                             std::to_string(config.n_layer) + " layers");
      }
      has_window = *by_layer;
    } else {
      const int period = keys.size_or_zero(key, static_cast<uint64_t>(arch.window_period), kLayersMax);
      for (int layer = 0; layer < config.n_layer; ++layer) {
        has_window[static_cast<size_t>(layer)] = period == 0 || layer % period < period - 1;
      }
    }
  }
  for (size_t layer = 0; layer < has_window.size(); ++layer) {
    if (has_window[layer]) config.window[layer] = window;
  }
}

// What files say with a key, or leave to the family.
void read_scales(const ModelKeys& keys, ModelConfig& config) {
  const Architecture& arch = *config.arch;
  constexpr double kLow = 1e-6, kHigh = 1e6;
  const double embedding = arch.embedding_times_sqrt_n_embd ? std::sqrt(config.n_embd) : 1;
  config.embedding_scale = static_cast<float>(keys.number("embedding_scale", embedding, kLow, kHigh));
  config.residual_scale = static_cast<float>(keys.number("residual_scale", 1, kLow, kHigh));
  config.logit_scale = static_cast<float>(1 / keys.number("logit_scale", 1, kLow, kHigh));
  const bool by_n_embd = arch.layers_of_scale_by_n_embd == config.n_layer;
  const double width = by_n_embd ? config.n_embd / config.n_head[0] : config.head_dim_k;
  config.attention_scale = 1 / std::sqrt(static_cast<float>(width));
  if (keys.number("attention.scale", 0) != 0) {  // 0 is what some converters write for "as usual"
    config.attention_scale = static_cast<float>(keys.number("attention.scale", 0, kLow, kHigh));
  }
  config.attention_soft_cap =
      static_cast<float>(keys.number("attn_logit_softcapping", arch.attention_soft_cap, 0, kHigh));
  config.final_soft_cap =
      static_cast<float>(keys.number("final_logit_softcapping", arch.final_soft_cap, 0, kHigh));
  config.temperature_scale = static_cast<float>(keys.number("attention.temperature_scale", 0, 0, kHigh));
  config.temperature_length = config.n_ctx_original;
}

void read_vocabulary(const GgufFile& file, ModelConfig& config) {
  const TensorInfo& embedding = file.tensor("token_embd.weight");
  const uint64_t rows = static_cast<uint64_t>(embedding.rows());
  if (rows > kVocabMax) {
    refuse_model(file, "tensor 'token_embd.weight' has " + std::to_string(rows) + " rows; the limit is " +
                           std::to_string(kVocabMax));
  }
  const std::string key = "tokenizer.ggml.tokens";
  if (const MetaValue* value = file.find(key)) {
    const auto* tokens = std::get_if<std::vector<std::string>>(value);
    if (!tokens) refuse_model(file, "key '" + key + "' is not an array of strings");
    if (tokens->size() != rows) {
      refuse_model(file, "key '" + key + "' lists " + std::to_string(tokens->size()) +
                             " tokens, but tensor 'token_embd.weight' has " + std::to_string(rows) + " rows");
    }
  }
  config.n_vocab = static_cast<int>(rows);
}

// The format's numbers: 0 is none, which leaves it to the program. Text models end in what they know best.
void read_pooling(const ModelKeys& keys, ModelConfig& config) {
  config.pooling = config.decodes() ? Pooling::kLast : Pooling::kMean;
  switch (keys.size_or_zero("pooling_type", 0, 4)) {
    case 1:
      config.pooling = Pooling::kMean;
      break;
    case 2:
      config.pooling = Pooling::kFirst;
      break;
    case 3:
      config.pooling = Pooling::kLast;
      break;
    case 4:
      config.pooling = Pooling::kRank;
      break;
    default:
      break;
  }
  const GgufFile& file = keys.file();
  const uint64_t eos = file.get_uint("tokenizer.ggml.eos_token_id", UINT32_MAX);
  const uint64_t separator =
      file.get_uint("tokenizer.ggml.seperator_token_id", eos);  // the format's spelling
  if (separator < static_cast<uint64_t>(config.n_vocab))
    config.separator_token = static_cast<int32_t>(separator);
  if (!config.ranks()) return;
  const TensorInfo* output = file.find_tensor("cls.output.weight");
  if (config.decodes() || output == nullptr) {
    keys.refuse("pooling_type",
                "is 4 (rank), and there is no classifier that Shoal computes (cls.output.weight of an "
                "encoder)");
  }
  config.classifier_dense = file.find_tensor("cls.weight") != nullptr;
  config.n_scores = static_cast<int>(std::min<int64_t>(output->rows(), kScoresMax));
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
  const ModelKeys keys(file, config.arch->name);
  if (!config.arch->experts && file.get_uint(keys.name("expert_count"), 0) != 0) {
    keys.refuse("expert_count",
                std::string("asks for a mixture of experts, which Shoal does not compute for ") +
                    "architecture " + config.arch->name);
  }
  read_vocabulary(file, config);
  if (config.arch->layout != LayerLayout::kPreNorm) {
    config.arch->layout == LayerLayout::kT5 ? read_encoder_decoder(keys, config) : read_bert(keys, config);
    read_pooling(keys, config);
    check_tensors(file, config);
    return config;
  }
  config.n_layer = keys.size("block_count", kLayersMax);
  config.n_embd = keys.size("embedding_length", kEmbdMax);
  config.n_ctx_train = keys.size("context_length", kContextMax);
  config.n_ff = keys.sizes("feed_forward_length", config.n_layer, kFeedForwardMax);
  read_experts(keys, config);
  if (!file.get_bool(keys.name("attention.causal"), true)) {
    keys.refuse("attention.causal", "is false: this is an embedding model; Shoal generates text");
  }
  read_attention(keys, config);
  read_windows(keys, config);
  read_rope(keys, config);
  read_scales(keys, config);
  config.norm_eps = keys.norm_eps("attention.layer_norm_rms_epsilon");
  config.tied_output = file.find_tensor("output.weight") == nullptr;
  read_pooling(keys, config);
  check_tensors(file, config);
  return config;
}

}  // namespace shoal
