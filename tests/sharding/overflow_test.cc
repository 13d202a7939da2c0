// Rows whose numbers are not finite behind an adapter: told, zero, and nothing to the rows beside them.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "tests/sharding/stage_chain.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_families.h"
#include "tests/support/tiny_lora.h"

namespace shoal {
namespace {

using test::StageChain;

constexpr int kSound = 1, kHuge = 2;

struct Model {
  Model() {
    const test::TinyFamily& family = test::tiny_family("llama");
    test::write_tiny_model(dir.file("tiny.gguf"), family.options);
    file = GgufFile::open(dir.file("tiny.gguf"));
    config = ModelConfig::from(file);
    for (const int token : test::family_prompt(family)) tokens.push_back(token);
    add("sound", {});
    add("huge", {.deviation = 1e30f});
  }
  void add(const std::string& name, const test::TinyLoraOptions& options) {
    test::tiny_lora(config, options).write(dir.file(name));
    adapters.push_back(LoraFile::open(name, dir.file(name), config));
  }
  StageChain chain(const std::vector<int>& cuts) const {
    return StageChain(file, config, cuts, {test::kFamilyContext, 4, 64}, select_kernels(), 2, adapters);
  }
  // The next `count` rows of a sequence; its slot says behind which adapter.
  void add_rows(std::vector<BatchRow>& rows, int slot, int begin, int count) const {
    const int adapter = slot == 1 ? kHuge : slot == 2 ? kSound : 0;
    for (int p = begin; p < begin + count; ++p)
      rows.push_back({tokens[static_cast<size_t>(p)], p, slot, true, adapter, 1});
  }

  test::TempDir dir;
  GgufFile file;
  ModelConfig config;
  std::vector<LoraFile> adapters;
  std::vector<int32_t> tokens;
};

std::vector<test::Answer> answers_of(StageChain& chain, const std::vector<BatchRow>& rows, int slot) {
  std::vector<test::Answer> answers;
  for (size_t r = 0; r < rows.size(); ++r)
    if (rows[r].slot == slot) answers.push_back(test::answer(chain, r, rows.size()));
  return answers;
}

std::vector<int32_t> overflowed(StageChain& chain, size_t stage) {
  const std::span<const int32_t> rows = chain.stage(stage).overflowed();
  return {rows.begin(), rows.end()};
}

TEST_CASE("a row that overflows behind an adapter is told, and the rows beside it are as without it") {
  const Model model;
  const int n = model.config.n_layer;
  for (const std::vector<int>& cuts : std::vector<std::vector<int>>{{0, n}, {0, 1, n}, {0, 0, n, n}}) {
    StageChain alone = model.chain(cuts), together = model.chain(cuts);
    const size_t first = cuts.size() == 4 ? 1 : 0;  // that has layers
    for (int begin = 0; begin < 12; begin += 4) {
      std::vector<BatchRow> sound, all;
      model.add_rows(sound, 0, begin, 4);
      model.add_rows(sound, 2, begin, 4);
      model.add_rows(all, 0, begin, 4);
      model.add_rows(all, 1, begin, 4);
      model.add_rows(all, 2, begin, 4);
      REQUIRE(alone.run({}, sound, 0).has_value());
      REQUIRE(together.run({}, all, 0).has_value());
      CHECK(overflowed(together, first) == std::vector<int32_t>{4});
      for (const int slot : {0, 2}) CHECK(answers_of(together, all, slot) == answers_of(alone, sound, slot));
      for (const RowOutput& output : together.outputs()) {
        CHECK(std::isfinite(output.log_sum_exp));
        CHECK(output.candidates.size() == static_cast<size_t>(model.config.n_vocab));
      }
    }
    // The slot begins anew without the adapter.
    StageChain fresh = model.chain(cuts);
    std::vector<BatchRow> rows;
    model.add_rows(rows, 1, 0, 9);
    for (BatchRow& row : rows) row.adapter = 0;
    REQUIRE(fresh.run({}, rows, 0).has_value());
    REQUIRE(together.run({}, rows, 0).has_value());
    CHECK(overflowed(together, first).empty());
    CHECK(answers_of(together, rows, 1) == answers_of(fresh, rows, 1));
  }
}

TEST_CASE("logits that are not finite behind an adapter are zero, in order, and no more than were wanted") {
  const Model model;
  const int n = model.config.n_layer;
  StageChain chain = model.chain({0, n});
  std::vector<BatchRow> rows;
  model.add_rows(rows, 1, 0, 3);
  REQUIRE(chain.run({}, rows, 5).has_value());
  for (const RowOutput& output : chain.outputs()) {
    REQUIRE(output.candidates.size() == 5);
    for (size_t i = 1; i < 5; ++i) CHECK(better(output.candidates[i - 1], output.candidates[i]));
  }
  for (const float value : chain.hidden(rows.size())) CHECK(value == 0);
}

}  // namespace
}  // namespace shoal
