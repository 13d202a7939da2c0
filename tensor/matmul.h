// Products of weight matrices with activation rows: y[r, o] = sum over k of w[o, k] * x[r, k].
//
// The result of a row never depends on how many rows, threads or products share a call (numeric class
// `exact`).
#pragma once

#include <cstdint>
#include <initializer_list>

#include "tensor/aligned_buffer.h"
#include "tensor/kernels.h"
#include "tensor/thread_pool.h"
#include "tensor/weight_matrix.h"

namespace shoal {

// Activation rows prepared for products: int8 in blocks of 32 with a float scale and an integer sum each,
// beside a pointer to the floats themselves, which matrices of float types use. Memory is taken once.
class ActivationRows {
 public:
  ActivationRows(int rows_max, int cols_max);

  // Prepares x[rows, cols] (row stride ld_x floats). x must stay unchanged until the products are done.
  // cols is a multiple of 32 where a quantised matrix is to be multiplied.
  void assign(const Kernels& kernels, ThreadPool& pool, const float* x, int64_t ld_x, int rows, int cols);

  int rows() const { return rows_; }
  int cols() const { return cols_; }
  const float* floats() const { return x_; }
  int64_t ld_floats() const { return ld_x_; }
  const std::byte* blocks() const { return blocks_.data(); }  // layout: tensor/product_ops.h

 private:
  int rows_max_ = 0, cols_max_ = 0, rows_ = 0, cols_ = 0;
  const float* x_ = nullptr;
  int64_t ld_x_ = 0;
  AlignedBuffer blocks_;
};

struct Product {
  const WeightMatrix* w;  // [n_out, cols]
  float*
      y;  // [rows, n_out], row stride ld_y floats; rows rounded up to 16 outputs are NOT written past n_out
  int64_t ld_y;
};

// All products share the activation rows and one pass through the thread pool.
void matmul(const Kernels& kernels, ThreadPool& pool, const ActivationRows& x,
            std::initializer_list<Product> products);

}  // namespace shoal
