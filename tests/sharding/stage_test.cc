// A stage refuses what does not fit, and is then as it was.
#include "sharding/stage.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/sharding/stage_chain.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace shoal {
namespace {

struct Fixture {
  Fixture() {
    test::write_tiny_model(dir.file("tiny.gguf"), {});
    file = GgufFile::open(dir.file("tiny.gguf"));
    config = ModelConfig::from(file);
  }
  test::TempDir dir;
  GgufFile file;
  ModelConfig config;
};

constexpr StageOptions kOptions{40, 2, 16};

std::vector<BatchRow> rows_at(int slot, int first, int n) {
  std::vector<BatchRow> rows;
  for (int i = 0; i < n; ++i) rows.push_back({5 + i, first + i, slot, i == n - 1});
  return rows;
}

TEST_CASE_FIXTURE(Fixture, "a step that does not fit is refused, says where, and changes nothing") {
  test::StageChain chain(file, config, {0, 2}, kOptions, select_kernels(), 1);
  const KvCache& cache = chain.stage(0).cache();
  REQUIRE(chain.run({}, rows_at(0, 0, 10), 3).has_value());

  struct Bad {
    std::vector<CacheOp> ops;
    std::vector<BatchRow> rows;
    int candidates;
    const char* says;
    Errc code = Errc::kInvalidInput;
  };
  const CacheOp free0{CacheOpKind::kFree, 0, 0, 0};
  const std::vector<BatchRow> good = rows_at(0, 10, 1);
  const std::vector<Bad> steps = {
      {{free0}, {{5, 0, 2, true}}, 1, "row 0 (slot 2, position 0)"},
      {{free0}, {{5, 0, -1, true}}, 1, "slot -1"},
      {{free0}, {{5, -1, 0, true}}, 1, "negative"},
      {{free0}, {{5, 1, 0, true}}, 1, "holds only 0"},
      {{}, {{5, 11, 0, true}}, 1, "holds only 10"},
      {{}, {{5, 10, 0, false}, {5, 12, 0, true}}, 1, "row 1 (slot 0, position 12): expected position 11"},
      {{}, {{5, 10, 0, false}, {5, 10, 0, true}}, 1, "expected position 11"},
      {{}, {{config.n_vocab, 10, 0, true}}, 1, "not in the vocabulary"},
      {{}, {{-1, 10, 0, true}}, 1, "token -1"},
      {{}, {{5, 40, 0, true}}, 1, "context", Errc::kContextFull},
      {{}, rows_at(0, 10, 17), 1, "at most 16"},
      {{}, good, -1, "candidates"},
      {{{CacheOpKind::kTrim, 2, 0, 1}}, good, 1, "slot 2"},
      {{{CacheOpKind::kTrim, 0, 0, -1}}, good, 1, "-1 positions"},
      {{free0, {CacheOpKind::kFork, 1, 0, 5}}, {}, 1, "holds 0"},
      {{{CacheOpKind::kFork, 1, 2, 5}}, {}, 1, "from slot 2"},
      {{{CacheOpKind::kFork, 1, 0, 11}}, {}, 1, "holds 10"},
      {{{CacheOpKind::kFork, 1, 0, -1}}, {}, 1, "-1 positions"},
      {{{static_cast<CacheOpKind>(9), 1, 0, 1}}, {}, 1, "unknown kind 9"},
  };
  for (const Bad& step : steps) {
    const Result<void> refused = chain.run(step.ops, step.rows, step.candidates);
    INFO(std::string(step.says));
    REQUIRE(refused.has_error());
    CHECK(refused.error().code == step.code);
    CHECK(refused.error().message.find(step.says) != std::string::npos);
    CHECK(cache.length(0) == 10);
    CHECK(cache.length(1) == 0);
  }

  REQUIRE(chain.run({}, good, 3).has_value());
  const Candidate best = chain.outputs()[0].candidates[0];
  test::StageChain fresh(file, config, {0, 2}, kOptions, select_kernels(), 1);
  REQUIRE(fresh.run({}, rows_at(0, 0, 10), 3).has_value());
  REQUIRE(fresh.run({}, good, 3).has_value());
  CHECK(fresh.outputs()[0].candidates[0].token == best.token);
  CHECK(fresh.outputs()[0].candidates[0].logit == best.logit);
}

TEST_CASE_FIXTURE(Fixture, "hidden that is not finite is refused") {
  ThreadPool pool(1);
  Stage stage(config, load_shard(file, config, {false, {1, 2}, true}, pool), kOptions, select_kernels(),
              pool);
  AlignedBuffer buffer(sizeof(float) * 2 * config.n_embd);
  float* hidden = buffer.as<float>();
  std::vector<RowOutput> outputs;
  for (const float broken : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::quiet_NaN()}) {
    hidden[config.n_embd + 17] = broken;
    const Result<void> refused = stage.run({}, rows_at(0, 0, 2), 1, hidden, outputs);
    REQUIRE(refused.has_error());
    CHECK(refused.error().message.find("row 1") != std::string::npos);
    CHECK(stage.cache().length(0) == 0);
  }
  hidden[config.n_embd + 17] = 1;
  CHECK(stage.run({}, rows_at(0, 0, 2), 1, hidden, outputs).has_value());
  CHECK(outputs.size() == 1);
}

TEST_CASE("K and V that are not finite are seen in what a step computes, whatever the cache keeps them as") {
  const test::TempDir dir;
  for (const char* tensor : {"blk.1.attn_k.weight", "blk.1.attn_v.weight", "blk.1.attn_q.weight"}) {
    test::GgufWriter writer = test::tiny_model({});
    // The last of a row; this NaN becomes -1.5 where exp adds an exponent to its bits.
    std::string& data = writer.tensor(tensor).data;
    data.replace(1020, 4, test::GgufWriter::pod(0x7fc00080u));
    writer.write(dir.file("broken.gguf"));
    const GgufFile file = GgufFile::open(dir.file("broken.gguf"));
    const ModelConfig config = ModelConfig::from(file);
    for (const KvType type : {KvType::kF16, KvType::kQ8_0}) {
      for (const Kernels* kernels : available_kernels()) {
        StageOptions options = kOptions;
        options.kv_type = type;
        test::StageChain chain(file, config, {0, 2}, options, *kernels, 1);
        CAPTURE(tensor);
        CAPTURE(static_cast<int>(type));
        CAPTURE(kernels->name);
        const Result<void> refused = chain.run({}, rows_at(0, 0, 10), 3);
        REQUIRE(refused.has_error());
        CHECK(refused.error().message.find("not finite") != std::string::npos);
        CHECK(chain.stage(0).fault() == NumericFault::kOutput);
        CHECK(chain.stage(0).cache().length(0) == 0);
      }
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "a step may consist of cache operations alone") {
  test::StageChain chain(file, config, {0, 1, 2}, kOptions, select_kernels(), 1);
  REQUIRE(chain.run({}, rows_at(0, 0, 12), 1).has_value());
  const std::vector<CacheOp> ops = {{CacheOpKind::kFork, 1, 0, 7}, {CacheOpKind::kTrim, 0, 0, 4}};
  REQUIRE(chain.run(ops, {}, 1).has_value());
  CHECK(chain.outputs().empty());
  for (size_t i = 0; i < 2; ++i) {
    CHECK(chain.stage(i).cache().length(0) == 4);
    CHECK(chain.stage(i).cache().length(1) == 7);
  }
}

TEST_CASE_FIXTURE(Fixture, "memory figures: what a stage has is what the planner was told") {
  ThreadPool pool(2);
  const ShardSpec spec{false, {1, 2}, true};
  Stage stage(config, load_shard(file, config, spec, pool), kOptions, select_kernels(), pool);
  CHECK(stage.weight_bytes() == shard_bytes(file, config, spec));
  CHECK(stage.kv_bytes() == KvCache::bytes(config, 1, 2, 40, 2));
  CHECK(stage.scratch_bytes() == Stage::scratch_bytes(config, spec, kOptions, 2));
  // A stage without layers needs none of the layers' buffers.
  CHECK(Stage::scratch_bytes(config, {true, {0, 0}, false}, {4096, 8, 512}, 2) <
        Stage::scratch_bytes(config, {true, {0, 1}, false}, {4096, 8, 512}, 2) / 8);
}

}  // namespace
}  // namespace shoal
