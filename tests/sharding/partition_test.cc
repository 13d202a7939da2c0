// The contract of a cut model: the same bits however it is divided, batched, chunked or threaded.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <random>
#include <string>
#include <vector>

#include "tests/sharding/stage_chain.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace shoal {
namespace {

using test::Answer;
using test::answer;
using test::Answers;
using test::feed;
using test::StageChain;

constexpr int kLayers = 6, kContext = 96, kSlots = 4, kTokens = 45;  // into the second page

struct Model {
  explicit Model(TensorType type = TensorType::kQ4_1, KvType cache = KvType::kF16) : cache(cache) {
    test::TinyModelOptions o;
    o.type = type;
    o.n_layer = kLayers;
    o.n_ff = 256;
    o.n_vocab = 300;
    test::write_tiny_model(dir.file("tiny.gguf"), o);
    file = GgufFile::open(dir.file("tiny.gguf"));
    config = ModelConfig::from(file);
  }
  StageChain chain(const std::vector<int>& cuts, int threads = 1,
                   const Kernels& kernels = select_kernels()) const {
    const StageOptions options{kContext, kSlots, 64, cache};
    return StageChain(file, config, cuts, options, kernels, threads);
  }

  KvType cache;
  test::TempDir dir;
  GgufFile file;
  ModelConfig config;
};

std::vector<int32_t> random_tokens(int n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(n);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 300);
  return tokens;
}

TEST_CASE("any cut, chunk, thread count and kernel table gives the same bits") {
  KvType cache = KvType::kF16;
  SUBCASE("f16") {}
  SUBCASE("q8_0") {
    cache = KvType::kQ8_0;
  }
  const Model model(TensorType::kQ4_1, cache);
  const std::vector<int32_t> tokens = random_tokens(kTokens, 1);
  StageChain whole = model.chain({0, kLayers}, 1, *available_kernels().front());
  const Answers expected = feed(whole, tokens, 1);
  for (const std::vector<int>& cuts : std::vector<std::vector<int>>{
           {0, 6}, {0, 3, 6}, {0, 1, 6}, {0, 2, 3, 6}, {0, 1, 2, 3, 5, 6}, {0, 0, 4, 6, 6}}) {
    for (const int threads : {1, 2, 3}) {
      StageChain chain = model.chain(cuts, threads);
      for (const int chunk : {1, 3, 7, kTokens}) {
        INFO((cuts.size() - 1), " stages, ", threads, " threads, chunks of ", chunk);
        REQUIRE(feed(chain, tokens, chunk) == expected);
      }
    }
  }
  for (const Kernels* kernels : available_kernels()) {
    INFO(std::string(kernels->name));
    StageChain chain = model.chain({0, 2, 6}, 2, *kernels);
    REQUIRE(feed(chain, tokens, 11) == expected);
  }
}

TEST_CASE("sequences in one batch do not touch each other") {
  KvType cache = KvType::kF16;
  SUBCASE("f16") {}
  SUBCASE("q8_0") {
    cache = KvType::kQ8_0;
  }
  const Model model(TensorType::kQ4_1, cache);
  StageChain alone = model.chain({0, kLayers}), together = model.chain({0, 2, 6}, 2);
  std::vector<std::vector<int32_t>> sequences;
  std::vector<Answers> expected, got(3);
  for (int s = 0; s < 3; ++s) {
    sequences.push_back(random_tokens(20 + 10 * s, 10 + s));
    expected.push_back(feed(alone, sequences.back(), 7));
  }
  // Each step takes a few rows of every sequence that has some left, in mixed order.
  std::mt19937 random(4);
  for (std::vector<size_t> next(3, 0); got[2].size() < sequences[2].size();) {
    std::vector<BatchRow> rows;
    for (int i = 0; i < 12; ++i) {
      const int s = static_cast<int>(random() % 3);
      if (next[s] == sequences[s].size()) continue;
      rows.push_back({sequences[s][next[s]], static_cast<int32_t>(next[s]), s + 1, true});
      ++next[s];
    }
    REQUIRE(together.run({}, rows, 0).has_value());
    for (size_t r = 0; r < rows.size(); ++r)
      got[rows[r].slot - 1].push_back(answer(together, r, rows.size()));
  }
  CHECK(got == expected);
}

TEST_CASE("fork, trim and an earlier first position continue as if the sequence had been fed afresh") {
  KvType cache = KvType::kF16;
  SUBCASE("f16") {}
  SUBCASE("q8_0") {
    cache = KvType::kQ8_0;
  }
  const Model model(TensorType::kQ8_0, cache);
  StageChain fresh = model.chain({0, kLayers}), chain = model.chain({0, 3, 6});
  const std::vector<int32_t> first = random_tokens(kTokens, 1);
  std::vector<int32_t> other = random_tokens(kTokens, 2);
  constexpr int kShared = 37;
  std::copy_n(first.begin(), kShared, other.begin());
  const Answers expected_first = feed(fresh, first, 8), expected_other = feed(fresh, other, 8);
  const auto from = [](const Answers& all, int begin) { return Answers(all.begin() + begin, all.end()); };

  REQUIRE(feed(chain, first, 45, 0) == expected_first);
  // A fork shares a page in the middle; both sides then write to it.
  const CacheOp fork{CacheOpKind::kFork, 2, 0, kShared};
  CHECK(feed(chain, other, 3, 2, kShared, {fork}) == from(expected_other, kShared));
  CHECK(feed(chain, first, 4, 0, 33) == from(expected_first, 33));  // implied trim
  CHECK(feed(chain, other, 1, 2, 40, {{CacheOpKind::kTrim, 2, 0, 40}}) == from(expected_other, 40));
  CHECK(feed(chain, other, 9, 0, 0, {{CacheOpKind::kFree, 0, 0, 0}}) == expected_other);
  CHECK(chain.stage(0).cache().length(1) == 0);
}

TEST_CASE("only the rows that ask get outputs, with as many candidates as wanted") {
  const Model model;
  StageChain chain = model.chain({0, 2, 6});
  const std::vector<int32_t> tokens = random_tokens(30, 3);
  const Answers all = feed(chain, tokens, 30);
  std::vector<BatchRow> rows;
  for (int p = 0; p < 30; ++p) rows.push_back({tokens[p], p, 1, p % 3 == 1});
  REQUIRE(chain.run({}, rows, 5).has_value());
  REQUIRE(chain.outputs().size() == 10);  // more than the output head takes at once
  for (size_t i = 0; i < 10; ++i) {
    const RowOutput& output = chain.outputs()[i];
    CHECK(output.row == static_cast<int32_t>(3 * i + 1));
    REQUIRE(output.candidates.size() == 5);
    const Answer& full = all[3 * i + 1];
    const size_t first_output = full.bits.size() - 2 * 300 - 1;
    CHECK(full.bits[first_output] == std::bit_cast<uint32_t>(output.log_sum_exp));
    for (size_t c = 0; c < 5; ++c) {
      CHECK(full.bits[first_output + 1 + 2 * c] == static_cast<uint32_t>(output.candidates[c].token));
      CHECK(full.bits[first_output + 2 + 2 * c] == std::bit_cast<uint32_t>(output.candidates[c].logit));
    }
  }
  REQUIRE(chain.run({}, std::vector<BatchRow>{{tokens[0], 0, 1, false}}, 5).has_value());
  CHECK(chain.outputs().empty());
}

}  // namespace
}  // namespace shoal
