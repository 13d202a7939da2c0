// Products of one instruction set, and what its kernels read: activation tiles.
//
// To add an instruction set: one file product_<name>.cc that defines a traits type in an anonymous namespace
// (see product_driver.h for what it must have: a product of the canonical panel, one of floats, and
// optionally direct products of packed formats) and `const ProductOps kProductOps<Name> =
// make_product_ops<Traits>();`; its compile flags in CMakeLists.txt; its line in kernels.cc.
// tests/tensor/product_test.cc then holds it to the bits of the scalar reference.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/format.h"

namespace shoal {

inline constexpr int kTileRowsMax = 8;  // activation rows a kernel may take side by side

// 32 columns of C activation rows. A tile of C rows is [cols / 32] of these, one stream; the rows of a call
// are divided into tiles of tile_rows_of() rows, the last one narrower. One row is a tile with C = 1.
template <int C>
struct ActivationBlock {
  int8_t q[C][32];         // |q| <= 127
  float scale[C];          // x ~ scale * q
  int32_t sum[C];          // of the 32 q
  int16_t half_sum[C][2];  // of the first and the last 16 q
  float scaled_sum[C];     // scale * sum, rounded once
};
inline constexpr int kActivationBlockBytes = 48;  // per row, whatever C
static_assert(sizeof(ActivationBlock<1>) == kActivationBlockBytes);
static_assert(sizeof(ActivationBlock<5>) == 5 * kActivationBlockBytes);

// Consecutive groups of one matrix times all rows of a call.
struct ProductArgs {
  const std::byte* weights;  // first group
  size_t group_bytes;
  int64_t groups;
  int64_t cols;
  const std::byte* tiles;  // quantised formats
  const float* x;          // float formats: [rows, cols], row stride ld_x floats
  int64_t ld_x;
  int rows;
  int tile_rows;  // of each tile but the last, which may have fewer
  float* y;       // [rows, outputs], row stride ld_y floats
  int64_t ld_y;
  int64_t outputs;  // 16 * groups, less where the last group is padded: never written past
};

struct ProductOps {
  int tile_rows;  // at most in a tile; <= kTileRowsMax
  void (*multiply)(const Format& format, const ProductArgs& args);
  // Calls begin at multiples of so many groups of a matrix; more than 1 where the sums depend on the shape.
  int groups_together = 1;
};

// How wide the tiles of a call are: as few as possible and nearly alike, since each takes the weights apart
// anew. Eight rows of at most five side by side are 4 + 4, not 5 + 3.
inline int tile_rows_of(const ProductOps& ops, int rows) {
  const int tiles = (rows + ops.tile_rows - 1) / ops.tile_rows;
  return tiles == 0 ? ops.tile_rows : (rows + tiles - 1) / tiles;
}

extern const ProductOps kProductOpsGeneric;
extern const ProductOps kProductOpsAvx2;
extern const ProductOps kProductOpsAvxVnni;
extern const ProductOps kProductOpsAvx512;
extern const ProductOps kProductOpsNeon;
extern const ProductOps kProductOpsNeonDot;

}  // namespace shoal
