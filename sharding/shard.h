// A shard: the part of a model that one stage holds. Which tensors it needs, and loading just those.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/gguf_file.h"
#include "model/model_config.h"
#include "model/transformer.h"

namespace shoal {

// Half-open, global layer indices.
struct LayerRange {
  int begin = 0;
  int end = 0;
  int size() const { return end - begin; }
  bool operator==(const LayerRange&) const = default;
};

struct ShardSpec {
  bool embedding = false;  // turns tokens into hidden
  LayerRange layers;
  bool output = false;  // output norm and head
  bool operator==(const ShardSpec&) const = default;
};

struct ShardWeights {
  ShardSpec spec;
  std::shared_ptr<const WeightMatrix> token_embd;       // if spec.embedding, or spec.output of a tied model
  std::vector<LayerWeights> layers;                     // layers[i] is layer spec.layers.begin + i
  EmbeddingWeights embedding;                           // if spec.embedding, where the family has any
  std::shared_ptr<const ClassifierWeights> classifier;  // if spec.output of a model that ranks
  std::vector<float> output_norm;
  std::shared_ptr<const WeightMatrix> output;  // token_embd itself when tied
  std::vector<float> rope_factors;             // that divide rope's frequencies; empty if none
  std::vector<float>
      rope_factors_long;  // instead, in a context longer than config.n_ctx_original; may be empty

  uint64_t bytes() const;  // resident bytes of all of it, shared matrices counted once
};

// Where load_shard takes tensors from when it is not the file itself: blocks as model/weight_manifest.h cuts
// them.
class BlockSource {
 public:
  virtual ~BlockSource() = default;
  // Fills `out` with block `block` of the tensor. From several threads at a time. Throws SetupError.
  virtual void read_block(const TensorInfo& tensor, uint64_t block, std::span<std::byte> out) = 0;
  // That these bytes will be asked for soon. Only advice.
  virtual void expect(const TensorInfo& tensor, uint64_t offset, uint64_t bytes);
};

// Names of the tensors that load_shard(spec) reads, in the file's usual order.
std::vector<std::string> shard_tensors(const GgufFile& file, const ModelConfig& config,
                                       const ShardSpec& spec);

// Bytes that load_shard(spec) will keep resident; what the planner counts.
uint64_t shard_bytes(const GgufFile& file, const ModelConfig& config, const ShardSpec& spec);

// Reads and packs the tensors of `spec` only, in pieces, so that memory never exceeds the shard's bytes by
// more than a few MiB. `progress(done, total)` in bytes, called from this thread. `shared`: an embedding
// another stage of this process already holds, or null. `source`: where the tensors' bytes come from, or null
// for the file, whose records are used in any case.
ShardWeights load_shard(const GgufFile& file, const ModelConfig& config, const ShardSpec& spec,
                        ThreadPool& pool, const std::function<void(uint64_t, uint64_t)>& progress = {},
                        std::shared_ptr<const WeightMatrix> shared_embd = nullptr,
                        BlockSource* source = nullptr);

}  // namespace shoal
