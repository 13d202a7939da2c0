// Low-rank adapters (LoRA): what one adds to the product of a matrix of a layer, y += s B (A x), with A
// [rank, n_in], B [n_out, rank] and s = alpha / rank times the row's own scale (arXiv 2106.09685; the files:
// model/lora_file.h). Rows of one step may use different adapters, or none.
//
// A row's result depends on the row and its adapter alone, bit for bit: the products are those of
// tensor/matmul.h. Belongs to the engine thread; nothing allocates after construction.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "model/batch.h"
#include "model/layer_weights.h"
#include "tensor/matmul.h"

namespace shoal {

using MatrixOfLayer = WeightMatrix LayerWeights::*;

struct LoraPair {
  MatrixOfLayer target;
  WeightMatrix a;  // [rank, n_in]
  WeightMatrix b;  // [n_out, rank]
  float scale;     // alpha / rank
};

// One adapter's part of a shard: layers[i] belongs to the shard's layer i; those it leaves alone are empty.
struct LoraWeights {
  std::vector<std::vector<LoraPair>> layers;
  uint64_t bytes() const;
};

// The largest of several adapters.
struct LoraSizes {
  int n_in = 0, n_out = 0, rank = 0;
  void include(int64_t in, int64_t out, int64_t low);
};

// One product of the base model that adapters may add to.
struct LoraTarget {
  MatrixOfLayer target;
  float* y;  // [rows, n_out]
  int n_out;
};

// The adapters of a stage and the buffers of a step.
class LoraStage {
 public:
  // `adapters` outlive it; without any it needs no memory. `rows_max`: of a step.
  LoraStage(const std::vector<LoraWeights>& adapters, int rows_max);
  static LoraSizes sizes(const std::vector<LoraWeights>& adapters);
  static uint64_t bytes(const LoraSizes& sizes, int rows_max);

  // Sorts the rows of a step by adapter. Each row's adapter is at most the number of adapters.
  void begin_step(std::span<const BatchRow> rows);

  // Adds what the rows' adapters add to products of x[rows, n_in] in the shard's layer `layer`.
  void add(const Kernels& kernels, ThreadPool& pool, size_t layer, const float* x, int n_in,
           std::initializer_list<LoraTarget> targets);

 private:
  void add_pair(const Kernels& kernels, ThreadPool& pool, const LoraPair& pair, std::span<const int32_t> rows,
                const LoraTarget& target);

  const std::vector<LoraWeights>& adapters_;
  const LoraSizes sizes_;
  std::span<const BatchRow> rows_;
  std::vector<int32_t> order_;   // rows that use an adapter, by adapter, then in their order
  std::vector<int32_t> starts_;  // of adapter i in order_; one more at the end
  AlignedBuffer memory_;
  float *x_ = nullptr, *low_ = nullptr, *added_ = nullptr;  // [kLoraRows, n_in | rank | n_out]
  ActivationRows full_, reduced_;
};

}  // namespace shoal
