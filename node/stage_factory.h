// Builds a node's stages for a layout, on its engine thread, and again for the next one: weights that are in
// memory and needed again stay there. Adapters are read anew each time: they are small.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "model/gguf_file.h"
#include "model/lora_file.h"
#include "model/model_config.h"
#include "node/engine.h"
#include "node/node_weights.h"
#include "node/pipeline_layout.h"
#include "sharding/held_weights.h"
#include "tensor/kernels.h"
#include "tensor/thread_pool.h"

namespace shoal {

class StageFactory {
 public:
  struct Needs {
    std::span<const ShardSpec> shards;   // all that this node is to have
    std::span<const ShardSpec> missing;  // what of them it does not hold
    std::stop_token stop;                // when it is not needed any more
  };
  // Where weights come from that this node does not hold.
  struct Source {
    const GgufFile& file;           // where there is none: a manifest's header
    BlockSource* blocks = nullptr;  // null: the file
    std::span<const LoraFile> adapters = {};
    std::span<const std::shared_ptr<NodeWeights>> adapter_weights = {};  // of each; none: their files
    // Brings weights here before they are read: the model's of what is missing, and the adapters' of all
    // shards. Throws SetupError.
    std::function<void(const PipelineLayout&, const Needs&)> fetch = {};
  };
  // All of it outlives the factory. `on_progress` is called while weights are read.
  StageFactory(std::string node, Source source, const ModelConfig& model, const Kernels& kernels,
               ThreadPool& pool, std::function<void()> on_progress = {});

  // The stages of `layout` that are this node's; those that were there before end. Throws SetupError, and
  // soon where `stop` is requested; weights held or loaded so far are then held.
  Engine::Stages make(const PipelineLayout& layout, Engine::Stages before, const std::stop_token& stop = {});

 private:
  void check(const PipelineLayout& layout) const;
  std::vector<LoraWeights> load_adapters(const LayerRange& layers) const;
  std::pair<int, std::unique_ptr<Stage>> make_stage(const PipelineLayout& layout, int index,
                                                    std::shared_ptr<const WeightMatrix>& embedding,
                                                    const std::stop_token& stop);
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
