// Products for AVX-512 with VNNI: a lane is a row, so a group of 16 rows is one register.
//
// vpdpbusd adds four products u8 x i8 to 32 bits without saturating, so no format needs care; an offset is
// taken off by letting the integer start at -offset * (sum of the activations) instead of 0.
//
// With sub-scales the two integers of 16 columns are scaled as floats: scale0 t0 and scale0 t0 + scale1 t1
// are integers below 2^24 (docs/numerics.md), so the product and the fma are exact and the bits are those of
// the integer form. A -0 that this may give where an integer would give 0 does not show: a sum that starts at
// +0 and gains multiples of the smallest float stays +0 or not zero.
//
// Many rows are multiplied 32 weight rows at a time, two groups, which halves the reading of activations; few
// rows 16 at a time, one stream from memory.
#include "tensor/product_avx512_sources.h"
#include "tensor/product_driver.h"

namespace shoal {
namespace {

// ---- The tile kernel, G groups wide ----

// The order of the eight 4-column steps: nibble planes give columns j and j + 4 from one load; sub-scales
// want the first 16 columns first.
template <class Source>
constexpr int step(int i) {
  return has_sub(Source::kKind) ? i : i / 2 + 4 * (i % 2);
}

// acc[g][c] += the products of steps [kFirst, kLast) of the blocks w[g] and activation row c.
template <class Source, int kFirst, int kLast, int G, int C>
inline void add_products(const typename Source::Block (&w)[G], const ActivationBlock<C>& a,
                         __m512i (&acc)[G][C]) {
  SHOAL_UNROLL for (int i = kFirst; i < kLast; ++i) {
    const int j = step<Source>(i);
    __m512i q[G];
    SHOAL_UNROLL for (int g = 0; g < G; ++g) q[g] = w[g].weights(j);
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      const __m512i x = broadcast_word(a.q[c] + 4 * j);
      SHOAL_UNROLL for (int g = 0; g < G; ++g) acc[g][c] = _mm512_dpbusd_epi32(acc[g][c], q[g], x);
    }
  }
}

// t[g][c] = the exact integer of the block, as a float.
template <class Source, int G, int C>
inline void dot(const Source* sources, const typename Source::Block (&w)[G], const ActivationBlock<C>& a,
                __m512 (&t)[G][C]) {
  __m512i acc[G][C];
  if constexpr (!has_sub(Source::kKind)) {
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      const __m512i start = sources[0].minus_offset_times(&a.sum[c]);
      SHOAL_UNROLL for (int g = 0; g < G; ++g) acc[g][c] = start;
    }
    add_products<Source, 0, 8>(w, a, acc);
    SHOAL_UNROLL for (int g = 0; g < G; ++g) {
      SHOAL_UNROLL for (int c = 0; c < C; ++c) t[g][c] = _mm512_cvtepi32_ps(acc[g][c]);
    }
  } else {
    SHOAL_UNROLL for (int h = 0; h < 2; ++h) {
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const __m512i start = sources[0].minus_offset_times_half(&a.half_sum[c][h]);
        SHOAL_UNROLL for (int g = 0; g < G; ++g) acc[g][c] = start;
      }
      if (h == 0) {
        add_products<Source, 0, 4>(w, a, acc);
      } else {
        add_products<Source, 4, 8>(w, a, acc);
      }
      SHOAL_UNROLL for (int g = 0; g < G; ++g) {
        const __m512 scale = w[g].sub_scale(h);
        SHOAL_UNROLL for (int c = 0; c < C; ++c) {
          const __m512 part = _mm512_cvtepi32_ps(acc[g][c]);
          t[g][c] = h == 0 ? _mm512_mul_ps(part, scale) : _mm512_fmadd_ps(part, scale, t[g][c]);
        }
      }
    }
  }
}

// sums[g C + c][r] += row c of `a` times row r of source g, `blocks` blocks in order.
template <class Source, int G, int C>
void run(const Source (&sources)[G], int blocks, bool prefetch, const ActivationBlock<C>* a,
         float (*sums)[16]) {
  __m512 sum[G][C];
  SHOAL_UNROLL for (int g = 0; g < G; ++g) {
    SHOAL_UNROLL for (int c = 0; c < C; ++c) sum[g][c] = _mm512_loadu_ps(sums[g * C + c]);
  }
  for (int b = 0; b < blocks; ++b, ++a) {
    typename Source::Block w[G];
    SHOAL_UNROLL for (int g = 0; g < G; ++g) {
      if (prefetch) sources[g].prefetch(b);
      w[g] = sources[g].at(b);
    }
    __m512 t[G][C];
    dot(sources, w, *a, t);
    SHOAL_UNROLL for (int g = 0; g < G; ++g) {
      const __m512 scale = w[g].scale();
      SHOAL_UNROLL for (int c = 0; c < C; ++c) {
        const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(a->scale[c]));
        sum[g][c] = _mm512_fmadd_ps(t[g][c], factor, sum[g][c]);
      }
      if constexpr (Source::kKind == PanelKind::kScaleMin) {
        const __m512 min = w[g].min();
        SHOAL_UNROLL for (int c = 0; c < C; ++c) {
          sum[g][c] = _mm512_fmadd_ps(min, _mm512_set1_ps(a->scaled_sum[c]), sum[g][c]);
        }
      }
      if constexpr (Source::kKind == PanelKind::kSubScaleMin) {
        const __m512 min = w[g].min();
        SHOAL_UNROLL for (int c = 0; c < C; ++c) {
          const __m512i u = _mm512_madd_epi16(w[g].sub_mins(), broadcast_word(a->half_sum[c]));
          const __m512 factor = _mm512_mul_ps(min, _mm512_set1_ps(a->scale[c]));
          sum[g][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(u), factor, sum[g][c]);
        }
      }
    }
  }
  SHOAL_UNROLL for (int g = 0; g < G; ++g) {
    SHOAL_UNROLL for (int c = 0; c < C; ++c) _mm512_storeu_ps(sums[g * C + c], sum[g][c]);
  }
}

// ---- Float weights ----

template <TensorType kType>
inline __m512 load_weights(const std::byte* group, int64_t index) {
  if constexpr (kType == TensorType::kF32)
    return _mm512_loadu_ps(reinterpret_cast<const float*>(group) + index);
  const std::byte* p = group + 2 * index;
  if constexpr (kType == TensorType::kF16) return load_halves(p);
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

template <TensorType kType, int G, int C>
void run_floats(const std::byte* group, size_t group_bytes, int64_t cols, const float* x, int64_t ld_x,
                float (*sums)[16]) {
  __m512 sum[G][C];
  SHOAL_UNROLL for (int g = 0; g < G; ++g) {
    SHOAL_UNROLL for (int c = 0; c < C; ++c) sum[g][c] = _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < cols; ++k) {
    __m512 w[G];
    SHOAL_UNROLL for (int g = 0; g < G; ++g) w[g] = load_weights<kType>(group + g * group_bytes, 16 * k);
    SHOAL_UNROLL for (int c = 0; c < C; ++c) {
      const __m512 a = _mm512_set1_ps(x[c * ld_x + k]);
      SHOAL_UNROLL for (int g = 0; g < G; ++g) sum[g][c] = _mm512_fmadd_ps(w[g], a, sum[g][c]);
    }
  }
  SHOAL_UNROLL for (int g = 0; g < G; ++g) {
    SHOAL_UNROLL for (int c = 0; c < C; ++c) _mm512_storeu_ps(sums[g * C + c], sum[g][c]);
  }
}

// ---- 16 weight rows at a time ----

struct Avx512 {
  // With 32 weight rows: 10 integers, 10 sums, 2 weights and 1 activation in 32 registers.
  static constexpr int kTileRows = 5;

  template <PanelKind kKind, int, int C>
  static void panel_tile(const Panel* panels, int blocks, int offset, const ActivationBlock<C>* a,
                         float (*sums)[16]) {
    const PanelSource<kKind> source[1] = {{panels, offset}};
    run(source, blocks, false, a, sums);
  }

  static constexpr int direct_rows_max(TensorType type) { return usual_direct_rows_max(type); }
  template <TensorType>
  static constexpr int kGroupsAbreast = 1;

  template <TensorType kType, int C>
  static void direct_tile(const std::byte* group, int64_t cols, bool prefetch, const ActivationBlock<C>* a,
                          float (*sums)[16]) {
    const decltype(packed_source<kType>(group, cols)) source[1] = {packed_source<kType>(group, cols)};
    run(source, static_cast<int>(cols / 32), prefetch, a, sums);
  }

  template <TensorType kType, int C>
  static void float_tile(const std::byte* group, int64_t cols, const float* x, int64_t ld_x,
                         float (*sums)[16]) {
    run_floats<kType, 1, C>(group, 0, cols, x, ld_x, sums);
  }
};

// ---- 32 weight rows at a time ----

using Driver = ProductDriver<Avx512>;

constexpr int kRowsForPairs = 2 * Avx512::kTileRows;  // fewer wait for memory, which one stream reads best

// The groups g and g + 1 in all tiles: tile.template operator()<C>(row, sums) fills sums[2 * C].
template <class Tile>
void for_each_pair_tile(const ProductArgs& a, int64_t g, bool resume, Tile&& tile) {
  Driver::for_each_tile(a, [&]<int C>(int row) {
    alignas(64) float sums[2 * C][16] = {};
    if (resume) {
      Driver::load_sums<C>(a, g, row, sums);
      Driver::load_sums<C>(a, g + 1, row, sums + C);
    }
    tile.template operator()<C>(row, sums);
    Driver::store_sums<C>(a, g, row, sums);
    Driver::store_sums<C>(a, g + 1, row, sums + C);
  });
}

template <TensorType kType>
void pairs_direct(const ProductArgs& a) {
  const int blocks = static_cast<int>(a.cols / 32);
  for (int64_t g = 0; g < a.groups; g += 2) {
    const std::byte* group = a.weights + g * a.group_bytes;
    const decltype(packed_source<kType>(group, 0)) sources[2] = {
        packed_source<kType>(group, a.cols), packed_source<kType>(group + a.group_bytes, a.cols)};
    for_each_pair_tile(a, g, false, [&]<int C>(int row, float(*sums)[16]) {
      run(sources, blocks, row == 0, Driver::tile<C>(a, row), sums);
    });
  }
}

template <PanelKind kKind>
void pairs_of_panels(const Format& format, const ProductArgs& a) {
  constexpr int kChunk = kPanelChunk / 2;
  Panel panels[2][kChunk];
  const PanelSource<kKind> sources[2] = {{panels[0], format.offset}, {panels[1], format.offset}};
  const int64_t blocks = a.cols / 32;
  for (int64_t g = 0; g < a.groups; g += 2) {
    for (int64_t b0 = 0; b0 < blocks; b0 += kChunk) {
      const int n = static_cast<int>(blocks - b0 < kChunk ? blocks - b0 : kChunk);
      for (int i = 0; i < 2; ++i) {
        const std::byte* group = a.weights + (g + i) * a.group_bytes;
        for (int b = 0; b < n; ++b) format.unpack(group, a.cols, b0 + b, &panels[i][b]);
      }
      for_each_pair_tile(a, g, b0 > 0, [&]<int C>(int row, float(*sums)[16]) {
        run(sources, n, false, Driver::tile<C>(a, row) + b0, sums);
      });
    }
  }
}

template <TensorType kType>
void pairs_of_floats(const ProductArgs& a) {
  for (int64_t g = 0; g < a.groups; g += 2) {
    for_each_pair_tile(a, g, false, [&]<int C>(int row, float(*sums)[16]) {
      run_floats<kType, 2, C>(a.weights + g * a.group_bytes, a.group_bytes, a.cols, a.x + row * a.ld_x,
                              a.ld_x, sums);
    });
  }
}

void multiply_pairs(const Format& format, const ProductArgs& a) {
  const auto direct = [&]<TensorType kType>() {
    if constexpr (Avx512::direct_rows_max(kType) > 0) pairs_direct<kType>(a);
  };
  const auto floats = [&]<TensorType kType>() { pairs_of_floats<kType>(a); };
  const auto panels = [&]<PanelKind kKind>() { pairs_of_panels<kKind>(format, a); };
  if (a.rows <= Avx512::direct_rows_max(format.type)) {
    with_packed_type(format.type, direct);
  } else if (format.is_float) {
    with_float_type(format.type, floats);
  } else {
    with_panel_kind(format.kind, panels);
  }
}

void multiply(const Format& format, const ProductArgs& a) {
  if (a.rows < kRowsForPairs) return Driver::multiply(format, a);
  ProductArgs pairs = a;
  pairs.groups = a.groups / 2 * 2;
  multiply_pairs(format, pairs);
  if (pairs.groups == a.groups) return;
  ProductArgs last = a;  // an odd group
  last.weights += pairs.groups * a.group_bytes;
  last.groups = 1;
  last.y += 16 * pairs.groups;
  last.outputs -= 16 * pairs.groups;
  Driver::multiply(format, last);
}

}  // namespace

const ProductOps kProductOpsAvx512 = {Avx512::kTileRows, multiply};

}  // namespace shoal
