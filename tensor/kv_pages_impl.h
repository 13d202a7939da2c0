// Pages of the KV cache: where things lie in them, and storing a position. Part of float_ops_impl.h, which
// includes it once. The layouts are in float_ops.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shoal {
namespace {

constexpr int kPageBlocks = kKvPageTokens / kAttentionLanes;
constexpr int kKvBlock = 32;  // dimensions that share a scale

inline int kv_blocks(int head_dim) {
  return (head_dim + kKvBlock - 1) / kKvBlock;
}

// Bytes of 16 positions of one head's K, and of the scales' offset in them.
inline size_t key_scales_offset(int head_dim) {
  return static_cast<size_t>(head_dim) * kAttentionLanes;
}
inline size_t key_block_bytes(KvType type, int head_dim) {
  const size_t elements = static_cast<size_t>(head_dim) * kAttentionLanes;
  if (type == KvType::kF16) return elements * sizeof(uint16_t);
  return key_scales_offset(head_dim) +
         static_cast<size_t>(kv_blocks(head_dim)) * kAttentionLanes * sizeof(uint16_t);
}

// The same of one page of one head's V.
inline size_t value_scales_offset(int head_dim) {
  return static_cast<size_t>(kv_blocks(head_dim)) * kKvPageTokens * kKvBlock;
}
inline size_t value_head_bytes(KvType type, int head_dim) {
  if (type == KvType::kF16) return static_cast<size_t>(head_dim) * kKvPageTokens * sizeof(uint16_t);
  return value_scales_offset(head_dim) +
         static_cast<size_t>(kv_blocks(head_dim)) * kKvPageTokens * sizeof(uint16_t);
}

// n <= 32 dimensions as q * scale, q[32] with zeros beyond n; returns the scale as a half. It is rounded to
// a half before it divides, so that q makes up for the rounding. Where it is subnormal, and so coarse, q may
// reach its ends. What is not finite has no value among bytes: the scale is NaN then, and with it all that is
// computed from the block.
inline uint16_t quantize_kv_block(const float* x, int n, int8_t* q) {
  const Vec lo = n >= 16 ? load(x) : load_partial(x, n);
  const Vec hi = n == kKvBlock ? load(x + 16) : load_partial(x + 16, n > 16 ? n - 16 : 0);
  const float wanted = largest_magnitude(lo, hi) / 127.0f;
  uint16_t half[16];
  store_f16(half, broadcast(wanted > 65504.0f ? 65504.0f : wanted));
  float scale[16];
  store(scale, load_f16(half));
  const Vec inverse = broadcast(scale[0] > 0.0f ? 1.0f / scale[0] : 0.0f);
  const Vec limit = broadcast(127.0f), shift = broadcast(kIntegerShift);
  const auto steps = [&](const Vec& v) {
    const Vec above = max(mul(v, inverse), negate(limit));
    return add(select_less(above, limit, above, limit), shift);
  };
  store_i8(q, steps(lo), steps(hi));
  return half[0];
}

void store_k_f16(const float* k, int head_dim, int lane, uint16_t* to) {
  for (int d = 0; d < head_dim; d += 16) {
    const int n = head_dim - d < 16 ? head_dim - d : 16;
    uint16_t t[16];
    store_f16(t, n == 16 ? load(k + d) : load_partial(k + d, n));
    for (int i = 0; i < n; ++i) to[(d + i) * kAttentionLanes + lane] = t[i];
  }
}

void store_k_q8_0(const float* k, int head_dim, int lane, std::byte* block) {
  int8_t* to = reinterpret_cast<int8_t*>(block);
  uint16_t* scales = reinterpret_cast<uint16_t*>(block + key_scales_offset(head_dim));
  for (int d = 0; d < head_dim; d += kKvBlock, scales += kAttentionLanes) {
    const int n = head_dim - d < kKvBlock ? head_dim - d : kKvBlock;
    int8_t q[kKvBlock];
    scales[lane] = quantize_kv_block(k + d, n, q);
    for (int i = 0; i < n; ++i) to[(d + i) * kAttentionLanes + lane] = q[i];
  }
}

void store_k(KvType type, const float* k, int n_head_kv, int head_dim, int position_in_page,
             std::byte* page) {
  const int block = position_in_page / kAttentionLanes, lane = position_in_page % kAttentionLanes;
  for (int h = 0; h < n_head_kv; ++h, k += head_dim) {
    std::byte* to = page + static_cast<size_t>(h * kPageBlocks + block) * key_block_bytes(type, head_dim);
    if (type == KvType::kF16) {
      store_k_f16(k, head_dim, lane, reinterpret_cast<uint16_t*>(to));
    } else {
      store_k_q8_0(k, head_dim, lane, to);
    }
  }
}

void store_v(KvType type, const float* v, int n_head_kv, int head_dim, int position_in_page,
             std::byte* page) {
  const size_t row = static_cast<size_t>(position_in_page);
  for (int h = 0; h < n_head_kv; ++h, v += head_dim) {
    std::byte* head = page + static_cast<size_t>(h) * value_head_bytes(type, head_dim);
    if (type == KvType::kF16) {
      f32_to_f16(v, head_dim, reinterpret_cast<uint16_t*>(head) + row * static_cast<size_t>(head_dim));
      continue;
    }
    uint16_t* scales = reinterpret_cast<uint16_t*>(head + value_scales_offset(head_dim));
    for (int b = 0; b < kv_blocks(head_dim); ++b) {
      const int d = b * kKvBlock, n = head_dim - d < kKvBlock ? head_dim - d : kKvBlock;
      int8_t* q = reinterpret_cast<int8_t*>(head) + static_cast<size_t>(b) * kKvPageTokens * kKvBlock;
      scales[b * kKvPageTokens + position_in_page] = quantize_kv_block(v + d, n, q + row * kKvBlock);
    }
  }
}

}  // namespace
}  // namespace shoal
