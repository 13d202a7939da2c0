// Products in 256-bit registers, shared by the tables of product_avx2.cc and product_avxvnni.cc: the loop
// over blocks, float weights, and the traits for product_driver.h. The tables differ in how a block's
// integers come about, which the Dot type says:
//   kTileRows                 rows side by side in the widest tile
//   template <class Source, int C>
//   static void dot(const Source&, const Source::Block&, const ActivationBlock<C>&, __m256 (&t)[C][kParts])
//                             t[c][p] = the exact integer of the block, part p, and activation row c, as a
//                             float
// Everything is in an anonymous namespace, so that no code compiled for one instruction set is linked into
// another.
#pragma once

#include <iterator>

#include "tensor/product_avx2_sources.h"
#include "tensor/product_driver.h"

namespace shoal {
namespace {

// The order of the eight 4-column steps: nibble planes give columns j and j + 4 from one load; sub-scales
// want the first 16 columns first.
template <class Source>
constexpr int step(int i) {
  return has_sub(Source::kKind) ? i : i / 2 + 4 * (i % 2);
}

// sum += rows of `a` times the 16 rows of one block.
template <class Dot, class Source, int C>
inline void add_block(const Source& source, const typename Source::Block& w, const ActivationBlock<C>& a,
                      __m256 (&sum)[C][kParts]) {
  __m256 t[C][kParts];
  Dot::dot(source, w, a, t);
  SHOAL_UNROLL for (int p = 0; p < kParts; ++p) {
    const __m256 scale = w.scale(p);
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      const __m256 factor = _mm256_mul_ps(scale, _mm256_broadcast_ss(&a.scale[c]));
      sum[c][p] = _mm256_fmadd_ps(t[c][p], factor, sum[c][p]);
    }
    if constexpr (Source::kKind == PanelKind::kScaleMin) {
      const __m256 min = w.min(p);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        sum[c][p] = _mm256_fmadd_ps(min, _mm256_broadcast_ss(&a.scaled_sum[c]), sum[c][p]);
      }
    }
    if constexpr (Source::kKind == PanelKind::kSubScaleMin) {
      const __m256 min = w.min(p);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const __m256i u = _mm256_madd_epi16(w.sub_mins(p), broadcast_word(a.half_sum[c]));
        const __m256 factor = _mm256_mul_ps(min, _mm256_broadcast_ss(&a.scale[c]));
        sum[c][p] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(u), factor, sum[c][p]);
      }
    }
  }
}
// sums[g * C + c] += row c of `a` times the 16 rows of source g, `blocks` blocks in order.
template <class Dot, int C, int kGroups, class Source>
void run(const Source (&sources)[kGroups], int blocks, bool prefetch, const ActivationBlock<C>* a,
         float (*sums)[16]) {
  __m256 sum[kGroups][C][kParts];
  const auto for_each_sum = [&](auto&& body) {
    SHOAL_UNROLL for (int g = 0; g < kGroups; ++g) {
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        SHOAL_UNROLL for (int p = 0; p < kParts; ++p) body(sum[g][c][p], sums[g * C + c] + 8 * p);
      }
    }
  };
  for_each_sum([](__m256& register_, const float* memory) { register_ = _mm256_loadu_ps(memory); });
  for (int first = 0; first < blocks; first += Source::kSuper) {
    typename Source::Super super[kGroups];
    SHOAL_UNROLL for (int g = 0; g < kGroups; ++g) super[g] = sources[g].super(first);
    for (int b = first; b < first + Source::kSuper; ++b) {
      SHOAL_UNROLL for (int g = 0; g < kGroups; ++g) {
        if (prefetch) sources[g].prefetch(b);
        add_block<Dot>(sources[g], sources[g].at(super[g], b), a[b], sum[g]);
      }
    }
  }
  for_each_sum([](__m256& register_, float* memory) { _mm256_storeu_ps(memory, register_); });
}

// ---- Float weights ----

template <TensorType kType>
inline __m256 load_weights(const std::byte* group, int64_t index) {
  if constexpr (kType == TensorType::kF32)
    return _mm256_loadu_ps(reinterpret_cast<const float*>(group) + index);
  const std::byte* p = group + 2 * index;
  if constexpr (kType == TensorType::kF16) return load_halves(p);
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

template <class Dot>
struct Products256 {
  static constexpr int kTileRows = Dot::kTileRows;

  template <PanelKind kKind, int kMaxQ, int C>
  static void panel_tile(const Panel* panels, int blocks, int offset, const ActivationBlock<C>* a,
                         float (*sums)[16]) {
    const PanelSource<kKind, kMaxQ> sources[] = {{{}, panels, offset}};
    run<Dot, C>(sources, blocks, false, a, sums);
  }

  static constexpr int direct_rows_max(TensorType type) {
    return type == TensorType::kQ2_K || type == TensorType::kQ3_K ? 64 : usual_direct_rows_max(type);
  }

  template <TensorType kType, int C>
  static void direct_tile(const std::byte* group, int64_t cols, bool prefetch, const ActivationBlock<C>* a,
                          float (*sums)[16]) {
    const decltype(packed_source<kType>(group, cols)) sources[] = {packed_source<kType>(group, cols)};
    run<Dot, C>(sources, static_cast<int>(cols / 32), prefetch, a, sums);
  }

  // One row waits for memory, which gives more to four streams than to one (Zen 3: 26 and 22 GB/s), and best
  // when the processor's own prefetching is left alone with them. Super-blocks leave less room for loads that
  // run ahead: those formats are slower so (18 of 25 GB/s) and keep to one stream, with prefetching.
  template <TensorType kType>
  static constexpr bool kSuperBlocks =
      kType == TensorType::kQ2_K || kType == TensorType::kQ3_K || kType == TensorType::kQ4_K ||
      kType == TensorType::kQ5_K || kType == TensorType::kQ6_K;
  template <TensorType kType>
  static constexpr int kGroupsAbreast = kSuperBlocks<kType> ? 1 : 4;

  template <TensorType kType>
  static void direct_groups(const std::byte* group, size_t group_bytes, int64_t cols,
                            const ActivationBlock<1>* a, float (*sums)[16]) {
    const auto source = [&](int g) { return packed_source<kType>(group + g * group_bytes, cols); };
    const decltype(source(0)) sources[] = {source(0), source(1), source(2), source(3)};
    static_assert(std::size(sources) == kGroupsAbreast<kType>);
    run<Dot, 1>(sources, static_cast<int>(cols / 32), false, a, sums);
  }

  template <TensorType kType, int C>
  static void float_tile(const std::byte* group, int64_t cols, const float* x, int64_t ld_x,
                         float (*sums)[16]) {
    __m256 sum[C][2] = {};
    for (int64_t k = 0; k < cols; ++k) {
      const __m256 w0 = load_weights<kType>(group, 16 * k), w1 = load_weights<kType>(group, 16 * k + 8);
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const __m256 a = _mm256_broadcast_ss(x + c * ld_x + k);
        sum[c][0] = _mm256_fmadd_ps(w0, a, sum[c][0]);
        sum[c][1] = _mm256_fmadd_ps(w1, a, sum[c][1]);
      }
    }
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      _mm256_storeu_ps(sums[c], sum[c][0]);
      _mm256_storeu_ps(sums[c] + 8, sum[c][1]);
    }
  }
};

}  // namespace
}  // namespace shoal
