#include "model/transformer.h"

#include <cmath>

#include "model/row_ops.h"
#include "tensor/float_ops.h"

namespace shoal {

namespace {

void silu_mul(const ComputeContext& cx, float* gate, const float* up, int64_t n) {
  cx.pool->for_range(n, kElementGrain, [&](int64_t begin, int64_t end) {
    cx.kernels->floats->silu_mul(gate + begin, up + begin, static_cast<int>(end - begin));
  });
}

// Biases, norms of each head and rotation of q and k; then K and V of each row go to their place in the
// cache.
void position_and_store(const ComputeContext& cx, int layer, const LayerWeights& w,
                        std::span<const BatchRow> rows, KvCache& cache) {
  const ModelConfig& c = *cx.config;
  const FloatOps& f = *cx.kernels->floats;
  const int n_head = c.n_head[layer], n_head_kv = c.n_head_kv[layer], dim = c.head_dim_k;
  const int n_q = n_head * dim, n_k = c.n_embd_k(layer), n_v = c.n_embd_v(layer);
  const bool interleaved = c.arch->rope == RopeKind::kInterleaved;
  cx.pool->for_range(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float *q = cx.act->q + r * n_q, *k = cx.act->k + r * n_k, *v = cx.act->v + r * n_v;
      if (c.arch->qkv_bias) {
        f.add(q, w.attn_q_bias.data(), n_q);
        f.add(k, w.attn_k_bias.data(), n_k);
        f.add(v, w.attn_v_bias.data(), n_v);
      }
      if (c.arch->qk_norm) {
        for (int h = 0; h < n_head; ++h)
          f.rms_norm(q + h * dim, w.attn_q_norm.data(), c.norm_eps, dim, q + h * dim);
        for (int h = 0; h < n_head_kv; ++h)
          f.rms_norm(k + h * dim, w.attn_k_norm.data(), c.norm_eps, dim, k + h * dim);
      }
      const float* cos = cx.act->rope_cos + r * (c.n_rot / 2);
      const float* sin = cx.act->rope_sin + r * (c.n_rot / 2);
      f.rope(q, n_head, dim, c.n_rot, interleaved, cos, sin);
      f.rope(k, n_head_kv, dim, c.n_rot, interleaved, cos, sin);
      const auto [token, position, slot, wants_logits] = rows[r];
      f.store_k(cache.type(), k, n_head_kv, dim, position % kKvPageTokens,
                cache.k_page(layer, slot, position));
      f.store_v(cache.type(), v, n_head_kv, c.head_dim_v, position % kKvPageTokens,
                cache.v_page(layer, slot, position));
    }
  });
}

// Each row attends to the positions of its own sequence up to its own. The work items are (KV head, row),
// dealt to the threads in turn: neighbouring rows, which see about as many positions, then go to different
// threads, and a head's K and V stay in a cache near the processor while its rows pass.
void attend(const ComputeContext& cx, int layer, std::span<const BatchRow> rows, const KvCache& cache) {
  const ModelConfig& c = *cx.config;
  const int n_head = c.n_head[layer], n_head_kv = c.n_head_kv[layer];
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim_k));
  const int64_t n_rows = static_cast<int64_t>(rows.size());
  cx.pool->for_each(n_head_kv * n_rows, [&](int64_t item, int thread) {
    const int64_t r = item % n_rows;
    const int head_kv = static_cast<int>(item / n_rows);
    AttentionArgs args{};
    args.q = cx.act->q + r * n_head * c.head_dim_k;
    args.out = cx.act->attended + r * n_head * c.head_dim_v;
    args.kv = cache.view(layer, rows[r].slot);
    args.n_head = n_head;
    args.n_head_kv = n_head_kv;
    args.head_dim_k = c.head_dim_k;
    args.head_dim_v = c.head_dim_v;
    args.first = 0;
    args.last = rows[r].position + 1;
    args.scale = scale;
    args.soft_cap = 0;
    args.head_kv_begin = head_kv;
    args.head_kv_end = head_kv + 1;
    args.scratch = cx.act->attention_scratch + cx.act->attention_scratch_stride * thread;
    cx.kernels->floats->attention(args);
  });
}

}  // namespace

void forward_layer(const ComputeContext& cx, int layer, const LayerWeights& w, std::span<const BatchRow> rows,
                   KvCache& cache, float* hidden) {
  const ModelConfig& c = *cx.config;
  const Activations& a = *cx.act;
  const int n_rows = static_cast<int>(rows.size());
  const int n_q = c.n_head[layer] * c.head_dim_k, n_attended = c.n_head[layer] * c.head_dim_v;
  const int n_k = c.n_embd_k(layer), n_v = c.n_embd_v(layer), n_ff = c.n_ff[layer];

  // hidden += W_o attention(rope(W_q norm(hidden)), rope(W_k norm(hidden)), W_v norm(hidden))
  rms_norm_rows(cx, hidden, w.attn_norm, n_rows, a.normed);
  multiply(cx, a.normed, c.n_embd, n_rows,
           {{&w.attn_q, a.q, n_q}, {&w.attn_k, a.k, n_k}, {&w.attn_v, a.v, n_v}});
  position_and_store(cx, layer, w, rows, cache);
  attend(cx, layer, rows, cache);
  multiply(cx, a.attended, n_attended, n_rows, {{&w.attn_output, a.projected, c.n_embd}});
  add(cx, hidden, a.projected, int64_t{n_rows} * c.n_embd);

  // hidden += W_down (silu(W_gate norm(hidden)) * W_up norm(hidden))
  rms_norm_rows(cx, hidden, w.ffn_norm, n_rows, a.normed);
  multiply(cx, a.normed, c.n_embd, n_rows, {{&w.ffn_gate, a.gate, n_ff}, {&w.ffn_up, a.up, n_ff}});
  silu_mul(cx, a.gate, a.up, int64_t{n_rows} * n_ff);
  multiply(cx, a.gate, n_ff, n_rows, {{&w.ffn_down, a.projected, c.n_embd}});
  add(cx, hidden, a.projected, int64_t{n_rows} * c.n_embd);
}

void prepare_rope(const ComputeContext& cx, std::span<const BatchRow> rows) {
  const ModelConfig& c = *cx.config;
  const int pairs = c.n_rot / 2;
  cx.pool->for_range(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      rope_angles(rows[r].position, c.n_rot, c.rope_freq_base, c.rope_freq_scale, cx.rope_factors,
                  cx.act->rope_cos + r * pairs, cx.act->rope_sin + r * pairs);
  });
}

void embed(const ComputeContext& cx, const WeightMatrix& token_embd, std::span<const BatchRow> rows,
           float* hidden) {
  cx.pool->for_range(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      token_embd.decode_row(rows[r].token, hidden + r * token_embd.cols());
  });
}

void output_head(const ComputeContext& cx, std::span<const float> output_norm, const WeightMatrix& output,
                 const float* hidden, int n_rows, float* logits) {
  rms_norm_rows(cx, hidden, output_norm, n_rows, cx.act->normed);
  multiply(cx, cx.act->normed, cx.config->n_embd, n_rows, {{&output, logits, output.rows()}});
  if (cx.config->logit_scale == 1) return;
  cx.pool->for_range(int64_t{n_rows} * output.rows(), kElementGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) logits[i] *= cx.config->logit_scale;
  });
}

}  // namespace shoal
