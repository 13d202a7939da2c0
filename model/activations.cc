#include <algorithm>

#include "model/transformer.h"
#include "tensor/float_ops.h"
#include "tensor/product_ops.h"

namespace shoal {

namespace {

// Floats of each region for `rows_max` rows; every buffer begins on a 64-byte boundary.
struct Sizes {
  size_t normed, q, k, v, attended, ffn, rope, scales, scratch_stride, threads, ropes;
  size_t router, choices, choices_first;  // 0 without experts
  int cols_max;

  size_t experts() const { return router == 0 ? 0 : router + 3 * normed + 3 * choices + choices_first; }
  size_t layer_region() const { return std::max(q + k + v + attended, 2 * ffn + experts()); }
  size_t total() const {
    return normed + layer_region() + 2 * ropes * rope + scales + scratch_stride * threads;
  }
};

size_t aligned_floats(size_t n) {
  return (n + 15) / 16 * 16;
}

Sizes sizes_of(const ModelConfig& config, int rows_max, int context, int threads, KvType kv_type) {
  Sizes s{};
  s.cols_max = config.n_embd;
  const auto widest = [&](size_t& size, int64_t width) {
    size = std::max(size, aligned_floats(static_cast<size_t>(width) * rows_max));
  };
  widest(s.normed, config.n_embd);
  widest(s.rope, config.n_rot / 2);
  widest(s.scales, 1);
  for (int layer = 0; layer < config.n_layer; ++layer) {
    const int n_head = config.n_head[layer], n_head_kv = config.n_head_kv[layer];
    widest(s.q, int64_t{n_head} * config.head_dim_k);
    widest(s.k, config.n_embd_k(layer));
    widest(s.v, config.n_embd_v(layer));
    widest(s.attended, int64_t{n_head} * config.head_dim_v);
    widest(s.ffn, config.n_ff[layer]);
    s.cols_max = std::max({s.cols_max, n_head * config.head_dim_v, config.n_ff[layer]});
    // A cache line apart, so that threads do not write into each other's.
    s.scratch_stride = std::max(
        s.scratch_stride, aligned_floats(attention_scratch_floats(kv_type, n_head, n_head_kv, context)) + 16);
  }
  if (config.n_expert > 0) {
    widest(s.router, config.n_expert);
    widest(s.choices, config.n_expert_used);
    s.choices_first = aligned_floats(static_cast<size_t>(config.n_expert) + 2);
  }
  s.threads = threads;
  s.ropes = config.ropes.size();
  return s;
}

}  // namespace

Activations::Activations(const ModelConfig& config, int rows_max, int context, int threads, KvType kv_type)
    : rows_max(rows_max), rows(rows_max, sizes_of(config, rows_max, context, threads, kv_type).cols_max) {
  const Sizes s = sizes_of(config, rows_max, context, threads, kv_type);
  memory = AlignedBuffer(s.total() * sizeof(float));
  normed = projected = memory.as<float>();
  float* const region = normed + s.normed;
  q = region;
  k = q + s.q;
  v = k + s.k;
  attended = v + s.v;
  gate = region;
  up = gate + s.ffn;
  if (s.router > 0) {
    router = up + s.ffn;
    expert_in = router + s.router;
    expert_out = expert_in + s.normed;
    mixed = expert_out + s.normed;
    chosen_weight = mixed + s.normed;
    static_assert(sizeof(int32_t) == sizeof(float));
    chosen = reinterpret_cast<int32_t*>(chosen_weight + s.choices);
    choices = chosen + s.choices;
    choices_first = choices + s.choices;
  }
  rope_cos = region + s.layer_region();
  rope_sin = rope_cos + s.ropes * s.rope;
  rope_stride = s.rope;
  attention_scale = rope_sin + s.ropes * s.rope;
  attention_scratch = attention_scale + s.scales;
  attention_scratch_stride = s.scratch_stride;
}

uint64_t Activations::bytes(const ModelConfig& config, int rows_max, int context, int threads,
                            KvType kv_type) {
  const Sizes s = sizes_of(config, rows_max, context, threads, kv_type);
  const uint64_t blocks = uint64_t{1} * rows_max * (s.cols_max / kQuantBlock) * kActivationBlockBytes;
  return s.total() * sizeof(float) + blocks;
}

}  // namespace shoal
