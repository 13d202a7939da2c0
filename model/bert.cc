#include "model/bert.h"

#include <algorithm>
#include <cmath>

#include "model/row_attention.h"
#include "model/row_ops.h"

namespace shoal {
namespace {

constexpr int64_t kTypesMax = 1024;

// x[n_rows, n] += bias[n], where the architecture has biases.
void add_bias(const ComputeContext& cx, float* x, std::span<const float> bias, int n_rows) {
  if (bias.empty()) return;
  const int n = static_cast<int>(bias.size());
  cx.pool->for_range(n_rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) cx.kernels->floats->add(x + r * n, bias.data(), n);
  });
}

void layer_norm_rows(const ComputeContext& cx, float* x, std::span<const float> weight,
                     std::span<const float> bias, int n_rows) {
  const int n = cx.config->n_embd;
  cx.pool->for_range(n_rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      cx.kernels->floats->layer_norm(x + r * n, weight.data(), bias.data(), cx.config->norm_eps, n,
                                     x + r * n);
  });
}

// hidden = norm(hidden + added + bias)
void add_and_norm(const ComputeContext& cx, float* hidden, float* added, std::span<const float> bias,
                  std::span<const float> norm, std::span<const float> norm_bias, int n_rows) {
  add_bias(cx, added, bias, n_rows);
  add(cx, hidden, added, int64_t{n_rows} * cx.config->n_embd);
  layer_norm_rows(cx, hidden, norm, norm_bias, n_rows);
}

void feed_forward(const ComputeContext& cx, int layer, const LayerWeights& w, const float* hidden,
                  int n_rows) {
  const ModelConfig& c = *cx.config;
  const Activations& a = *cx.act;
  const int n_ff = c.n_ff[layer];
  const int64_t n = int64_t{n_rows} * n_ff;
  if (c.gated_ffn) {
    multiply(cx, hidden, c.n_embd, n_rows, {{&w.ffn_gate, a.gate, n_ff}, {&w.ffn_up, a.up, n_ff}});
    cx.pool->for_range(n, kElementGrain, [&](int64_t begin, int64_t end) {
      cx.kernels->floats->silu_mul(a.gate + begin, a.up + begin, static_cast<int>(end - begin));
    });
  } else {
    multiply(cx, hidden, c.n_embd, n_rows, {{&w.ffn_up, a.gate, n_ff}});
    add_bias(cx, a.gate, w.ffn_up_bias, n_rows);
    cx.pool->for_range(n, kElementGrain, [&](int64_t begin, int64_t end) {
      cx.kernels->floats->gelu(a.gate + begin, static_cast<int>(end - begin));
    });
  }
  multiply(cx, a.gate, n_ff, n_rows, {{&w.ffn_down, a.projected, c.n_embd}});
}

void rotate_rows(const ComputeContext& cx, int layer, int n_rows) {
  const ModelConfig& c = *cx.config;
  if (c.rope[layer] == kNoRope) return;
  const bool interleaved = c.arch->rope == RopeKind::kInterleaved;
  const int n_head = c.n_head[layer], n_head_kv = c.n_head_kv[layer], dim = c.head_dim_k;
  cx.pool->for_range(n_rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const size_t at = cx.act->rope_stride * c.rope[layer] + r * (c.n_rot / 2);
      const float *cos = cx.act->rope_cos + at, *sin = cx.act->rope_sin + at;
      cx.kernels->floats->rope(cx.act->q + r * n_head * dim, n_head, dim, c.n_rot, interleaved, cos, sin);
      cx.kernels->floats->rope(cx.act->k + r * n_head_kv * dim, n_head_kv, dim, c.n_rot, interleaved, cos,
                               sin);
    }
  });
}

}  // namespace

void read_bert(const ModelKeys& keys, ModelConfig& config) {
  config.n_layer = config.n_encoder = keys.size("block_count", kLayersMax);
  config.n_embd = keys.size("embedding_length", kEmbdMax);
  config.n_ctx_train = keys.size("context_length", kContextMax);
  const auto all = [&](int value) { return std::vector<int>(static_cast<size_t>(config.n_layer), value); };
  config.n_ff = all(keys.size("feed_forward_length", kFeedForwardMax));
  const int n_head = keys.size("attention.head_count", kHeadsMax);
  if (config.n_embd % n_head != 0)
    keys.refuse("attention.head_count", "is " + std::to_string(n_head) +
                                            ", which does not divide the embedding length " +
                                            std::to_string(config.n_embd));
  config.n_head = config.n_head_kv = all(n_head);
  config.head_dim_k = config.head_dim_v = config.n_embd / n_head;
  config.window = all(0);
  config.norm_eps = keys.norm_eps("attention.layer_norm_epsilon");
  config.attention_scale = 1 / std::sqrt(static_cast<float>(config.head_dim_k));
  config.gated_ffn = !config.arch->qkv_bias;
  config.n_positions = config.arch->learned_positions ? config.n_ctx_train : 0;
  if (const TensorInfo* types = keys.file().find_tensor("token_types.weight"))
    config.n_token_types = static_cast<int>(std::min(types->rows(), kTypesMax));
  if (config.arch->learned_positions) {
    config.rope = all(kNoRope);
  } else {
    read_rope(keys, config);
  }
}

std::vector<LayerMatrix> bert_matrices(const ModelConfig& config, int layer) {
  using W = LayerWeights;
  const int64_t n_embd = config.n_embd, n_ff = config.n_ff[layer];
  std::vector<LayerMatrix> matrices;
  const auto add = [&](const char* what, int64_t first_row, int64_t rows, int64_t cols,
                       WeightMatrix W::*field) {
    matrices.push_back({TensorNames::layer(layer, what), first_row, rows, cols, field});
  };
  const bool fused = config.arch->fused_qkv;
  add(fused ? "attn_qkv.weight" : "attn_q.weight", 0, n_embd, n_embd, &W::attn_q);
  add(fused ? "attn_qkv.weight" : "attn_k.weight", fused ? n_embd : 0, n_embd, n_embd, &W::attn_k);
  add(fused ? "attn_qkv.weight" : "attn_v.weight", fused ? 2 * n_embd : 0, n_embd, n_embd, &W::attn_v);
  add("attn_output.weight", 0, n_embd, n_embd, &W::attn_output);
  if (config.gated_ffn) add("ffn_gate.weight", 0, n_ff, n_embd, &W::ffn_gate);
  add("ffn_up.weight", 0, n_ff, n_embd, &W::ffn_up);
  add("ffn_down.weight", 0, n_embd, n_ff, &W::ffn_down);
  return matrices;
}

std::vector<LayerVector> bert_vectors(const ModelConfig& config, int layer) {
  using W = LayerWeights;
  std::vector<LayerVector> vectors;
  const auto add = [&](const char* what, int64_t size, std::vector<float> W::*field) {
    vectors.push_back({TensorNames::layer(layer, what), size, field});
  };
  const int64_t n_embd = config.n_embd;
  if (config.arch->qkv_bias) {
    add("attn_q.bias", n_embd, &W::attn_q_bias);
    add("attn_k.bias", n_embd, &W::attn_k_bias);
    add("attn_v.bias", n_embd, &W::attn_v_bias);
    add("attn_output.bias", n_embd, &W::attn_output_bias);
    add("ffn_up.bias", config.n_ff[layer], &W::ffn_up_bias);
    add("ffn_down.bias", n_embd, &W::ffn_down_bias);
  }
  add("attn_output_norm.weight", n_embd, &W::attn_post_norm);
  add("attn_output_norm.bias", n_embd, &W::attn_post_norm_bias);
  add("layer_output_norm.weight", n_embd, &W::ffn_post_norm);
  add("layer_output_norm.bias", n_embd, &W::ffn_post_norm_bias);
  return vectors;
}

// Of a pair (query and document) the second part has type 1: what follows a separator.
void embed_positions(const ComputeContext& cx, const EmbeddingWeights& w, std::span<const BatchRow> rows,
                     float* hidden) {
  const ModelConfig& c = *cx.config;
  const int n = c.n_embd;
  const FloatOps& f = *cx.kernels->floats;
  bool second = false;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].position == 0) second = false;
    float* const x = hidden + r * static_cast<size_t>(n);
    if (!w.types.empty()) f.add(x, w.types.data() + (second && c.n_token_types > 1 ? n : 0), n);
    if (!w.positions.empty()) f.add(x, w.positions.data() + static_cast<size_t>(rows[r].position) * n, n);
    second = second || rows[r].token == c.separator_token;
  }
  layer_norm_rows(cx, hidden, w.norm, w.norm_bias, static_cast<int>(rows.size()));
}

void bert_layer(const ComputeContext& cx, int layer, const LayerWeights& w, std::span<const BatchRow> rows,
                KvCache& input, float* hidden) {
  const ModelConfig& c = *cx.config;
  const Activations& a = *cx.act;
  const int n_rows = static_cast<int>(rows.size());

  // hidden = norm(hidden + W_o attention(rope(W_q hidden), rope(W_k hidden), W_v hidden))
  multiply(cx, hidden, c.n_embd, n_rows,
           {{&w.attn_q, a.q, c.n_embd}, {&w.attn_k, a.k, c.n_embd}, {&w.attn_v, a.v, c.n_embd}});
  add_bias(cx, a.q, w.attn_q_bias, n_rows);
  add_bias(cx, a.k, w.attn_k_bias, n_rows);
  add_bias(cx, a.v, w.attn_v_bias, n_rows);
  rotate_rows(cx, layer, n_rows);
  store_rows(cx, 0, rows, input);
  attend_rows(cx, 0, {.scale = c.attention_scale}, rows, input);
  multiply(cx, a.attended, c.n_embd, n_rows, {{&w.attn_output, a.projected, c.n_embd}});
  add_and_norm(cx, hidden, a.projected, w.attn_output_bias, w.attn_post_norm, w.attn_post_norm_bias, n_rows);

  // hidden = norm(hidden + W_down gelu(W_up hidden)), or W_down (silu(W_gate hidden) * W_up hidden)
  feed_forward(cx, layer, w, hidden, n_rows);
  add_and_norm(cx, hidden, a.projected, w.ffn_down_bias, w.ffn_post_norm, w.ffn_post_norm_bias, n_rows);
}

}  // namespace shoal
