#include "tensor/matmul.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "tensor/float_ops.h"
#include "tensor/format.h"
#include "tensor/product_ops.h"

namespace shoal {
namespace {

constexpr int kQuantizeChunk = 256;           // columns quantised at a time, on the stack
constexpr int64_t kParallelElements = 32768;  // fewer are quantised on the caller: a barrier costs more
constexpr int64_t kShareBytes = 16 << 10;     // of weights that a thread claims at least
constexpr int64_t kTileBytesInCache = 160
                                      << 10;  // of activation tiles while a group of weights is multiplied

// Sum of 16 int8. Bytes are made unsigned, added in pairs to 16-bit fields, and those by a multiplication.
int sum16(const int8_t* q) {
  int sum = -16 * 128;
  for (int i = 0; i < 2; ++i) {
    uint64_t bytes;
    std::memcpy(&bytes, q + 8 * i, 8);
    bytes ^= 0x8080808080808080u;
    constexpr uint64_t kEven = 0x00ff00ff00ff00ffu;
    const uint64_t pairs = (bytes & kEven) + ((bytes >> 8) & kEven);
    sum += static_cast<int>((pairs * 0x0001000100010001u) >> 48);
  }
  return sum;
}

// Writes 32 columns of row c into a block of a tile that is `width` rows wide; the layout of
// ActivationBlock<width>.
void store_block(std::byte* block, int width, int c, const int8_t* q, float scale, int32_t sum) {
  const auto first = static_cast<int16_t>(sum16(q));
  const int16_t half_sum[2] = {first, static_cast<int16_t>(sum - first)};
  const float scaled_sum = scale * static_cast<float>(sum);
  std::memcpy(block + 32 * c, q, 32);
  std::byte* fields = block + 32 * width + 4 * c;
  std::memcpy(fields, &scale, 4);
  std::memcpy(fields + 4 * width, &sum, 4);
  std::memcpy(fields + 8 * width, half_sum, 4);
  std::memcpy(fields + 12 * width, &scaled_sum, 4);
}

// Quantises row `row` into its place among the tiles. What is not finite is seen in its block's scale, so
// that the products are not numbers that look right.
void assign_row(const Kernels& kernels, const float* x, int row, int rows, int cols, std::byte* tiles) {
  const int tile_rows = tile_rows_of(*kernels.products, rows);
  const int tile = row / tile_rows * tile_rows;
  const int width = std::min(tile_rows, rows - tile);
  std::byte* block = tiles + int64_t{tile} * (cols / 32) * kActivationBlockBytes;
  int8_t q[kQuantizeChunk];
  float scale[kQuantizeChunk / 32];
  int32_t sum[kQuantizeChunk / 32];
  for (int k = 0; k < cols; k += kQuantizeChunk) {
    const int n = std::min(kQuantizeChunk, cols - k);
    kernels.floats->quantize(x + k, n, q, scale, sum);
    for (int b = 0; b < n / 32; ++b, block += width * kActivationBlockBytes) {
      store_block(block, width, row - tile, q + 32 * b, scale[b], sum[b]);
    }
  }
}

// Multiplies groups [begin, end) of one product.
void multiply_groups(const Kernels& kernels, const ActivationRows& x, const Product& product, int64_t begin,
                     int64_t end) {
  const WeightMatrix& w = *product.w;
  ProductArgs args;
  args.weights = w.group(begin);
  args.group_bytes = w.group_bytes();
  args.groups = end - begin;
  args.cols = w.cols();
  args.ld_x = x.ld_floats();
  args.ld_y = product.ld_y;
  args.outputs = std::min(w.rows(), end * kRowGroup) - begin * kRowGroup;
  // Rows in portions whose tiles stay in the cache while all groups pass by. Where sums depend on the shape
  // of a product, whoever computes them blocks for the cache as well.
  const int tile_rows = args.tile_rows = tile_rows_of(*kernels.products, x.rows());
  const int64_t row_bytes = std::max<int64_t>(w.cols() / 32 * kActivationBlockBytes, 1);
  const bool whole = kernels.products->groups_together > 1 && format_of(w.type()).is_float;
  const int portion =
      whole ? x.rows()
            : static_cast<int>(std::max<int64_t>(kTileBytesInCache / row_bytes, 64) / tile_rows) * tile_rows;
  for (int row = 0; row < x.rows(); row += portion) {
    args.rows = std::min(portion, x.rows() - row);
    args.tiles = x.blocks() + row * (w.cols() / 32) * kActivationBlockBytes;
    args.x = x.floats() + row * x.ld_floats();
    args.y = product.y + row * product.ld_y + begin * kRowGroup;
    kernels.products->multiply(format_of(w.type()), args);
  }
}

}  // namespace

ActivationRows::ActivationRows(int rows_max, int cols_max)
    : rows_max_(rows_max),
      cols_max_(cols_max),
      blocks_(static_cast<size_t>(rows_max) * (cols_max / 32) * kActivationBlockBytes) {}

void ActivationRows::assign(const Kernels& kernels, ThreadPool& pool, const float* x, int64_t ld_x, int rows,
                            int cols) {
  SHOAL_CHECK(rows >= 0 && rows <= rows_max_ && cols >= 0 && cols <= cols_max_);
  rows_ = rows;
  cols_ = cols;
  x_ = x;
  ld_x_ = ld_x;
  if (cols % 32 != 0) return;  // only float matrices can be multiplied; matmul checks
  const auto assign_rows = [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      assign_row(kernels, x + r * ld_x, static_cast<int>(r), rows, cols, blocks_.data());
    }
  };
  if (int64_t{rows} * cols < kParallelElements) {
    assign_rows(0, rows);
  } else {
    pool.for_range(rows, 1, assign_rows);
  }
}

void matmul(const Kernels& kernels, ThreadPool& pool, const ActivationRows& x,
            std::initializer_list<Product> products) {
  int64_t total = 0;  // packed bytes of all matrices, the measure of work
  for (const Product& p : products) {
    SHOAL_CHECK(p.w->cols() == x.cols() && (x.cols() % 32 == 0 || format_of(p.w->type()).is_float));
    total += static_cast<int64_t>(p.w->bytes());
  }
  if (x.rows() == 0) return;
  // A thread takes the groups that begin in the part of the concatenated matrices that it has claimed.
  pool.for_range(total, kShareBytes, [&](int64_t share_begin, int64_t share_end) {
    int64_t base = 0;
    for (const Product& p : products) {
      const auto bytes = static_cast<int64_t>(p.w->bytes()), group = static_cast<int64_t>(p.w->group_bytes());
      // One row is multiplied by large groups four at a time, whose streams memory serves best together: not
      // torn. Nor are the groups that a table multiplies at once.
      const int64_t together =
          std::max<int64_t>(kernels.products->groups_together, x.rows() == 1 && group >= kShareBytes ? 4 : 1);
      const auto first_from = [&](int64_t position) {
        const int64_t offset = std::clamp<int64_t>(position - base, 0, bytes), unit = together * group;
        return std::min((offset + unit - 1) / unit * together, bytes / group);
      };
      const int64_t begin = first_from(share_begin), end = first_from(share_end);
      if (begin < end) multiply_groups(kernels, x, p, begin, end);
      base += bytes;
    }
  });
}

}  // namespace shoal
