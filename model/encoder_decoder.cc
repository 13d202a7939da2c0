#include "model/encoder_decoder.h"

#include <algorithm>

#include "model/row_attention.h"
#include "model/row_ops.h"
#include "tensor/float_ops.h"

namespace shoal {
namespace {

// hidden += W_o attention(W_q norm(hidden), W_k norm(hidden), W_v norm(hidden)), over the rows' own K and V.
// Scores are not scaled: T5 has that in its weights.
void self_attention(const ComputeContext& cx, int layer, const LayerWeights& w, const RelativeBias& bias,
                    int cache_layer, bool up_to_own, std::span<const BatchRow> rows, KvCache& cache,
                    float* hidden) {
  const ModelConfig& c = *cx.config;
  const Activations& a = *cx.act;
  const int n_rows = static_cast<int>(rows.size());
  rms_norm_rows(cx, hidden, w.attn_norm, n_rows, a.normed);
  multiply(cx, a.normed, c.n_embd, n_rows,
           {{&w.attn_q, a.q, c.n_head[layer] * c.head_dim_k},
            {&w.attn_k, a.k, c.n_embd_k(layer)},
            {&w.attn_v, a.v, c.n_embd_v(layer)}});
  store_rows(cx, cache_layer, rows, cache);
  attend_rows(cx, cache_layer, {.bias = &bias, .up_to_own = up_to_own}, rows, cache);
  multiply(cx, a.attended, c.n_head[layer] * c.head_dim_v, n_rows, {{&w.attn_output, a.projected, c.n_embd}});
  add(cx, hidden, a.projected, int64_t{n_rows} * c.n_embd);
}

// The same over what the encoder made of the input.
void cross_attention(const ComputeContext& cx, int layer, const LayerWeights& w,
                     std::span<const BatchRow> rows, const KvCache& encoded, float* hidden) {
  const ModelConfig& c = *cx.config;
  const Activations& a = *cx.act;
  const int n_rows = static_cast<int>(rows.size());
  rms_norm_rows(cx, hidden, w.cross_norm, n_rows, a.normed);
  multiply(cx, a.normed, c.n_embd, n_rows, {{&w.cross_q, a.q, c.n_head[layer] * c.head_dim_k}});
  attend_rows(cx, layer, {}, rows, encoded);
  multiply(cx, a.attended, c.n_head[layer] * c.head_dim_v, n_rows,
           {{&w.cross_output, a.projected, c.n_embd}});
  add(cx, hidden, a.projected, int64_t{n_rows} * c.n_embd);
}

// hidden += W_down (gelu(W_gate norm(hidden)) * W_up norm(hidden)), or W_down relu(W_up norm(hidden)).
void feed_forward(const ComputeContext& cx, int layer, const LayerWeights& w, int n_rows, float* hidden) {
  const ModelConfig& c = *cx.config;
  const Activations& a = *cx.act;
  const int n_ff = c.n_ff[layer];
  const int64_t n = int64_t{n_rows} * n_ff;
  rms_norm_rows(cx, hidden, w.ffn_norm, n_rows, a.normed);
  if (c.gated_ffn) {
    multiply(cx, a.normed, c.n_embd, n_rows, {{&w.ffn_gate, a.gate, n_ff}, {&w.ffn_up, a.up, n_ff}});
    cx.pool->for_range(n, kElementGrain, [&](int64_t begin, int64_t end) {
      cx.kernels->floats->gelu_mul(a.gate + begin, a.up + begin, static_cast<int>(end - begin));
    });
  } else {
    multiply(cx, a.normed, c.n_embd, n_rows, {{&w.ffn_up, a.gate, n_ff}});
    cx.pool->for_range(n, kElementGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) a.gate[i] = std::max(a.gate[i], 0.0f);
    });
  }
  multiply(cx, a.gate, n_ff, n_rows, {{&w.ffn_down, a.projected, c.n_embd}});
  add(cx, hidden, a.projected, int64_t{n_rows} * c.n_embd);
}

}  // namespace

void encoder_layer(const ComputeContext& cx, int layer, const LayerWeights& w, const RelativeBias& bias,
                   std::span<const BatchRow> rows, KvCache& input, float* hidden) {
  const int n_rows = static_cast<int>(rows.size());
  self_attention(cx, layer, w, bias, 0, /*up_to_own=*/false, rows, input, hidden);
  feed_forward(cx, layer, w, n_rows, hidden);
  if (layer + 1 == cx.config->n_encoder) rms_norm_rows(cx, hidden, w.encoder_norm, n_rows, hidden);
}

void keep_encoded(const ComputeContext& cx, int layer, const LayerWeights& w, std::span<const BatchRow> rows,
                  KvCache& encoded, const float* hidden) {
  const ModelConfig& c = *cx.config;
  multiply(cx, hidden, c.n_embd, static_cast<int>(rows.size()),
           {{&w.cross_k, cx.act->k, c.n_embd_k(layer)}, {&w.cross_v, cx.act->v, c.n_embd_v(layer)}});
  store_rows(cx, layer, rows, encoded);
}

void decoder_layer(const ComputeContext& cx, int layer, const LayerWeights& w, const RelativeBias& bias,
                   std::span<const BatchRow> rows, KvCache& cache, const KvCache& encoded, float* hidden) {
  self_attention(cx, layer, w, bias, layer, /*up_to_own=*/true, rows, cache, hidden);
  cross_attention(cx, layer, w, rows, encoded, hidden);
  feed_forward(cx, layer, w, static_cast<int>(rows.size()), hidden);
}

}  // namespace shoal
