#include "sharding/held_weights.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "sharding/stage.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace shoal {
namespace {

struct Model {
  explicit Model(bool tied) {
    test::TinyModelOptions options;
    options.type = TensorType::kQ4_0;
    options.n_layer = 6;
    options.tied = tied;
    options.rope_freqs = true;
    test::write_tiny_model(path, options);
    file = GgufFile::open(path);
    config = ModelConfig::from(file);
  }
  // What a stage computes of some hidden rows, or of some tokens.
  std::vector<float> compute(ShardWeights weights) {
    const ShardSpec spec = weights.spec;
    Stage stage(config, std::move(weights), {64, 1, 8, KvType::kF16, 0}, select_kernels(), pool);
    AlignedBuffer hidden(sizeof(float) * 3 * static_cast<size_t>(config.n_embd));
    float* const values = hidden.as<float>();
    for (int i = 0; i < 3 * config.n_embd; ++i) values[i] = static_cast<float>(i % 17) * 0.1f - 0.8f;
    const std::vector<BatchRow> rows = {{5, 0, 0, false}, {7, 1, 0, false}, {11, 2, 0, spec.output}};
    std::vector<RowOutput> outputs;
    REQUIRE(stage.run({}, rows, 0, values, outputs).has_value());
    std::vector<float> result(values, values + 3 * config.n_embd);
    for (const RowOutput& output : outputs)
      for (const Candidate& candidate : output.candidates) result.push_back(candidate.logit);
    return result;
  }
  test::TempDir dir;
  std::string path = dir.file("tiny.gguf");
  GgufFile file;
  ModelConfig config;
  ThreadPool pool{2};
};

HeldWeights held_of(Model& model, const ShardSpec& spec) {
  HeldWeights held;
  held.add(load_shard(model.file, model.config, spec, model.pool));
  return held;
}

const std::vector<ShardSpec> kShards = {{true, {0, 6}, true},  {true, {0, 3}, false}, {false, {2, 5}, false},
                                        {false, {3, 6}, true}, {false, {6, 6}, true}, {true, {0, 1}, false}};

}  // namespace

TEST_CASE("a shard made of what is held and what is read computes what one read whole does") {
  for (const bool tied : {false, true}) {
    Model model(tied);
    for (const ShardSpec& before : kShards) {
      for (const ShardSpec& after : kShards) {
        HeldWeights held = held_of(model, before);
        held.keep_for(std::span(&after, 1));
        ShardWeights made = load_missing(model.file, model.config, after, model.pool, {}, held);
        CHECK(made.spec == after);
        const ShardWeights whole = load_shard(model.file, model.config, after, model.pool);
        CHECK(made.bytes() == whole.bytes());
        CHECK(model.compute(std::move(made)) ==
              model.compute(load_shard(model.file, model.config, after, model.pool)));
      }
    }
  }
}

TEST_CASE("layers that are held are not read again, and those that nobody needs are dropped") {
  Model model(true);
  HeldWeights held = held_of(model, {false, {1, 4}, false});
  const ShardSpec after{false, {2, 6}, false};
  held.keep_for(std::span(&after, 1));
  CHECK(held.layers.size() == 2);
  uint64_t read = 0;
  uint64_t before = 0;
  load_missing(
      model.file, model.config, after, model.pool,
      [&](uint64_t done, uint64_t) {
        read = std::max(read, done);
        before = done;
      },
      held);
  CHECK(before > 0);
  // Layers 4 and 5, and neither 2 nor 3.
  uint64_t two_layers = 0;
  for (const char* name : {"blk.4.attn_q.weight", "blk.5.attn_q.weight"})
    two_layers += model.file.tensor(name).bytes;
  CHECK(read < shard_bytes(model.file, model.config, after));
  CHECK(read >= two_layers);
  CHECK(held.layers.empty());
}

TEST_CASE("a shard that cannot be read leaves what is held") {
  Model model(true);
  HeldWeights held = held_of(model, {false, {1, 4}, false});
  std::error_code ignored;
  std::filesystem::resize_file(model.path, 1000, ignored);
  const ShardSpec after{false, {2, 6}, false};
  held.keep_for(std::span(&after, 1));
  CHECK_THROWS_AS(load_missing(model.file, model.config, after, model.pool, {}, held), SetupError);
  CHECK(held.layers.size() == 2);
}

TEST_CASE("a load that is ended keeps what was loaded whole") {
  Model model(true);
  HeldWeights held;
  const ShardSpec first{true, {0, 1}, false}, after{true, {0, 6}, false};
  const uint64_t ends = shard_bytes(model.file, model.config, first);
  const auto end_it = [&](uint64_t done, uint64_t) {
    if (done > ends) throw SetupError("over");
  };
  CHECK_THROWS_WITH_AS(load_missing(model.file, model.config, after, model.pool, end_it, held), "over",
                       SetupError);
  CHECK(held.layers.size() == 1);
  CHECK(held.missing(std::span(&after, 1)).size() == 5);
  const ShardWeights made = load_missing(model.file, model.config, after, model.pool, {}, held);
  CHECK(made.bytes() == shard_bytes(model.file, model.config, after));
}

}  // namespace shoal
