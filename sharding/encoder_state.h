// What a stage of a model with an encoder (T5, BERT) keeps besides the decoder's own cache: for each slot K
// and V of its encoded input, which the decoder's layers attend to across; room for K and V of the inputs
// that an encode step is computing; and the relative position biases, where the family has such. Belongs to
// the stage and its engine thread; nothing allocates after construction.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "model/encoder_decoder.h"
#include "sharding/shard.h"
#include "sharding/stage.h"

namespace shoal {

class EncoderState {
 public:
  EncoderState(const ModelConfig& config, const ShardWeights& weights, const StageOptions& options);
  static uint64_t kv_bytes(const ModelConfig& config, const LayerRange& layers, const StageOptions& options);
  static uint64_t scratch_bytes(const ModelConfig& config, const LayerRange& layers,
                                const StageOptions& options);

  // Checking a step: the lengths of the slots' inputs as it would leave them. Operations that are out of
  // range have been refused before.
  void begin_check();
  void play(const CacheOp& op);
  int checked_length(int slot) const { return lengths_[static_cast<size_t>(slot)]; }

  void apply(const CacheOp& op);
  // The rows are whole inputs, checked: what their slots held is forgotten.
  void take_inputs(std::span<const BatchRow> rows);
  void encode(const ComputeContext& cx, const ShardWeights& weights, std::span<const BatchRow> rows,
              float* hidden);
  void decode(const ComputeContext& cx, const ShardWeights& weights, std::span<const BatchRow> rows,
              KvCache& cache, float* hidden) const;

 private:
  const RelativeBias& bias_of(const ModelConfig& config, int layer) const;

  KvCache input_;    // of one encoder layer at a time; lengths are those of the step's inputs
  KvCache encoded_;  // of the decoder's layers
  std::vector<int> lengths_;
  std::vector<int> bias_layers_;  // biases_[i] is that of layer bias_layers_[i]
  std::vector<RelativeBias> biases_;
};

// The part of `layers` that belongs to the decoder; empty, at the encoder's end, where there is none.
LayerRange decoder_part(const ModelConfig& config, const LayerRange& layers);

}  // namespace shoal
