#include "model/row_attention.h"

#include "tensor/float_ops.h"

namespace shoal {

void store_rows(const ComputeContext& cx, int layer, std::span<const BatchRow> rows, KvCache& cache) {
  const ModelConfig& c = *cx.config;
  const FloatOps& f = *cx.kernels->floats;
  const int n_head_kv = c.n_head_kv[layer];
  cx.pool->for_range(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int position = rows[r].position, slot = rows[r].slot;
      const int in_page = position % kKvPageTokens;
      f.store_k(cache.type(), cx.act->k + r * c.n_embd_k(layer), n_head_kv, c.head_dim_k, in_page,
                cache.k_page(layer, slot, position));
      f.store_v(cache.type(), cx.act->v + r * c.n_embd_v(layer), n_head_kv, c.head_dim_v, in_page,
                cache.v_page(layer, slot, position));
    }
  });
}

void attend_rows(const ComputeContext& cx, int layer, const RowAttention& how, std::span<const BatchRow> rows,
                 const KvCache& cache) {
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
    args.last = how.up_to_own ? row.position + 1 : cache.length(row.slot);
    args.scale = how.scale;
    args.head_kv_begin = static_cast<int>(item / n_rows);
    args.head_kv_end = args.head_kv_begin + 1;
    args.scratch = cx.act->attention_scratch + cx.act->attention_scratch_stride * thread;
    if (how.bias != nullptr) {
      args.bias = how.bias->of_query(row.position);
      args.bias_stride = how.bias->stride();
    }
    cx.kernels->floats->attention(args);
  });
}

}  // namespace shoal
