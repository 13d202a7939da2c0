// The loops around the tile kernels, the same for every instruction set: groups outside, activation tiles
// inside, columns in chunks whose panels stay in the first-level cache. Included by the product_<name>.cc
// files only; everything is a template over their local traits type, so that no code compiled for one
// instruction set can be linked into another.
//
// Traits:
//   kTileRows                    rows side by side in the widest tile
//   template <PanelKind, int kMaxQ, int C>
//   static void panel_tile(const Panel*, int blocks, int offset, const ActivationBlock<C>*, float
//   (*sums)[16])
//                                sums[c][r] += rows c times row r of the panels; kMaxQ is 15, 63 or 255
//   static constexpr int direct_rows_max(TensorType)
//                                rows up to which direct_tile is faster than panels; 0: it does not exist for
//                                the type, and neither need the three members that follow
//   template <TensorType, int C>
//   static void direct_tile(const std::byte* group, int64_t cols, bool prefetch, const ActivationBlock<C>*,
//                           float (*sums)[16])       the same from the packed group, all columns
//   template <TensorType> kGroupsAbreast
//                                groups that direct_groups takes; 1: there is none
//   template <TensorType>
//   static void direct_groups(const std::byte* group, size_t group_bytes, int64_t cols,
//                             const ActivationBlock<1>*, float (*sums)[16])
//                                one row times kGroupsAbreast groups side by side, so that memory is read as
//                                several streams; sums[g] of group g
//   template <TensorType, int C>
//   static void float_tile(const std::byte* group, int64_t cols, const float* x, int64_t ld_x, float
//   (*sums)[16])
#pragma once

#include <climits>

#include "tensor/product_ops.h"

namespace shoal {

inline constexpr int kPanelChunk = 32;  // blocks unpacked at a time: 1024 columns, 24 KiB

namespace {  // internal linkage, see above

// Calls body.template operator()<kType>() for a quantised type; the same for float types and kinds of panels.
template <class Body>
void with_packed_type(TensorType type, Body&& body) {
  switch (type) {
    case TensorType::kQ4_0:
      return body.template operator()<TensorType::kQ4_0>();
    case TensorType::kQ4_1:
      return body.template operator()<TensorType::kQ4_1>();
    case TensorType::kQ5_0:
      return body.template operator()<TensorType::kQ5_0>();
    case TensorType::kQ5_1:
      return body.template operator()<TensorType::kQ5_1>();
    case TensorType::kQ8_0:
      return body.template operator()<TensorType::kQ8_0>();
    case TensorType::kQ2_K:
      return body.template operator()<TensorType::kQ2_K>();
    case TensorType::kQ3_K:
      return body.template operator()<TensorType::kQ3_K>();
    case TensorType::kQ4_K:
      return body.template operator()<TensorType::kQ4_K>();
    case TensorType::kQ5_K:
      return body.template operator()<TensorType::kQ5_K>();
    case TensorType::kQ6_K:
      return body.template operator()<TensorType::kQ6_K>();
    case TensorType::kIQ4_NL:
      return body.template operator()<TensorType::kIQ4_NL>();
    default:
      break;
  }
}

template <class Body>
void with_float_type(TensorType type, Body&& body) {
  switch (type) {
    case TensorType::kF32:
      return body.template operator()<TensorType::kF32>();
    case TensorType::kF16:
      return body.template operator()<TensorType::kF16>();
    case TensorType::kBF16:
      return body.template operator()<TensorType::kBF16>();
    default:
      break;
  }
}

template <class Body>
void with_panel_kind(PanelKind kind, Body&& body) {
  switch (kind) {
    case PanelKind::kScale:
      return body.template operator()<PanelKind::kScale>();
    case PanelKind::kScaleMin:
      return body.template operator()<PanelKind::kScaleMin>();
    case PanelKind::kSubScale:
      return body.template operator()<PanelKind::kSubScale>();
    case PanelKind::kSubScaleMin:
      return body.template operator()<PanelKind::kSubScaleMin>();
  }
}

// Traits::direct_rows_max of most tables. Many rows pay for a panel where taking the operands apart costs
// more than a mask and a shift; Q2_K and Q3_K have panels only.
constexpr int usual_direct_rows_max(TensorType type) {
  switch (type) {
    case TensorType::kQ4_0:
    case TensorType::kQ4_1:
    case TensorType::kQ8_0:
    case TensorType::kQ4_K:
    case TensorType::kIQ4_NL:
      return INT_MAX;
    case TensorType::kQ5_0:
    case TensorType::kQ5_1:
    case TensorType::kQ5_K:
    case TensorType::kQ6_K:
      return 64;
    default:
      return 0;
  }
}

}  // namespace

template <class Traits>
struct ProductDriver {
  // Calls body.template operator()<C>() with C == rows.
  template <int kWidest = Traits::kTileRows, class Body>
  static void with_width(int rows, Body&& body) {
    if constexpr (kWidest > 1) {
      if (rows < kWidest) return with_width<kWidest - 1>(rows, body);
    }
    body.template operator()<kWidest>();
  }

  // Calls body.template operator()<C>(first row) for each activation tile.
  template <class Body>
  static void for_each_tile(const ProductArgs& a, Body&& body) {
    for (int row = 0; row < a.rows; row += a.tile_rows) {
      const int width = a.rows - row < a.tile_rows ? a.rows - row : a.tile_rows;
      with_width(width, [&]<int C>() { body.template operator()<C>(row); });
    }
  }

  template <int C>
  static const ActivationBlock<C>* tile(const ProductArgs& a, int row) {
    return reinterpret_cast<const ActivationBlock<C>*>(a.tiles + row * (a.cols / 32) * kActivationBlockBytes);
  }

  static int outputs_of_group(const ProductArgs& a, int64_t group) {
    const int64_t left = a.outputs - 16 * group;
    return left < 16 ? static_cast<int>(left) : 16;
  }

  template <int C>
  static void load_sums(const ProductArgs& a, int64_t group, int row, float (*sums)[16]) {
    const int n = outputs_of_group(a, group);
    for (int c = 0; c < C; ++c) {
      const float* y = a.y + (row + c) * a.ld_y + 16 * group;
      for (int r = 0; r < 16; ++r) sums[c][r] = r < n ? y[r] : 0.0f;
    }
  }

  template <int C>
  static void store_sums(const ProductArgs& a, int64_t group, int row, const float (*sums)[16]) {
    const int n = outputs_of_group(a, group);
    for (int c = 0; c < C; ++c) {
      float* y = a.y + (row + c) * a.ld_y + 16 * group;
      if (n == 16) {
        for (int r = 0; r < 16; ++r) y[r] = sums[c][r];
      } else {
        for (int r = 0; r < n; ++r) y[r] = sums[c][r];
      }
    }
  }

  // Any quantised format through panels. Between chunks of columns the sums wait in y.
  template <PanelKind kKind, int kMaxQ>
  static void multiply_panels(const Format& format, const ProductArgs& a) {
    Panel panels[kPanelChunk];
    const int64_t blocks = a.cols / 32;
    for (int64_t g = 0; g < a.groups; ++g) {
      const std::byte* group = a.weights + g * a.group_bytes;
      for (int64_t b0 = 0; b0 < blocks; b0 += kPanelChunk) {
        const int n = static_cast<int>(blocks - b0 < kPanelChunk ? blocks - b0 : kPanelChunk);
        for (int b = 0; b < n; ++b) format.unpack(group, a.cols, b0 + b, &panels[b]);
        for_each_tile(a, [&]<int C>(int row) {
          alignas(64) float sums[C][16] = {};
          if (b0 > 0) load_sums<C>(a, g, row, sums);
          Traits::template panel_tile<kKind, kMaxQ, C>(panels, n, format.offset, tile<C>(a, row) + b0, sums);
          store_sums<C>(a, g, row, sums);
        });
      }
    }
  }

  template <PanelKind kKind>
  static void multiply_panels(const Format& format, const ProductArgs& a) {
    if (format.max_q <= 15) {
      multiply_panels<kKind, 15>(format, a);
    } else if (format.max_q <= 63) {
      multiply_panels<kKind, 63>(format, a);
    } else {
      multiply_panels<kKind, 255>(format, a);
    }
  }

  template <TensorType kType>
  static void multiply_direct(const ProductArgs& a) {
    int64_t g = 0;
    if constexpr (constexpr int kAbreast = Traits::template kGroupsAbreast<kType>; kAbreast > 1) {
      for (; a.rows == 1 && g + kAbreast <= a.groups; g += kAbreast) {
        alignas(64) float sums[kAbreast][16] = {};
        Traits::template direct_groups<kType>(a.weights + g * a.group_bytes, a.group_bytes, a.cols,
                                              tile<1>(a, 0), sums);
        for (int i = 0; i < kAbreast; ++i) store_sums<1>(a, g + i, 0, sums + i);
      }
    }
    for (; g < a.groups; ++g) {
      const std::byte* group = a.weights + g * a.group_bytes;
      for_each_tile(a, [&]<int C>(int row) {
        alignas(64) float sums[C][16] = {};
        Traits::template direct_tile<kType, C>(group, a.cols, row == 0, tile<C>(a, row), sums);
        store_sums<C>(a, g, row, sums);
      });
    }
  }

  template <TensorType kType>
  static void multiply_floats(const ProductArgs& a) {
    for (int64_t g = 0; g < a.groups; ++g) {
      const std::byte* group = a.weights + g * a.group_bytes;
      for_each_tile(a, [&]<int C>(int row) {
        alignas(64) float sums[C][16] = {};
        Traits::template float_tile<kType, C>(group, a.cols, a.x + row * a.ld_x, a.ld_x, sums);
        store_sums<C>(a, g, row, sums);
      });
    }
  }

  static void multiply(const Format& format, const ProductArgs& a) {
    const auto direct = [&]<TensorType kType>() {
      if constexpr (Traits::direct_rows_max(kType) > 0) multiply_direct<kType>(a);
    };
    const auto floats = [&]<TensorType kType>() { multiply_floats<kType>(a); };
    const auto panels = [&]<PanelKind kKind>() { multiply_panels<kKind>(format, a); };
    if (a.rows <= Traits::direct_rows_max(format.type)) {
      with_packed_type(format.type, direct);
    } else if (format.is_float) {
      with_float_type(format.type, floats);
    } else {
      with_panel_kind(format.kind, panels);
    }
  }
};

template <class Traits>
constexpr ProductOps make_product_ops() {
  static_assert(Traits::kTileRows <= kTileRowsMax);
  return {Traits::kTileRows, ProductDriver<Traits>::multiply};
}

}  // namespace shoal
