#include "node/stage_factory.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <utility>
#include <vector>

#include "base/error.h"
#include "node/cluster_config.h"
#include "node/progress.h"
#include "sharding/lora_shard.h"

namespace shoal {

namespace {

// Found so far. Of weights that come from a file alone there is no manifest to compare with.
uint64_t bad_blocks(const BlockSource* blocks) {
  const auto* weights = dynamic_cast<const NodeWeights*>(blocks);
  return weights == nullptr ? 0 : weights->bad_blocks();
}

void end_where(const std::stop_token& stop) {
  if (stop.stop_requested()) throw SetupError("the plan is over", kExitFailed);
}

}  // namespace

StageFactory::StageFactory(std::string node, Source source, const ModelConfig& model, const Kernels& kernels,
                           ThreadPool& pool, std::function<void()> on_progress)
    : node_(std::move(node)),
      source_(std::move(source)),
      model_(model),
      kernels_(kernels),
      pool_(pool),
      on_progress_(std::move(on_progress)) {}

void StageFactory::tell_held(const std::vector<ShardSpec>& shards) const {
  int wanted = 0;
  for (const ShardSpec& shard : shards) wanted += shard.layers.size();
  spdlog::info("in memory already: {} of {} layers", held_.layers.size(), wanted);
}

// A plan of a head that was started again may be for other files than this node was given.
void StageFactory::check(const PipelineLayout& layout) const {
  if (layout.n_embd != model_.n_embd || layout.n_vocab != model_.n_vocab ||
      layout.shard_of_stage.back().layers.end != model_.n_layer)
    throw SetupError(fmt::format("the plan is for another model than {}", source_.file.path()), kExitFailed);
  if (layout.adapters != static_cast<int>(source_.adapters.size()) ||
      layout.adapters_hash != adapters_hash(source_.adapter_weights)) {
    throw SetupError(
        fmt::format("the plan is for other adapters than node {} has: start the node again", node_),
        kExitFailed);
  }
}

std::vector<LoraWeights> StageFactory::load_adapters(const LayerRange& layers) const {
  std::vector<LoraWeights> loaded;
  for (size_t i = 0; i < source_.adapters.size(); ++i) {
    BlockSource* blocks = source_.adapter_weights.empty() ? nullptr : source_.adapter_weights[i].get();
    loaded.push_back(load_lora(source_.adapters[i], model_, layers, blocks));
    // A node keeps few connections of another, and there may be many adapters.
    if (!source_.adapter_weights.empty()) source_.adapter_weights[i]->end_links();
  }
  return loaded;
}

std::pair<int, std::unique_ptr<Stage>> StageFactory::make_stage(
    const PipelineLayout& layout, int index, std::shared_ptr<const WeightMatrix>& embedding,
    const std::stop_token& stop) {
  const ShardSpec& shard = layout.shard_of_stage[static_cast<size_t>(index)];
  const StageOptions options{layout.context, layout.slots, layout.rows_max,
                             parse_kv_cache(layout.kv_cache, "the plan's kv_cache"), layout.kv_cells};
  ProgressLine progress(fmt::format("loading layers {}-{}", shard.layers.begin, shard.layers.end - 1));
  std::vector<LoraWeights> adapters = load_adapters(shard.layers);  // before anything that is held moves
  ShardWeights weights = load_missing(
      source_.file, model_, shard, pool_,
      [&](uint64_t done, uint64_t total) {
        progress.update(done, total);
        if (on_progress_) on_progress_();
        end_where(stop);
      },
      held_, embedding, source_.blocks);
  if (weights.token_embd) embedding = weights.token_embd;
  weights.adapters = std::move(adapters);
  return {index, std::make_unique<Stage>(model_, std::move(weights), options, kernels_, pool_)};
}

Engine::Stages StageFactory::make(const PipelineLayout& layout, Engine::Stages before,
                                  const std::stop_token& stop) {
  for (auto& [index, stage] : before) held_.add(stage->release_weights());
  before.clear();  // caches and activations go before anything is read
  end_where(stop);
  check(layout);
  std::vector<int> mine;
  std::vector<ShardSpec> shards;
  for (int i = 0; i <= layout.last_stage(); ++i) {
    if (layout.node_of_stage[static_cast<size_t>(i)] != node_) continue;
    shards.push_back(layout.shard_of_stage[static_cast<size_t>(i)]);
    mine.push_back(i);
  }
  const uint64_t bad_before = bad_blocks(source_.blocks);
  held_.keep_for(shards);
  if (!held_.layers.empty()) tell_held(shards);
  if (source_.fetch) {
    const std::vector<ShardSpec> missing = held_.missing(shards);
    source_.fetch(layout, {shards, missing, stop});
  }
  Engine::Stages stages;
  std::shared_ptr<const WeightMatrix> embedding;  // that another stage of this node has already
  try {
    for (const int index : mine) stages.push_back(make_stage(layout, index, embedding, stop));
  } catch (...) {
    for (auto& [index, stage] : stages) held_.add(stage->release_weights());
    throw;
  }
  held_ = {};
  if (const uint64_t bad = bad_blocks(source_.blocks) - bad_before; bad > 0) {
    spdlog::warn(
        "node {}: {} block{} of these weights {} not what the manifest says; none was used, all came from "
        "others",
        node_, bad, bad == 1 ? "" : "s", bad == 1 ? "was" : "were");
  }
  return stages;
}

}  // namespace shoal
