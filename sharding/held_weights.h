// Loading a shard where some of it is in memory already: when the layers are divided anew, a node keeps those
// that it has and loads only the rest.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "sharding/shard.h"

namespace shoal {

// Layers that are loaded in one go lie in one piece of memory, which is free again once none of them is used.
// So no more than this is loaded at once, or a single layer.
inline constexpr uint64_t kLoadedTogetherBytes = 64u << 20;

// Weights of stages that are no more.
struct HeldWeights {
  std::map<int, LayerWeights> layers;  // by global index
  // The rest of each stage, its layers and adapters taken out; `spec` is as it was.
  std::vector<ShardWeights> ends;

  void add(ShardWeights shard);
  // Drops what none of these shards needs.
  void keep_for(std::span<const ShardSpec> shards);
  // What load_missing() would load for them, as shards.
  std::vector<ShardSpec> missing(std::span<const ShardSpec> shards) const;
};

// Like load_shard, with what is `held` where that has it; it moves from there. Where this throws, `held` has
// all it had, and what was loaded whole before; `progress` may throw too, to end it. `shared` and `source` as
// there.
ShardWeights load_missing(const GgufFile& file, const ModelConfig& config, const ShardSpec& spec,
                          ThreadPool& pool, const std::function<void(uint64_t, uint64_t)>& progress,
                          HeldWeights& held, std::shared_ptr<const WeightMatrix> shared = nullptr,
                          BlockSource* source = nullptr);

}  // namespace shoal
