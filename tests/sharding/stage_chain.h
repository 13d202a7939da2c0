// A model cut into stages that one process runs one after another, as a cluster would.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "sharding/lora_shard.h"
#include "sharding/stage.h"

namespace shoal::test {

class StageChain {
 public:
  // cuts = {0, 2, 5} makes stages of layers [0, 2) and [2, 5); the first embeds, the last has the output
  // head.
  StageChain(const GgufFile& file, const ModelConfig& config, const std::vector<int>& cuts,
             const StageOptions& options, const Kernels& kernels, int threads,
             std::span<const LoraFile> adapters = {})
      : config_(config), pool_(threads), hidden_(sizeof(float) * options.rows_max * config.n_embd) {
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      const ShardSpec spec{i == 0, {cuts[i], cuts[i + 1]}, i + 2 == cuts.size()};
      ShardWeights weights = load_shard(file, config, spec, pool_);
      for (const LoraFile& adapter : adapters)
        weights.adapters.push_back(load_lora(adapter, config, spec.layers));
      stages_.push_back(std::make_unique<Stage>(config, std::move(weights), options, kernels, pool_));
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

// Bits of hidden and of every output of one position.
struct Answer {
  std::vector<uint32_t> bits;
  bool operator==(const Answer&) const = default;
};
using Answers = std::vector<Answer>;

inline Answer answer(const StageChain& chain, size_t row, size_t n_rows) {
  Answer a;
  const size_t n_embd = chain.hidden(n_rows).size() / n_rows;
  for (const float x : chain.hidden(n_rows).subspan(row * n_embd, n_embd))
    a.bits.push_back(std::bit_cast<uint32_t>(x));
  const auto output = std::find_if(chain.outputs().begin(), chain.outputs().end(),
                                   [&](const RowOutput& o) { return o.row == static_cast<int32_t>(row); });
  REQUIRE(output != chain.outputs().end());
  a.bits.push_back(std::bit_cast<uint32_t>(output->log_sum_exp));
  for (const Candidate& c : output->candidates) {
    a.bits.push_back(static_cast<uint32_t>(c.token));
    a.bits.push_back(std::bit_cast<uint32_t>(c.logit));
  }
  return a;
}

// Tokens from position `first` on in one slot, `chunk` rows a step; the answers of all of them.
inline Answers feed(StageChain& chain, const std::vector<int32_t>& tokens, int chunk, int slot = 0,
                    int first = 0, std::vector<CacheOp> ops = {}) {
  Answers answers;
  for (int begin = first; begin < static_cast<int>(tokens.size()); begin += chunk) {
    std::vector<BatchRow> rows;
    for (int p = begin; p < std::min<int>(begin + chunk, static_cast<int>(tokens.size())); ++p)
      rows.push_back({tokens[p], p, slot, true});
    REQUIRE(chain.run(ops, rows, 0).has_value());
    ops.clear();
    for (size_t r = 0; r < rows.size(); ++r) answers.push_back(answer(chain, r, rows.size()));
  }
  return answers;
}

}  // namespace shoal::test
