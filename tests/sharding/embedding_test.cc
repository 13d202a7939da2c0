// Embeddings and reranking scores: BERT, nomic-bert and a T5 encoder against llama.cpp on the same files
// (tools/make_bert_fixtures.py and make_t5_fixtures.py made them), pooling of decoders' rows, and the same
// bits however a model is cut, batched, chunked or threaded.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "tests/sharding/stage_chain.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace shoal {
namespace {

using test::StageChain;
using Vector = std::vector<float>;

const std::string kFixtures = std::string(SHOAL_SOURCE_DIR) + "/tests/sharding/fixtures/";
constexpr int kContext = 64, kSlots = 4;

struct Model {
  explicit Model(const std::string& path) : file(GgufFile::open(path)), config(ModelConfig::from(file)) {}
  StageChain chain(const std::vector<int>& cuts, int threads = 1,
                   const Kernels& kernels = select_kernels()) const {
    return StageChain(file, config, cuts, {kContext, kSlots, 96}, kernels, threads);
  }
  GgufFile file;
  ModelConfig config;
};

std::vector<BatchRow> rows_of(const std::vector<int32_t>& tokens, int slot, int first = 0, int n = -1) {
  std::vector<BatchRow> rows;
  const int end =
      n < 0 ? static_cast<int>(tokens.size()) : std::min<int>(first + n, static_cast<int>(tokens.size()));
  for (int p = first; p < end; ++p)
    rows.push_back({tokens[static_cast<size_t>(p)], p, slot, p + 1 == static_cast<int>(tokens.size())});
  return rows;
}

Vector embedding(StageChain& chain, const std::vector<int32_t>& tokens, int slot = 0) {
  REQUIRE(chain.run({}, rows_of(tokens, slot), 1, StepKind::kEmbed).has_value());
  REQUIRE(chain.outputs().size() == 1);
  CHECK(chain.outputs()[0].row == static_cast<int>(tokens.size()) - 1);
  return chain.outputs()[0].embedding;
}

bool same_bits(const Vector& a, const Vector& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
    return std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y);
  });
}

std::vector<int32_t> random_tokens(int n, unsigned seed, int below) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  for (int32_t& token : tokens) token = static_cast<int32_t>(5 + random() % static_cast<unsigned>(below - 5));
  return tokens;
}

double cosine(const Vector& a, const std::vector<double>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += a[i] * b[i];
    aa += static_cast<double>(a[i]) * a[i];
    bb += b[i] * b[i];
  }
  return ab / std::sqrt(aa * bb);
}

const std::vector<std::string> kModels = {"bert_mean.gguf", "bert_rank.gguf", "nomic_bert.gguf",
                                          "t5_encoder.gguf"};

// How many vectors of a file were compared.
int compare_with_expected(const std::string& expected_file) {
  std::ifstream in(kFixtures + expected_file);
  REQUIRE(in.good());
  std::unique_ptr<Model> model;
  std::vector<int32_t> input;
  std::string line, what, name;
  int compared = 0;
  while (std::getline(in, line)) {
    std::istringstream words(line);
    words >> what;
    if (what == "model") {
      words >> name;
      model = std::make_unique<Model>(kFixtures + name);
    } else if (what == "input") {
      input.clear();
      for (int32_t token; words >> token;) input.push_back(token);
    } else {
      REQUIRE(what == "vector");
      std::vector<double> expected;
      for (double value; words >> value;) expected.push_back(value);
      StageChain chain = model->chain({0, model->config.n_layer});
      const Vector got = embedding(chain, input);
      REQUIRE(got.size() == expected.size());
      double worst = 0;
      for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - expected[i]));
      CAPTURE(name);
      CAPTURE(input.size());
      CHECK(worst < 0.02);  // llama.cpp's GELU and F16 products are rounded to halves
      if (got.size() > 1) CHECK(cosine(got, expected) > 0.9999);
      ++compared;
    }
  }
  return compared;
}

TEST_CASE("embeddings and scores of llama.cpp") {
  CHECK(compare_with_expected("embedding_expected.txt") == 9);
  CHECK(compare_with_expected("t5_encoder_expected.txt") == 3);
}

TEST_CASE("an encoder's embedding has the same bits for any cut, thread count and kernel table") {
  for (const std::string& name : kModels) {
    const Model model(kFixtures + name);
    const std::vector<int32_t> tokens = random_tokens(50, 3, model.config.n_vocab);
    StageChain whole = model.chain({0, 3}, 1, *available_kernels().front());
    const Vector expected = embedding(whole, tokens);
    CAPTURE(name);
    for (const std::vector<int>& cuts :
         std::vector<std::vector<int>>{{0, 1, 3}, {0, 1, 2, 3}, {0, 0, 2, 3, 3}}) {
      for (const int threads : {1, 3}) {
        StageChain chain = model.chain(cuts, threads);
        CHECK(same_bits(embedding(chain, tokens), expected));
      }
    }
    for (const Kernels* kernels : available_kernels()) {
      StageChain chain = model.chain({0, 2, 3}, 2, *kernels);
      CHECK(same_bits(embedding(chain, tokens), expected));
    }
  }
}

TEST_CASE("texts in one step do not touch each other") {
  const Model model(kFixtures + "bert_mean.gguf");
  StageChain alone = model.chain({0, 3}), together = model.chain({0, 2, 3}, 2);
  std::vector<Vector> expected;
  std::vector<BatchRow> rows;
  for (int s = 0; s < 3; ++s) {
    const std::vector<int32_t> tokens =
        random_tokens(10 + 17 * s, 20u + static_cast<unsigned>(s), model.config.n_vocab);
    expected.push_back(embedding(alone, tokens));
    const std::vector<BatchRow> more = rows_of(tokens, 2 - s);
    rows.insert(rows.end(), more.begin(), more.end());
  }
  REQUIRE(together.run({}, rows, 1, StepKind::kEmbed).has_value());
  REQUIRE(together.outputs().size() == 3);
  for (size_t s = 0; s < 3; ++s) CHECK(same_bits(together.outputs()[s].embedding, expected[s]));
}

TEST_CASE("a pair's second part has another type where the model knows types") {
  const Model model(kFixtures + "bert_rank.gguf");
  REQUIRE(model.config.n_token_types == 2);
  REQUIRE(model.config.separator_token == 3);
  StageChain chain = model.chain({0, 3});
  const std::vector<int32_t> pair = {2, 10, 11, 3, 12, 13, 3};
  const Vector score = embedding(chain, pair);
  // The same tokens with another separator in the middle are of one type.
  ModelConfig plain = model.config;
  plain.separator_token = -1;
  StageChain one_type(model.file, plain, {0, 3}, {kContext, kSlots, 96}, select_kernels(), 1);
  CHECK_FALSE(same_bits(embedding(one_type, pair), score));
  CHECK(same_bits(embedding(one_type, {2, 10, 11, 12, 3}), embedding(chain, {2, 10, 11, 12, 3})));
}

TEST_CASE("what an encoder cannot do is refused") {
  const Model model(kFixtures + "bert_mean.gguf");
  StageChain chain = model.chain({0, 3});
  const std::vector<int32_t> tokens = random_tokens(10, 1, model.config.n_vocab);
  CHECK(chain.run({}, rows_of(tokens, 0), 1).error().message.find("no decoder") != std::string::npos);
  CHECK(chain.run({}, rows_of(tokens, 0, 3), 1, StepKind::kEmbed).has_error());
  std::vector<BatchRow> mixed = rows_of(tokens, 0);
  mixed.insert(mixed.begin() + 4, {tokens[0], 0, 1, true});
  CHECK(chain.run({}, mixed, 1, StepKind::kEmbed).error().message.find("stands apart") != std::string::npos);
  const Model t5(kFixtures + "t5_gated.gguf");
  StageChain both = t5.chain({0, t5.config.n_layer});
  CHECK(both.run({}, rows_of(tokens, 0), 1, StepKind::kEmbed).error().message.find("serves its decoder") !=
        std::string::npos);
}

// A decoder's rows may come in chunks, beside other sequences, in any cut.
TEST_CASE("a decoder's embedding has the same bits for any chunk and cut") {
  test::TempDir dir;
  test::TinyModelOptions options;
  options.n_layer = 4;
  options.n_embd = 64;
  options.n_ff = 96;
  options.n_vocab = 300;
  for (const uint32_t pooling : {1u, 2u, 3u}) {
    test::GgufWriter writer = test::tiny_model(options);
    writer.set_u32("llama.pooling_type", pooling);
    writer.write(dir.file("tiny.gguf"));
    const Model model(dir.file("tiny.gguf"));
    const std::vector<int32_t> tokens = random_tokens(45, 9, 300), other = random_tokens(30, 8, 300);
    StageChain whole = model.chain({0, 4});
    const Vector expected = embedding(whole, tokens);
    CHECK(expected.size() == 64);
    CAPTURE(pooling);
    for (const int chunk : {1, 7, 32}) {
      StageChain chain = model.chain({0, 1, 3, 4, 4}, 2);
      for (int first = 0; first < 45; first += chunk) {
        std::vector<BatchRow> rows = rows_of(tokens, 1, first, chunk);
        if (first == 0) {
          const std::vector<BatchRow> more = rows_of(other, 3);
          rows.insert(rows.end(), more.begin(), more.end());
        }
        REQUIRE(chain.run({}, rows, 1, StepKind::kEmbed).has_value());
      }
      REQUIRE(chain.outputs().size() == 1);
      CHECK(same_bits(chain.outputs()[0].embedding, expected));
    }
    // By the definition, from the rows' logits' input: the norm of hidden, then the pooling.
    CHECK(std::all_of(expected.begin(), expected.end(), [](float x) { return std::isfinite(x); }));
    StageChain first_only = model.chain({0, 4}), last_only = model.chain({0, 4});
    const Vector of_first = embedding(first_only, {tokens.begin(), tokens.begin() + 1});
    if (pooling == 2) CHECK(same_bits(of_first, expected));
    if (pooling != 2) CHECK_FALSE(same_bits(of_first, expected));
  }
}

TEST_CASE("the planner's bytes are those that an encoder's stages take") {
  for (const std::string& name : kModels) {
    const Model model(kFixtures + name);
    const StageOptions options{kContext, kSlots, 96};
    ThreadPool pool(1);
    for (const ShardSpec& spec : {ShardSpec{true, {0, 1}, false}, ShardSpec{false, {1, 3}, true},
                                  ShardSpec{false, {3, 3}, true}, ShardSpec{true, {0, 3}, true}}) {
      const Stage stage(model.config, load_shard(model.file, model.config, spec, pool), options,
                        select_kernels(), pool);
      CAPTURE(name);
      CHECK(stage.weight_bytes() == shard_bytes(model.file, model.config, spec));
      CHECK(stage.kv_bytes() == 0);
    }
  }
}

}  // namespace
}  // namespace shoal
