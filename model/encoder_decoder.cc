#include "model/encoder_decoder.h"

#include <algorithm>

#include "model/row_ops.h"
#include "tensor/float_ops.h"

namespace shoal {
namespace {

// K and V of each row go to their place in layer `layer` of a cache.
void store_rows(const ComputeContext& cx, int layer, std::span<const BatchRow> rows, KvCache& cache) {
  const ModelConfig& c = *cx.config;
  const FloatOps& f = *cx.kernels->floats;
  const int n_head_kv = c.n_head_kv[layer];
  cx.pool->for_range(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const auto [token, position, slot, wants_logits] = rows[r];
      const int in_page = position % kKvPageTokens;
      f.store_k(cache.type(), cx.act->k + r * c.n_embd_k(layer), n_head_kv, c.head_dim_k, in_page,
                cache.k_page(layer, slot, position));
      f.store_v(cache.type(), cx.act->v + r * c.n_embd_v(layer), n_head_kv, c.head_dim_v, in_page,
                cache.v_page(layer, slot, position));
    }
  });
}

// Each row attends to the positions of its own slot in layer `layer` of a cache: all of them, or those up to
// its own. Scores are not scaled: T5 has that in its weights.
void attend(const ComputeContext& cx, int layer, const RelativeBias* bias, bool up_to_own,
            std::span<const BatchRow> rows, const KvCache& cache) {
  const ModelConfig& c = *cx.config;
  const int n_head = c.n_head[layer], n_head_kv = c.n_head_kv[layer];
  const int64_t n_rows = static_cast<int64_t>(rows.size());
  cx.pool->for_each(n_head_kv * n_rows, [&](int64_t item, int thread) {
    const int64_t r = item % n_rows;
    const BatchRow& row = rows[r];
    AttentionArgs args{};
    args.q = cx.act->q + r * n_head * c.head_dim_k;
    args.out = cx.act->attended + r * n_head * c.head_dim_v;
    args.kv = cache.view(layer, row.slot);
    args.n_head = n_head;
    args.n_head_kv = n_head_kv;
    args.head_dim_k = c.head_dim_k;
    args.head_dim_v = c.head_dim_v;
    args.last = up_to_own ? row.position + 1 : cache.length(row.slot);
    args.scale = 1;
    args.head_kv_begin = static_cast<int>(item / n_rows);
    args.head_kv_end = args.head_kv_begin + 1;
    args.scratch = cx.act->attention_scratch + cx.act->attention_scratch_stride * thread;
    if (bias != nullptr) {
      args.bias = bias->of_query(row.position);
      args.bias_stride = bias->stride();
    }
    cx.kernels->floats->attention(args);
  });
}

// hidden += W_o attention(W_q norm(hidden), W_k norm(hidden), W_v norm(hidden)), over the rows' own K and V.
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
  attend(cx, cache_layer, &bias, up_to_own, rows, cache);
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
  attend(cx, layer, nullptr, false, rows, encoded);
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
