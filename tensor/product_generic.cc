// Products in plain C++: the form that every processor runs, and the readable statement of what a tile
// computes.
#include <cmath>
#include <cstring>

#include "tensor/half.h"
#include "tensor/product_driver.h"

namespace shoal {
namespace {

struct Generic {
  static constexpr int kTileRows = 4;

  static constexpr int direct_rows_max(TensorType) { return 0; }

  // Sum of q' a over half h (16 columns) of a block.
  static int half_dot(const Panel& w, int r, int h, int offset, const int8_t* a) {
    int sum = 0;
    for (int k = 16 * h; k < 16 * h + 16; ++k) sum += (w.q[k / 4][r][k % 4] - offset) * a[k];
    return sum;
  }

  template <PanelKind kKind, int kMaxQ, int C>
  static void panel_tile(const Panel* panels, int blocks, int offset, const ActivationBlock<C>* a,
                         float (*sums)[16]) {
    constexpr bool kSub = kKind == PanelKind::kSubScale || kKind == PanelKind::kSubScaleMin;
    for (int b = 0; b < blocks; ++b) {
      const Panel& w = panels[b];
      for (int c = 0; c < C; ++c) {
        for (int r = 0; r < 16; ++r) {
          const int t0 = half_dot(w, r, 0, offset, a[b].q[c]), t1 = half_dot(w, r, 1, offset, a[b].q[c]);
          const int t = kSub ? w.sub_scale[r][0] * t0 + w.sub_scale[r][1] * t1 : t0 + t1;
          float& sum = sums[c][r];
          sum = std::fma(static_cast<float>(t), w.scale[r] * a[b].scale[c], sum);
          if constexpr (kKind == PanelKind::kScaleMin) sum = std::fma(w.min[r], a[b].scaled_sum[c], sum);
          if constexpr (kKind == PanelKind::kSubScaleMin) {
            const int u = w.sub_min[r][0] * a[b].half_sum[c][0] + w.sub_min[r][1] * a[b].half_sum[c][1];
            sum = std::fma(static_cast<float>(u), w.min[r] * a[b].scale[c], sum);
          }
        }
      }
    }
  }

  template <TensorType kType>
  static float element(const std::byte* group, int64_t index) {
    if constexpr (kType == TensorType::kF32) {
      float value;
      std::memcpy(&value, group + 4 * index, 4);
      return value;
    } else {
      uint16_t bits;
      std::memcpy(&bits, group + 2 * index, 2);
      return kType == TensorType::kF16 ? half_to_float(bits) : bfloat_to_float(bits);
    }
  }

  template <TensorType kType, int C>
  static void float_tile(const std::byte* group, int64_t cols, const float* x, int64_t ld_x,
                         float (*sums)[16]) {
    for (int64_t k = 0; k < cols; ++k) {
      for (int r = 0; r < 16; ++r) {
        const float w = element<kType>(group, 16 * k + r);
        for (int c = 0; c < C; ++c) sums[c][r] = std::fma(w, x[c * ld_x + k], sums[c][r]);
      }
    }
  }
};

}  // namespace

const ProductOps kProductOpsGeneric = make_product_ops<Generic>();

}  // namespace shoal
