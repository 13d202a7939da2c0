// The shape of a model, read from a GGUF file's metadata and checked against itself and the tensors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/gguf_file.h"
#include "tensor/float_ops.h"

namespace shoal {

enum class RopeKind {
  kInterleaved,  // pairs (2i, 2i+1): llama and its kin
  kHalfSplit,    // pairs (i, i + n/2), "NeoX": qwen and its kin
};

enum class GateKind { kSilu, kGelu };  // gelu by tanh

// Which layers see only the last attention.sliding_window positions, if the file says how many.
enum class WindowPattern {
  kNone,            // the key is not read
  kEveryLayer,      //
  kAllButEveryNth,  // layers window_period - 1, 2 window_period - 1, ... see all positions
};

// The layers' mathematics.
enum class LayerLayout {
  kPreNorm,  // transformer.cc: every half of a layer adds to hidden what it makes of hidden's norm
  kT5,       // encoder_decoder.cc: that, without rotation, with an encoder and relative position biases
  kBert,     // bert.cc: an encoder that norms hidden after each half has been added
};

// What becomes of a text's rows where its embedding is wanted (ARCH.pooling_type).
enum class Pooling {
  kMean,
  kFirst,
  kLast,
  kRank,  // the first row goes through a classifier: scores of a query and a document
};

// What distinguishes a family, as data. transformer.cc branches on these fields, never on a name.
// A new family of known mechanisms is one row in model/architectures.cc. Scales that are keys of the file are
// read for every family (ModelConfig); here are those that files leave unsaid.
struct Architecture {
  const char* name;  // general.architecture
  RopeKind rope;
  bool rope_is_a_choice = false;  // rope.scaling.finetuned = false: positions are not rotated at all
  int no_rope_period = 0;         // n > 0: layers n - 1, 2n - 1, ... do not rotate
  bool qkv_bias = false;          // attn_{q,k,v}.bias present
  bool qk_norm = false;           // RMS norm over each head of q and k before rope (attn_{q,k}_norm.weight)
  bool post_norms = false;        // what attention and feed-forward add is normed (post_{attention,ffw}_norm)
  bool fused_qkv = false;         // attn_qkv.weight: the rows of q, k and v in one tensor
  bool fused_gate_up = false;     // ffn_up.weight: the rows of gate and up in one tensor
  bool experts = false;           // a file with expert_count has a mixture of experts for a feed-forward
  GateKind gate = GateKind::kSilu;
  bool embedding_times_sqrt_n_embd = false;
  float attention_soft_cap = 0, final_soft_cap = 0;  // without a key; 0: none
  WindowPattern windows = WindowPattern::kNone;
  int window_period = 0;         // without a key
  int window = 0;                // without a key; 0: none
  bool rope_of_windows = false;  // layers with a window rotate by rope.freq_base_swa, unscaled
  LayerLayout layout = LayerLayout::kPreNorm;
  bool encoder_only = false;
  bool learned_positions = false;     // position_embd.weight is added to the tokens' embedding
  int layers_of_scale_by_n_embd = 0;  // a model of so many layers divides scores by sqrt(n_embd / n_head)
};

const Architecture* find_architecture(std::string_view name);  // nullptr if unknown
std::vector<std::string> known_architectures();

constexpr int kNoRope = -1;

struct ModelConfig {
  const Architecture* arch = nullptr;
  std::string name;  // general.name, or the file's name
  int n_layer = 0;
  int n_embd = 0;
  int n_vocab = 0;
  int n_ctx_train = 0;  // longest context of training
  int head_dim_k = 0, head_dim_v = 0;
  std::vector<int> n_head, n_head_kv, n_ff;  // per layer
  std::vector<int> window;  // per layer: positions that a row sees, its own included; 0: all before it
  int n_expert = 0,
      n_expert_used = 0;           // of each layer, and for each row; n_ff is one expert's. 0: no mixture
  int n_rot = 0;                   // dimensions rotated by rope
  std::vector<RopeScaling> ropes;  // the first may have factors
  std::vector<int> rope;           // per layer: index in `ropes`, or kNoRope
  bool rope_factors = false;       // rope_freqs.weight present (Llama 3)
  bool rope_factors_by_context = false;  // rope_factors_{short,long}.weight present (Phi-3)
  int n_ctx_original = 0;                // a longer context than this takes rope_factors_long.weight
  float norm_eps = 1e-5f;
  float embedding_scale = 1;                         // of the embedded tokens
  float residual_scale = 1;                          // of what attention and feed-forward add
  float attention_scale = 1;                         // of q . k
  float logit_scale = 1;                             // of the logits, before the soft cap
  float attention_soft_cap = 0, final_soft_cap = 0;  // x = cap tanh(x / cap); 0: none
  float temperature_scale = 0;  // scores grow by 1 + scale ln(1 + floor(position / temperature_length))
  int temperature_length = 0;
  bool tied_output = false;  // no output.weight: the embedding serves both ends
  // Layers [0, n_encoder) are an encoder's: they see a whole input at once, in both directions, and keep
  // nothing. The others are a decoder's. 0: a decoder alone; n_layer: an encoder alone.
  int n_encoder = 0;
  int relative_buckets = 0;          // of the relative position bias
  std::vector<int> bias_layer;       // per layer: whose relative position bias it has
  bool gated_ffn = true;             // else relu(W_up x) alone, as the first T5
  int32_t decoder_start_token = -1;  // what an answer begins after, where there is an encoder and a decoder
  int n_positions = 0;               // learned; 0: none
  int n_token_types = 0;             // 0: no embedding of types
  int32_t separator_token = -1;      // of a pair's parts
  Pooling pooling = Pooling::kLast;
  bool classifier_dense = false;  // cls.weight before cls.output.weight
  int n_scores = 0;               // of a classifier

  int n_embd_k(int layer) const { return n_head_kv[layer] * head_dim_k; }
  int n_embd_v(int layer) const { return n_head_kv[layer] * head_dim_v; }
  bool is_encoder(int layer) const { return layer < n_encoder; }
  bool encodes() const { return n_encoder > 0; }
  bool decodes() const { return n_encoder < n_layer; }
  bool ranks() const { return pooling == Pooling::kRank; }

  // Throws SetupError: unknown architecture (lists the known), missing key, contradiction between metadata
  // and tensor shapes, unknown tensor type, unsupported rope scaling or experts; names the key, tensor
  // or layer.
  static ModelConfig from(const GgufFile& file);
};

// The tensors of one layer / of the whole model that a shard must read, by name.
struct TensorNames {
  static std::string layer(int layer, const char* what);  // "blk.7.attn_q.weight" for (7, "attn_q.weight")
};

// The vectors of factors that rope's frequencies are divided by; of two, the second is for contexts longer
// than n_ctx_original.
std::vector<const char*> rope_factor_tensors(const ModelConfig& config);

// The norm in front of the output head.
const char* output_norm_tensor(const ModelConfig& config);

// Bytes as stored (packed) of each planner unit.
struct UnitBytes {
  uint64_t embedding = 0;  // token_embd
  std::vector<uint64_t> layers;
  std::vector<uint64_t> layers_read;  // of these, what one row of a step reads: the experts that it asks
  uint64_t output = 0;                // output norm + output head (the embedding's bytes again when tied)
  uint64_t shared = 0;                // tensors that every shard with layers needs (rope factors)
};
UnitBytes unit_bytes(const GgufFile& file, const ModelConfig& config);

}  // namespace shoal
