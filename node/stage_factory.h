// Builds a node's stages for a layout, on its engine thread, and again for the next one: weights that are in
// memory and needed again stay there.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "model/gguf_file.h"
#include "model/model_config.h"
#include "node/engine.h"
#include "node/pipeline_layout.h"
#include "sharding/held_weights.h"
#include "tensor/kernels.h"
#include "tensor/thread_pool.h"

namespace shoal {

class StageFactory {
 public:
  // Where weights come from that this node does not hold.
  struct Source {
    const GgufFile& file;           // where there is none: a manifest's header
    BlockSource* blocks = nullptr;  // null: the file
    // Brings these shards' weights here, before they are read. Throws SetupError.
    std::function<void(const PipelineLayout&, std::span<const ShardSpec>)> fetch = {};
  };
  // All of it outlives the factory. `on_progress` is called while weights are read.
  StageFactory(std::string node, Source source, const ModelConfig& model, const Kernels& kernels,
               ThreadPool& pool, std::function<void()> on_progress = {});

  // The stages of `layout` that are this node's; those that were there before end. Throws SetupError; weights
  // held so far are then still held.
  Engine::Stages make(const PipelineLayout& layout, Engine::Stages before);

 private:
  void tell_held(const std::vector<ShardSpec>& shards) const;
  const std::string node_;
  const Source source_;
  const ModelConfig& model_;
  const Kernels& kernels_;
  ThreadPool& pool_;
  const std::function<void()> on_progress_;
  HeldWeights held_;
};

}  // namespace shoal
