// Attention of one row, part of float_ops_impl.h, which includes it once.
//
// Two passes over the visible positions: all scores, then the weighted sum of the values with one division at
// the end. There is no running rescale, so neither pages nor blocks can change a result:
//   score[t] = (sum over d ascending of k[t][d] q[d]) * scale, a lane is a position
//   weight[t] = exp(score[t] - max), their sum over 16 lanes, lane = t mod 16
//   out[d] = (sum over t ascending of v[t][d] weight[t]) * (1 / sum), a lane is a dimension
// The query heads that share a KV head are computed together, so K and V are read and converted once for up
// to kTileHeads of them; how they are grouped cannot change a result either.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shoal {
namespace {

constexpr int kTileHeads = kTileVectors < 8 ? kTileVectors : 8;
constexpr int kPageBlocks = kKvPageTokens / kAttentionLanes;

// The positions of one KV head that a row sees.
struct Visible {
  const AttentionArgs& args;
  int head_kv;
  int first_block, end_block;  // blocks of kAttentionLanes positions
  size_t score_stride;         // floats between the scores of two query heads
};

// K of one block of positions, [head_dim_k][16], and V of one position, [head_dim_v].
SHOAL_VEC const uint16_t* keys_of_block(const Visible& visible, int block) {
  const AttentionArgs& args = visible.args;
  const size_t page = static_cast<size_t>(args.kv.pages[block / kPageBlocks]);
  const size_t index = static_cast<size_t>(visible.head_kv * kPageBlocks + block % kPageBlocks);
  return args.kv.k + page * args.kv.k_page_elements +
         index * static_cast<size_t>(args.head_dim_k) * kAttentionLanes;
}
SHOAL_VEC const uint16_t* values_of_position(const Visible& visible, int t) {
  const AttentionArgs& args = visible.args;
  const size_t page = static_cast<size_t>(args.kv.pages[t / kKvPageTokens]);
  const size_t index = static_cast<size_t>(visible.head_kv * kKvPageTokens + t % kKvPageTokens);
  return args.kv.v + page * args.kv.v_page_elements + index * static_cast<size_t>(args.head_dim_v);
}

// The same pointer, which the compiler must take for another. Without it the compiler keeps a broadcast value
// for the next vector in a register that a sum needs, and the spilled sum's chain through memory doubles the
// time.
SHOAL_VEC const float* opaque(const float* p) {
  asm("" : "+r"(p));
  return p;
}

// Scores of query heads q[0..H) against B successive blocks; k is [B][dim][16]. The next page comes into the
// cache meanwhile: the processor's own prefetcher stops at the end of a page.
template <int H, int B>
SHOAL_VEC void score_tile(const uint16_t* k, const uint16_t* next, const float* q, int dim, float scale,
                          float* scores, size_t stride) {
  Vec sum[B][H];
  SHOAL_UNROLL for (int b = 0; b < B; ++b) {
    SHOAL_UNROLL for (int h = 0; h < H; ++h) sum[b][h] = broadcast(0.0f);
  }
  const size_t block = static_cast<size_t>(dim) * kAttentionLanes;
  for (int d = 0; d < dim; ++d, k += kAttentionLanes, next += B * kAttentionLanes) {
    __builtin_prefetch(next);
    SHOAL_UNROLL for (int b = 0; b < B; ++b) {
      const Vec keys = load_f16(k + static_cast<size_t>(b) * block);
      const float* query = opaque(q + d);
      SHOAL_UNROLL for (int h = 0; h < H; ++h) {
        const Vec value = broadcast(query[static_cast<size_t>(h) * static_cast<size_t>(dim)]);
        sum[b][h] = fma(keys, value, sum[b][h]);
      }
    }
  }
  SHOAL_UNROLL for (int b = 0; b < B; ++b) {
    SHOAL_UNROLL for (int h = 0; h < H; ++h) {
      store(scores + static_cast<size_t>(h) * stride + b * kAttentionLanes, mul(sum[b][h], broadcast(scale)));
    }
  }
}

template <int H>
void scores_of_heads(const Visible& visible, const float* q, float* scores) {
  const AttentionArgs& args = visible.args;
  const int dim = args.head_dim_k;
  for (int block = visible.first_block; block < visible.end_block;) {
    const uint16_t* k = keys_of_block(visible, block);
    const int ahead = block + kPageBlocks;
    const uint16_t* next = ahead < visible.end_block ? keys_of_block(visible, ahead) : k;
    float* to = scores + static_cast<size_t>(block - visible.first_block) * kAttentionLanes;
    if constexpr (2 * H <= kTileVectors) {
      if (block % kPageBlocks == 0 && block + 1 < visible.end_block) {
        score_tile<H, 2>(k, next, q, dim, args.scale, to, visible.score_stride);
        block += 2;
        continue;
      }
    }
    score_tile<H, 1>(k, next, q, dim, args.scale, to, visible.score_stride);
    ++block;
  }
}

// Turns the scores of one query head into weights exp(score - max), 0 for positions outside [first, last) of
// the first and last block. Returns 1 / their sum.
float softmax(const Visible& visible, float* scores) {
  const AttentionArgs& args = visible.args;
  const int begin = visible.first_block * kAttentionLanes;
  const int n = visible.end_block * kAttentionLanes - begin;
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

// Outputs [0, 16 * N) of H query heads from `v_offset` elements into a V row; `width` of the last 16 exist.
template <int H, int N>
SHOAL_VEC void value_tile(const Visible& visible, size_t v_offset, int width, const float* weights,
                          const float* inverse_sums, float* out) {
  const AttentionArgs& args = visible.args;
  const size_t dim = static_cast<size_t>(args.head_dim_v);
  Vec sum[H][N];
  SHOAL_UNROLL for (int h = 0; h < H; ++h) {
    SHOAL_UNROLL for (int i = 0; i < N; ++i) sum[h][i] = broadcast(0.0f);
  }
  const float* weight = weights + (args.first - visible.first_block * kAttentionLanes);
  for (int t = args.first; t < args.last;) {
    const int page_end = (t / kKvPageTokens + 1) * kKvPageTokens;
    const int end = page_end < args.last ? page_end : args.last;
    const uint16_t* v = values_of_position(visible, t) + v_offset;
    const uint16_t* next = end < args.last ? values_of_position(visible, end) + v_offset : v;
    for (; t < end; ++t, ++weight, v += dim, next += dim) {
      __builtin_prefetch(next);
      SHOAL_UNROLL for (int i = 0; i < N; ++i) {
        const Vec values = width == 16 ? load_f16(v + 16 * i) : load_f16_partial(v + 16 * i, width);
        const float* w_of_heads = opaque(weight);
        SHOAL_UNROLL for (int h = 0; h < H; ++h) {
          const Vec w = broadcast(w_of_heads[static_cast<size_t>(h) * visible.score_stride]);
          sum[h][i] = fma(values, w, sum[h][i]);
        }
      }
    }
  }
  SHOAL_UNROLL for (int h = 0; h < H; ++h) {
    float* row = out + static_cast<size_t>(h) * dim + v_offset;
    SHOAL_UNROLL for (int i = 0; i < N; ++i) {
      const Vec y = mul(sum[h][i], broadcast(inverse_sums[h]));
      if (width == 16) {
        store(row + 16 * i, y);
      } else {
        store_partial(row + 16 * i, y, width);
      }
    }
  }
}

template <int H>
void values_of_heads(const Visible& visible, const float* weights, const float* inverse_sums, float* out) {
  constexpr int kWide = kTileVectors / H >= 4 ? 4 : kTileVectors / H >= 2 ? 2 : 1;
  const int dim = visible.args.head_dim_v;
  int d = 0;
  for (; d + 16 * kWide <= dim; d += 16 * kWide) {
    value_tile<H, kWide>(visible, static_cast<size_t>(d), 16, weights, inverse_sums, out);
  }
  for (; d + 16 <= dim; d += 16) {
    value_tile<H, 1>(visible, static_cast<size_t>(d), 16, weights, inverse_sums, out);
  }
  if (d == dim) return;
  if (dim >=
      16) {  // a last tile that overlaps the one before computes some outputs twice, with the same result
    value_tile<H, 1>(visible, static_cast<size_t>(dim - 16), 16, weights, inverse_sums, out);
  } else {
    value_tile<H, 1>(visible, 0, dim, weights, inverse_sums, out);
  }
}

template <int H>
void attend_heads(const Visible& visible, int head) {
  const AttentionArgs& args = visible.args;
  float* scores = args.scratch;
  float inverse_sums[H];
  scores_of_heads<H>(visible, args.q + static_cast<size_t>(head) * static_cast<size_t>(args.head_dim_k),
                     scores);
  for (int h = 0; h < H; ++h) {
    inverse_sums[h] = softmax(visible, scores + static_cast<size_t>(h) * visible.score_stride);
  }
  values_of_heads<H>(visible, scores, inverse_sums,
                     args.out + static_cast<size_t>(head) * static_cast<size_t>(args.head_dim_v));
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
