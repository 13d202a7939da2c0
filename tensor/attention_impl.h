// Attention of one row, part of float_ops_impl.h, which includes it once.
//
// Two passes over the visible positions: all scores, then the weighted sum of the values with one division at
// the end. There is no running rescale, so neither pages nor blocks can change a result:
//   score[t] = (sum over d ascending of k[t][d] q[d]) * scale, a lane is a position; + bias[t] where there is
//   one weight[t] = exp(score[t] - max), their sum over 16 lanes, lane = t mod 16 out[d] = (sum over t
//   ascending of v[t][d] weight[t]) * (1 / sum), a lane is a dimension
// With a q8_0 cache k[t][d] and v[t][d] are bytes, and their scales join the sums by 32 dimensions:
//   score[t] = (sum over blocks ascending, by fma, of scale[t][block] (sum over d of k[t][d] q[d])) * scale
//   out[d] = (sum over t ascending of v[t][d] (weight[t] scale[t][block of d])) * (1 / sum)
// Where a query, or a visible K or V, is not finite, no output that depends on it is; but an infinite half of
// K may pass for a large one, whose weight is 1 or 0. The query heads that share a KV head are computed
// together, so K and V are read and converted once for up to kTileHeads of them; how they are grouped cannot
// change a result either.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shoal {
namespace {

constexpr int kTileHeads = kTileVectors < 8 ? kTileVectors : 8;

// The positions of one KV head that a row sees.
struct Visible {
  const AttentionArgs& args;
  int head_kv;
  int first_block, end_block;  // blocks of kAttentionLanes positions
  size_t score_stride;         // floats between the scores of two query heads
};

// K of one block of positions, and V of the page that holds a position.
SHOAL_VEC const std::byte* keys_of_block(const Visible& visible, int block) {
  const AttentionArgs& args = visible.args;
  const size_t page = static_cast<size_t>(args.kv.pages[block / kPageBlocks]);
  const size_t index = static_cast<size_t>(visible.head_kv * kPageBlocks + block % kPageBlocks);
  return args.kv.k + page * args.kv.k_page_bytes + index * key_block_bytes(args.kv.type, args.head_dim_k);
}
SHOAL_VEC const std::byte* values_of_page(const Visible& visible, int t) {
  const AttentionArgs& args = visible.args;
  const size_t page = static_cast<size_t>(args.kv.pages[t / kKvPageTokens]);
  return args.kv.v + page * args.kv.v_page_bytes +
         static_cast<size_t>(visible.head_kv) * value_head_bytes(args.kv.type, args.head_dim_v);
}

// The same pointer, which the compiler must take for another (volatile: at every call). Without it the
// compiler keeps a broadcast value for the next vector in a register that a sum needs, and the spilled sum's
// chain through memory doubles the time.
SHOAL_VEC const float* opaque(const float* p) {
  asm volatile("" : "+r"(p));
  return p;
}

SHOAL_VEC Vec load_element(const uint16_t* p) {
  return load_f16(p);
}
SHOAL_VEC Vec load_element(const int8_t* p) {
  return load_i8(p);
}
// Bytes are kept in whole blocks, so only halves can end before 16.
SHOAL_VEC Vec load_elements(const uint16_t* p, int width) {
  return width == 16 ? load_f16(p) : load_f16_partial(p, width);
}
SHOAL_VEC Vec load_elements(const int8_t* p, int) {
  return load_i8(p);
}

// sum[b][h] += k . q over dimensions [0, n) of B successive blocks, whose K are `block` elements apart, and H
// query heads, `dim` apart. The next page comes into the cache meanwhile: the processor's own prefetcher
// stops at the end of a page.
template <int H, int B, class Element>
SHOAL_VEC void add_products(const Element* k, size_t block, const std::byte* next, const float* q, size_t dim,
                            int n, Vec (&sum)[B][H]) {
  for (int d = 0; d < n; ++d, k += kAttentionLanes, next += B * kAttentionLanes * sizeof(Element)) {
    __builtin_prefetch(next);
    SHOAL_UNROLL for (int b = 0; b < B; ++b) {
      const Vec keys = load_element(k + static_cast<size_t>(b) * block);
      const float* query = opaque(q + d);
      SHOAL_UNROLL for (int h = 0; h < H; ++h) {
        const Vec value = broadcast(query[static_cast<size_t>(h) * dim]);
        sum[b][h] = fma(keys, value, sum[b][h]);
      }
    }
  }
}

template <int H, int B>
SHOAL_VEC void clear(Vec (&sum)[B][H]) {
  SHOAL_UNROLL for (int b = 0; b < B; ++b) {
    SHOAL_UNROLL for (int h = 0; h < H; ++h) sum[b][h] = broadcast(0.0f);
  }
}

// Scores of query heads q[0..H) against B successive blocks of a cache in f16.
template <int H, int B>
SHOAL_VEC void score_tile_f16(const AttentionArgs& args, const std::byte* k, const std::byte* next,
                              const float* q, float* scores, size_t stride) {
  const size_t dim = static_cast<size_t>(args.head_dim_k);
  Vec sum[B][H];
  clear(sum);
  add_products(reinterpret_cast<const uint16_t*>(k), dim * kAttentionLanes, next, q, dim, args.head_dim_k,
               sum);
  SHOAL_UNROLL for (int b = 0; b < B; ++b) {
    SHOAL_UNROLL for (int h = 0; h < H; ++h) {
      store(scores + static_cast<size_t>(h) * stride + b * kAttentionLanes,
            mul(sum[b][h], broadcast(args.scale)));
    }
  }
}

// The same of a cache in q8_0: each 32 dimensions are summed without their scale, which is applied once.
template <int H, int B>
SHOAL_VEC void score_tile_q8_0(const AttentionArgs& args, const std::byte* k, const std::byte* next,
                               const float* q, float* scores, size_t stride) {
  const int dim = args.head_dim_k;
  const size_t block_bytes = key_block_bytes(KvType::kQ8_0, dim);
  const std::byte* scales = k + key_scales_offset(dim);
  for (int d = 0; d < dim; d += kKvBlock, scales += kAttentionLanes * sizeof(uint16_t)) {
    const size_t offset = static_cast<size_t>(d) * kAttentionLanes;
    Vec sum[B][H];
    clear(sum);
    add_products(reinterpret_cast<const int8_t*>(k + offset), block_bytes, next + offset * B, q + d,
                 static_cast<size_t>(dim), dim - d < kKvBlock ? dim - d : kKvBlock, sum);
    const Vec last = broadcast(d + kKvBlock >= dim ? args.scale : 1.0f);
    SHOAL_UNROLL for (int b = 0; b < B; ++b) {
      const Vec scale =
          load_f16(reinterpret_cast<const uint16_t*>(scales + static_cast<size_t>(b) * block_bytes));
      SHOAL_UNROLL for (int h = 0; h < H; ++h) {
        float* score = scores + static_cast<size_t>(h) * stride + b * kAttentionLanes;
        const Vec before = d == 0 ? broadcast(0.0f) : load(score);
        store(score, mul(fma(sum[b][h], scale, before), last));
      }
    }
  }
}

template <int H, int B>
SHOAL_VEC void score_tile(const AttentionArgs& args, const std::byte* k, const std::byte* next,
                          const float* q, float* scores, size_t stride) {
  if (args.kv.type == KvType::kF16) return score_tile_f16<H, B>(args, k, next, q, scores, stride);
  return score_tile_q8_0<H, B>(args, k, next, q, scores, stride);
}

template <int H>
void scores_of_heads(const Visible& visible, const float* q, float* scores) {
  const AttentionArgs& args = visible.args;
  for (int block = visible.first_block; block < visible.end_block;) {
    const std::byte* k = keys_of_block(visible, block);
    const int ahead = block + kPageBlocks;
    const std::byte* next = ahead < visible.end_block ? keys_of_block(visible, ahead) : k;
    float* to = scores + static_cast<size_t>(block - visible.first_block) * kAttentionLanes;
    if constexpr (2 * H <= kTileVectors) {
      if (block % kPageBlocks == 0 && block + 1 < visible.end_block) {
        score_tile<H, 2>(args, k, next, q, to, visible.score_stride);
        block += 2;
        continue;
      }
    }
    score_tile<H, 1>(args, k, next, q, to, visible.score_stride);
    ++block;
  }
}

// Turns the scores of one query head into weights exp(score - max), 0 for positions outside [first, last) of
// the first and last block. Returns 1 / their sum.
float softmax(const Visible& visible, int head, float* scores) {
  const AttentionArgs& args = visible.args;
  const int begin = visible.first_block * kAttentionLanes;
  const int n = visible.end_block * kAttentionLanes - begin;
  if (args.bias != nullptr) {
    const float* bias = args.bias + static_cast<size_t>(head) * args.bias_stride + begin;
    for (int i = 0; i < n; i += 16) store(scores + i, add(load(scores + i), load(bias + i)));
  }
  if (args.soft_cap != 0.0f) {
    const Vec cap = broadcast(args.soft_cap);
    for (int i = 0; i < n; i += 16) store(scores + i, mul(cap, tanh_of(div(load(scores + i), cap))));
  }
  const float minus_infinity = -__builtin_inff();
  for (int i = 0; i < args.first - begin; ++i) scores[i] = minus_infinity;
  for (int i = args.last - begin; i < n; ++i) scores[i] = minus_infinity;
  Vec maximum = load(scores);
  for (int i = 16; i < n; i += 16) maximum = max(maximum, load(scores + i));
  const Vec highest = broadcast(reduce_max(maximum));
  Vec sum = broadcast(0.0f);
  for (int i = 0; i < n; i += 16) {
    const Vec weight = exp_nonpositive(sub(load(scores + i), highest));
    store(scores + i, weight);
    sum = add(sum, weight);
  }
  return 1.0f / reduce_add(sum);
}

// Some outputs of one KV head: where their values begin in the head's part of a page, how far one position's
// are from the next, the first output's dimension, and how many of the last 16 exist.
struct ValueSlice {
  size_t offset, stride;  // elements
  int first, width;
};

// Outputs of H query heads from a slice of N times 16 dimensions.
template <int H, int N, class Element>
SHOAL_VEC void value_tile(const Visible& visible, const ValueSlice& slice, const float* weights,
                          const float* inverse_sums, float* out) {
  const AttentionArgs& args = visible.args;
  Vec sum[N][H];
  clear(sum);
  const auto values_of_position = [&](int t) {
    return reinterpret_cast<const Element*>(values_of_page(visible, t)) + slice.offset +
           static_cast<size_t>(t % kKvPageTokens) * slice.stride;
  };
  const float* weight = weights + (args.first - visible.first_block * kAttentionLanes);
  for (int t = args.first; t < args.last;) {
    const int page_end = (t / kKvPageTokens + 1) * kKvPageTokens;
    const int end = page_end < args.last ? page_end : args.last;
    const Element* v = values_of_position(t);
    const Element* next = end < args.last ? values_of_position(end) : v;
    for (; t < end; ++t, ++weight, v += slice.stride, next += slice.stride) {
      __builtin_prefetch(next);
      SHOAL_UNROLL for (int i = 0; i < N; ++i) {
        const Vec values = load_elements(v + 16 * i, slice.width);
        const float* w_of_heads = opaque(weight);
        SHOAL_UNROLL for (int h = 0; h < H; ++h) {
          const Vec w = broadcast(w_of_heads[static_cast<size_t>(h) * visible.score_stride]);
          sum[i][h] = fma(values, w, sum[i][h]);
        }
      }
    }
  }
  SHOAL_UNROLL for (int h = 0; h < H; ++h) {
    float* row = out + h * args.head_dim_v + slice.first;
    SHOAL_UNROLL for (int i = 0; i < N; ++i) {
      const Vec y = mul(sum[i][h], broadcast(inverse_sums[h]));
      if (i + 1 < N || slice.width == 16) {
        store(row + 16 * i, y);
      } else {
        store_partial(row + 16 * i, y, slice.width);
      }
    }
  }
}

template <int H>
void values_f16(const Visible& visible, const float* weights, const float* inverse_sums, float* out) {
  constexpr int kWide = kTileVectors / H >= 4 ? 4 : kTileVectors / H >= 2 ? 2 : 1;
  const int dim = visible.args.head_dim_v;
  const auto slice = [&](int d, int width) {
    return ValueSlice{static_cast<size_t>(d), static_cast<size_t>(dim), d, width};
  };
  int d = 0;
  for (; d + 16 * kWide <= dim; d += 16 * kWide) {
    value_tile<H, kWide, uint16_t>(visible, slice(d, 16), weights, inverse_sums, out);
  }
  for (; d + 16 <= dim; d += 16) {
    value_tile<H, 1, uint16_t>(visible, slice(d, 16), weights, inverse_sums, out);
  }
  if (d == dim) return;
  if (dim >=
      16) {  // a last tile that overlaps the one before computes some outputs twice, with the same result
    value_tile<H, 1, uint16_t>(visible, slice(dim - 16, 16), weights, inverse_sums, out);
  } else {
    value_tile<H, 1, uint16_t>(visible, slice(0, dim), weights, inverse_sums, out);
  }
}

// to[t] = weights[t] * scale of V's block `b` at t, for all blocks of positions and H heads. Positions that
// are not visible may get anything: nothing reads them.
template <int H>
void scale_weights(const Visible& visible, int b, const float* weights, float* to) {
  const size_t offset = value_scales_offset(visible.args.head_dim_v);
  for (int block = visible.first_block; block < visible.end_block; ++block) {
    const std::byte* head = values_of_page(visible, block * kAttentionLanes);
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(head + offset) + b * kKvPageTokens;
    const Vec scale = load_f16(scales + block % kPageBlocks * kAttentionLanes);
    const size_t at = static_cast<size_t>(block - visible.first_block) * kAttentionLanes;
    for (size_t h = 0; h < H; ++h) {
      store(to + h * visible.score_stride + at, mul(load(weights + h * visible.score_stride + at), scale));
    }
  }
}

template <int H>
void values_q8_0(const Visible& visible, const float* weights, const float* inverse_sums, float* out) {
  constexpr int kWide = kTileVectors / H >= 2 ? 2 : 1;
  const int dim = visible.args.head_dim_v;
  float* scaled = visible.args.scratch + H * visible.score_stride;
  for (int b = 0; b < kv_blocks(dim); ++b) {
    scale_weights<H>(visible, b, weights, scaled);
    const int vectors = dim - b * kKvBlock > 16 ? 2 : 1;
    const auto slice = [&](int i, int n) {
      const int first = b * kKvBlock + 16 * i, last = first + 16 * (n - 1);
      return ValueSlice{static_cast<size_t>(b * kKvPageTokens * kKvBlock + 16 * i), kKvBlock, first,
                        dim - last < 16 ? dim - last : 16};
    };
    if (kWide == 2 && vectors == 2) {
      value_tile<H, kWide, int8_t>(visible, slice(0, 2), scaled, inverse_sums, out);
      continue;
    }
    for (int i = 0; i < vectors; ++i) {
      value_tile<H, 1, int8_t>(visible, slice(i, 1), scaled, inverse_sums, out);
    }
  }
}

// Whether n elements of a query are numbers, and finite.
bool is_finite(const float* q, int n) {
  Vec nothing = broadcast(0.0f);  // x - x of all, by lanes
  int i = 0;
  for (; i + 16 <= n; i += 16) nothing = add(nothing, sub(load(q + i), load(q + i)));
  const Vec rest = load_partial(q + i, n - i);
  return !any_nan(nothing, sub(rest, rest));
}

template <int H>
void attend_heads(const Visible& visible, int head) {
  const AttentionArgs& args = visible.args;
  const size_t dim = static_cast<size_t>(args.head_dim_k);
  const float* q = args.q + static_cast<size_t>(head) * dim;
  float* scores = args.scratch;
  float inverse_sums[H];
  scores_of_heads<H>(visible, q, scores);
  for (int h = 0; h < H; ++h) {
    inverse_sums[h] = softmax(visible, head + h, scores + static_cast<size_t>(h) * visible.score_stride);
    // The scores of a query that is not finite may become finite weights: exp adds to the bits of a NaN,
    // which turns some into numbers, and a soft cap bounds what is infinite.
    if (!is_finite(q + static_cast<size_t>(h) * dim, args.head_dim_k)) inverse_sums[h] = __builtin_nanf("");
  }
  float* out = args.out + static_cast<size_t>(head) * static_cast<size_t>(args.head_dim_v);
  if (args.kv.type == KvType::kF16) return values_f16<H>(visible, scores, inverse_sums, out);
  return values_q8_0<H>(visible, scores, inverse_sums, out);
}

void attend_some(const Visible& visible, int head, int n_head) {
  switch (n_head) {
    case 1:
      return attend_heads<1>(visible, head);
    case 2:
      return attend_heads<2>(visible, head);
    case 3:
      return attend_heads<3>(visible, head);
    case 4:
      return attend_heads<4>(visible, head);
    case 5:
      return attend_heads<5>(visible, head);
    case 6:
      return attend_heads<6>(visible, head);
    default:
      break;
  }
  if constexpr (kTileHeads == 8) {
    if (n_head == 7) return attend_heads<7>(visible, head);
    return attend_heads<8>(visible, head);
  }
}

void attention(const AttentionArgs& args) {
  const int group = args.n_head / args.n_head_kv;
  const int tiles = (group + kTileHeads - 1) / kTileHeads;
  if (args.last <= args.first) {
    const int begin = args.head_kv_begin * group * args.head_dim_v,
              end = args.head_kv_end * group * args.head_dim_v;
    for (int i = begin; i < end; ++i) args.out[i] = 0.0f;
    return;
  }
  for (int head_kv = args.head_kv_begin; head_kv < args.head_kv_end; ++head_kv) {
    const int first_block = args.first / kAttentionLanes;
    const int end_block = (args.last + kAttentionLanes - 1) / kAttentionLanes;
    const Visible visible = {args, head_kv, first_block, end_block,
                             static_cast<size_t>(end_block - first_block) * kAttentionLanes};
    for (int i = 0; i < tiles; ++i) {
      const int begin = group * i / tiles, end = group * (i + 1) / tiles;
      attend_some(visible, head_kv * group + begin, end - begin);
    }
  }
}

}  // namespace
}  // namespace shoal
