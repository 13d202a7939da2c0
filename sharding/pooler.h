// One vector for a whole text out of the last layer's rows: their mean, the first or the last, as the file
// says (ARCH.pooling_type), after the norm in front of the output head where the model has one. For reranking
// the first row goes through the file's classifier instead and gives scores. Rows of a text may come in
// several steps: sums go on in the order of positions, so that how it was cut does not show in any bit.
// Belongs to the stage with the output head and its engine thread; nothing allocates in a step but what
// `outputs` keeps.
#pragma once

#include <span>
#include <vector>

#include "model/transformer.h"
#include "sharding/shard.h"
#include "sharding/stage.h"

namespace shoal {

class Pooler {
 public:
  Pooler(const ModelConfig& config, int slots);
  static uint64_t bytes(const ModelConfig& config, int slots);

  // The rows of an embed step: outputs for those that want them.
  void run(const ComputeContext& cx, const ShardWeights& weights, std::span<const BatchRow> rows,
           const float* hidden, std::vector<RowOutput>& outputs);

 private:
  void pool(const ModelConfig& config, const BatchRow& row, const float* x);
  void finish(const ComputeContext& cx, const ShardWeights& weights, const BatchRow& row,
              RowOutput& output) const;
  void classify(const ComputeContext& cx, const ClassifierWeights& w, const float* pooled,
                std::vector<float>& scores) const;

  int n_embd_;
  AlignedBuffer pooled_;  // [slots, n_embd]
};

}  // namespace shoal
