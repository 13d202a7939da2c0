// A model cut into stages that one process runs one after another, as a cluster would.
#pragma once

#include <doctest/doctest.h>

#include <memory>
#include <span>
#include <vector>

#include "sharding/stage.h"

namespace shoal::test {

class StageChain {
 public:
  // cuts = {0, 2, 5} makes stages of layers [0, 2) and [2, 5); the first embeds, the last has the output
  // head.
  StageChain(const GgufFile& file, const ModelConfig& config, const std::vector<int>& cuts,
             const StageOptions& options, const Kernels& kernels, int threads)
      : config_(config), pool_(threads), hidden_(sizeof(float) * options.rows_max * config.n_embd) {
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      const ShardSpec spec{i == 0, {cuts[i], cuts[i + 1]}, i + 2 == cuts.size()};
      stages_.push_back(
          std::make_unique<Stage>(config, load_shard(file, config, spec, pool_), options, kernels, pool_));
    }
  }

  Result<void> run(std::span<const CacheOp> ops, std::span<const BatchRow> rows, int candidates,
                   StepKind kind = StepKind::kDecode) {
    for (const std::unique_ptr<Stage>& stage : stages_)
      if (Result<void> done = stage->run(ops, rows, candidates, hidden_.as<float>(), outputs_, kind); !done)
        return done;
    return {};
  }

  Stage& stage(size_t i) { return *stages_[i]; }
  std::span<const float> hidden(size_t rows) const { return {hidden_.as<float>(), rows * config_.n_embd}; }
  const std::vector<RowOutput>& outputs() const { return outputs_; }

 private:
  ModelConfig config_;
  ThreadPool pool_;
  AlignedBuffer hidden_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::vector<RowOutput> outputs_;
};

}  // namespace shoal::test
