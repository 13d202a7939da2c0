// Everything of a transformer layer that is not a weight product, one table per instruction set, all with the
// same bits. All pointers to f32 unless said otherwise; rows are contiguous; no function allocates.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shoal {

inline constexpr int kQuantBlock = 32;      // activations per int8 block
inline constexpr int kKvPageTokens = 32;    // positions in one page of the KV cache
inline constexpr int kAttentionLanes = 16;  // positions computed side by side

// What K and V are kept as: halves, or bytes in blocks of 32 dimensions (the last may be narrower) with a
// half as scale, as GGUF's Q8_0. A block with an element that is not finite has NaN as scale.
enum class KvType : uint8_t { kF16, kQ8_0 };

// The K and V pages of one layer, as one sequence sees them. A page holds kKvPageTokens positions of all KV
// heads; b = number of 32-blocks of the head:
//   kF16   K: [n_head_kv][kKvPageTokens / 16] of  half [dim][16]          lane = position: a score is a lane
//          V: [n_head_kv] of  half [kKvPageTokens][dim]                   lane = dimension: an output is a
//          lane
//   kQ8_0  K: [n_head_kv][kKvPageTokens / 16] of  int8 [dim][16], half scale[b][16]
//          V: [n_head_kv] of  int8 [b][kKvPageTokens][32], half scale[b][kKvPageTokens]
struct KvPages {
  KvType type;
  const std::byte* k;  // the layer's arena, page p at k + p * k_page_bytes
  const std::byte* v;
  size_t k_page_bytes;
  size_t v_page_bytes;
  const int32_t* pages;  // page ids of the sequence: position t is in pages[t / kKvPageTokens]
};

size_t kv_k_page_bytes(KvType type, int n_head_kv, int head_dim);
size_t kv_v_page_bytes(KvType type, int n_head_kv, int head_dim);

struct AttentionArgs {
  const float* q;  // [n_head, head_dim_k] of one row, after rope
  float* out;      // [n_head, head_dim_v]
  KvPages kv;
  int n_head, n_head_kv, head_dim_k, head_dim_v;
  int first, last;  // positions [first, last) are visible to this row; first > 0 with a sliding window
  float scale;      // applied to q . k
  float soft_cap;   // 0: none; otherwise cap * tanh(score / cap)
  int head_kv_begin, head_kv_end;  // KV heads to compute in this call (threads share a row by heads)
  float* scratch;                  // attention_scratch_floats(...) floats, private to the thread
  // What is added to the scaled score of query head h and position t: bias[h * bias_stride + t], readable
  // from t = first rounded down to t = last rounded up, both to kAttentionLanes. Null: nothing.
  const float* bias = nullptr;
  size_t bias_stride = 0;
};

// Scratch that one call needs: scores of one group of query heads, and the same again for a q8_0 cache.
size_t attention_scratch_floats(KvType type, int n_head, int n_head_kv, int positions_max);

struct FloatOps {
  // y = x / sqrt(mean(x^2) + eps) * weight, over n elements.
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* y);
  // Rotates n_head heads of x in place, each `head_dim` apart, by the angles whose cos and sin are given for
  // pairs [0, n_rot/2). interleaved: pairs (2i, 2i+1); otherwise (i, i + n_rot/2).
  void (*rope)(float* x, int n_head, int head_dim, int n_rot, bool interleaved, const float* cos,
               const float* sin);
  // gate = silu(gate) * up
  void (*silu_mul)(float* gate, const float* up, int n);
  void (*add)(float* x, const float* y, int n);  // x += y
  // Stores one position's K and V (f32, [n_head_kv, dim]) into its page slot, in the layouts above.
  void (*store_k)(KvType type, const float* k, int n_head_kv, int head_dim, int position_in_page,
                  std::byte* page);
  void (*store_v)(KvType type, const float* v, int n_head_kv, int head_dim, int position_in_page,
                  std::byte* page);
  void (*attention)(const AttentionArgs& args);
  // int8 blocks of 32 of one row: q[n], scale[n/32], sum[n/32] (sum of the q of a block). Largest magnitude
  // maps to 127; amax < 1e-30 gives zeros; the scale is NaN where one is not finite. n % 32 == 0.
  void (*quantize)(const float* x, int n, int8_t* q, float* scale, int32_t* sum);
  // Largest of n floats; NaN is passed over, -inf when nothing else is there.
  float (*largest)(const float* x, int n);
  // Sum of exp(x[i] - highest), for finite highest >= all x[i]; NaN adds nothing.
  float (*sum_of_exps)(const float* x, float highest, int n);
  void (*f16_to_f32)(const uint16_t* x, int n, float* y);
  void (*f32_to_f16)(const float* x, int n, uint16_t* y);  // round to nearest even
  // gate = gelu(gate) * up, gelu by its tanh form (D. Hendrycks and K. Gimpel, arXiv:1606.08415).
  void (*gelu_mul)(float* gate, const float* up, int n);
  void (*add_scaled)(float* x, const float* y, float scale, int n);  // x += scale y, rounded once
  void (*scale)(float* x, float scale, int n);                       // x *= scale
  void (*soft_cap)(float* x, float cap, int n);                      // x = cap tanh(x / cap)
  // y = (x - mean(x)) / sqrt(mean((x - mean)^2) + eps) * weight + bias, over n elements; y may be x.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int n, float* y);
  // x = x Phi(x), Phi the normal distribution's function by its definition; absolute error below 2e-7 |x|.
  void (*gelu)(float* x, int n);
};

// How positions become the angles of rotary embedding: pair i turns by position * frequency[i], where
//   theta[i] = freq_base^(-2i / n_rot) / factor[i]
//   frequency[i] = theta[i] * (freq_scale + (1 - freq_scale) * kept[i])
// and what is rotated grows by `magnitude`. kept[i] is 0 but in YaRN (B. Peng et al., arXiv:2309.00071, 3.2),
// where it falls from `ramp_height` at pair ramp_begin to 0 at ramp_end: fast pairs keep their frequency.
struct RopeScaling {
  double freq_base = 10000;
  double freq_scale = 1;  // 1 / linear scaling factor
  float magnitude = 1;
  double ramp_height = 0;  // 0: no ramp
  double ramp_begin = 0, ramp_end = 0;
};

// Both computed in double by our own code, so that every machine gets the same bits. `factors`
// ([n_rot / 2]) may be null.
void rope_frequencies(const RopeScaling& scaling, int n_rot, const float* factors, double* frequencies);
void rope_angles(int position, const double* frequencies, int pairs, float magnitude, float* cos, float* sin);

}  // namespace shoal
