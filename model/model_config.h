// The shape of a model, read from a GGUF file's metadata and checked against itself and the tensors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/gguf_file.h"

namespace shoal {

enum class RopeKind {
  kInterleaved,  // pairs (2i, 2i+1): llama and its kin
  kHalfSplit,    // pairs (i, i + n/2), "NeoX": qwen and its kin
};

// What distinguishes a family, as data. transformer.cc branches on these fields, never on a name.
// A new family of known mechanisms is one row in model/architectures.cc.
struct Architecture {
  const char* name;  // general.architecture
  RopeKind rope;
  bool qkv_bias;               // attn_{q,k,v}.bias present
  bool qk_norm;                // RMS norm over each head of q and k before rope (attn_{q,k}_norm.weight)
  bool relative_bias = false;  // T5: an encoder and, unless it is one alone, a decoder; encoder_decoder.h
  bool encoder_only = false;
};

const Architecture* find_architecture(std::string_view name);  // nullptr if unknown
std::vector<std::string> known_architectures();

struct ModelConfig {
  const Architecture* arch = nullptr;
  std::string name;  // general.name, or the file's name
  int n_layer = 0;
  int n_embd = 0;
  int n_vocab = 0;
  int n_ctx_train = 0;  // longest context of training
  int head_dim_k = 0, head_dim_v = 0;
  std::vector<int> n_head, n_head_kv, n_ff;  // per layer
  int n_rot = 0;                             // dimensions rotated by rope
  double rope_freq_base = 10000;
  double rope_freq_scale = 1;  // 1 / linear scaling factor
  bool rope_factors = false;   // rope_freqs.weight present (Llama 3)
  float norm_eps = 1e-5f;
  bool tied_output = false;  // no output.weight: the embedding serves both ends
  // Layers [0, n_encoder) are an encoder's: they see a whole input at once, in both directions, and keep
  // nothing. The others are a decoder's. 0: a decoder alone; n_layer: an encoder alone.
  int n_encoder = 0;
  int relative_buckets = 0;          // of the relative position bias
  bool gated_ffn = true;             // else relu(W_up x) alone, as the first T5
  int32_t decoder_start_token = -1;  // what an answer begins after, where there is an encoder and a decoder
  std::vector<int> bias_layer;       // per layer: whose relative position bias it has
  float logit_scale = 1;             // of the logits

  int n_embd_k(int layer) const { return n_head_kv[layer] * head_dim_k; }
  int n_embd_v(int layer) const { return n_head_kv[layer] * head_dim_v; }
  bool is_encoder(int layer) const { return layer < n_encoder; }
  bool encodes() const { return n_encoder > 0; }
  bool decodes() const { return n_encoder < n_layer; }

  // Throws SetupError: unknown architecture (lists the known), missing key, contradiction between metadata
  // and tensor shapes, unknown tensor type, unsupported rope scaling, expert tensors; names the key, tensor
  // or layer.
  static ModelConfig from(const GgufFile& file);
};

// The tensors of one layer / of the whole model that a shard must read, by name.
struct TensorNames {
  static std::string layer(int layer, const char* what);  // "blk.7.attn_q.weight" for (7, "attn_q.weight")
};

// The norm in front of the output head.
const char* output_norm_tensor(const ModelConfig& config);

// Bytes as stored (packed) of each planner unit.
struct UnitBytes {
  uint64_t embedding = 0;  // token_embd
  std::vector<uint64_t> layers;
  uint64_t output = 0;  // output norm + output head (the embedding's bytes again when tied)
  uint64_t shared = 0;  // tensors that every shard with layers needs (rope factors)
};
UnitBytes unit_bytes(const GgufFile& file, const ModelConfig& config);

}  // namespace shoal
