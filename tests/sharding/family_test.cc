// Every family of models: cut anywhere, the same bits; and the logits that llama.cpp computes from the same
// file (fixtures/families.txt, made by tools/make_family_fixtures.py).
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/sharding/stage_chain.h"
#include "tests/support/reference_model.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_families.h"

namespace shoal {
namespace {

using test::Answers;
using test::StageChain;

struct Model {
  explicit Model(const test::TinyFamily& family) {
    test::write_tiny_model(dir.file("tiny.gguf"), family.options);
    file = GgufFile::open(dir.file("tiny.gguf"));
    config = ModelConfig::from(file);
    for (const int token : test::family_prompt(family)) tokens.push_back(token);
  }
  StageChain chain(const std::vector<int>& cuts) const {
    const StageOptions options{test::kFamilyContext, 2, 64};
    return StageChain(file, config, cuts, options, select_kernels(), 2);
  }

  test::TempDir dir;
  GgufFile file;
  ModelConfig config;
  std::vector<int32_t> tokens;
};

TEST_CASE("a family's model gives the same bits wherever it is cut") {
  for (const test::TinyFamily& family : test::tiny_families()) {
    INFO(family.name);
    const Model model(family);
    const int n = model.config.n_layer;
    StageChain whole = model.chain({0, n});
    const Answers expected = feed(whole, model.tokens, 1);
    std::vector<std::vector<int>> all_cuts = {{0, 1, 2, n}, {0, 0, 1, 2, n, n}};  // 3 and 5 stages
    std::vector<int> everywhere;
    for (int layer = 0; layer <= n; ++layer) {
      everywhere.push_back(layer);
      all_cuts.push_back({0, layer, n});
    }
    all_cuts.push_back(everywhere);
    for (const std::vector<int>& cuts : all_cuts) {
      StageChain chain = model.chain(cuts);
      INFO((cuts.size() - 1), " stages, the second from layer ", cuts[1]);
      REQUIRE(feed(chain, model.tokens, 13) == expected);
    }
  }
}

struct OracleRow {
  int position;
  std::vector<std::pair<int, double>> logits;  // token, llama.cpp's logit
};

// Of one family; REQUIREs that there are some.
std::vector<OracleRow> read_oracle(const std::string& name) {
  std::ifstream in(SHOAL_SOURCE_DIR "/tests/sharding/fixtures/families.txt");
  REQUIRE(in.good());
  std::vector<OracleRow> rows;
  for (std::string line, family; std::getline(in, line);) {
    std::istringstream fields(line);
    OracleRow row;
    fields >> family >> row.position;
    if (family != name) continue;
    char colon;
    for (std::pair<int, double> logit; fields >> logit.first >> colon >> logit.second;)
      row.logits.push_back(logit);
    rows.push_back(std::move(row));
  }
  REQUIRE(rows.size() >= 6);
  return rows;
}

// Root mean square of the difference over that of the oracle's logits, about their mean.
template <class Logits>
double relative_difference(const std::vector<OracleRow>& rows, Logits&& logits_at) {
  double difference = 0, size = 0;
  for (const OracleRow& row : rows) {
    const auto own = logits_at(row.position);
    double mean = 0;
    for (const auto& [token, logit] : row.logits) mean += logit / static_cast<double>(row.logits.size());
    for (const auto& [token, logit] : row.logits) {
      difference += (own[token] - logit) * (own[token] - logit);
      size += (logit - mean) * (logit - mean);
    }
  }
  return std::sqrt(difference / size);
}

// The fixtures are of F32 weights and an F32 cache. The float64 reference then rounds nothing and llama.cpp
// only to f32: what each layer adds is off by 1e-6 or so (as the engine's, tests/model/transformer_test.cc).
// Its gelu however is a table of halves, 2^-12 of argument and result. The engine keeps K and V as f16, which
// makes up to 0.85e-3 of what a layer adds; the layers' errors add up as independent ones.
constexpr double kFloat = 5e-5, kGeluTable = 2e-3, kHalfPerLayer = 0.85e-3;

TEST_CASE("a family's logits are llama.cpp's") {
  for (const test::TinyFamily& family : test::tiny_families()) {
    INFO(family.name);
    const Model model(family);
    const std::vector<OracleRow> oracle = read_oracle(family.name);
    const bool table = model.config.arch->gate == GateKind::kGelu;

    test::ReferenceModel reference(model.file, model.config, {false, false, test::kFamilyContext});
    std::vector<std::vector<double>> exact;
    for (const int32_t token : model.tokens) {
      std::vector<double> hidden = reference.embed(token);
      for (int layer = 0; layer < model.config.n_layer; ++layer)
        hidden = reference.forward_layer(layer, hidden);
      exact.push_back(reference.logits(hidden));
    }
    const double of_reference = relative_difference(oracle, [&](int p) { return exact[p]; });
    CHECK(of_reference < (table ? kGeluTable : kFloat));

    StageChain chain = model.chain({0, model.config.n_layer});
    std::vector<BatchRow> rows;
    for (int p = 0; p < test::kFamilyPrompt; ++p) rows.push_back({model.tokens[p], p, 0, true});
    REQUIRE(chain.run({}, rows, 0).has_value());
    const double of_engine = relative_difference(oracle, [&](int p) {
      std::vector<double> logits(model.config.n_vocab);
      for (const Candidate& c : chain.outputs()[p].candidates) logits[c.token] = c.logit;
      return logits;
    });
    CHECK(of_engine < kHalfPerLayer * std::sqrt(model.config.n_layer) + (table ? kGeluTable : kFloat));
    MESSAGE(family.name << ": reference " << of_reference << ", engine " << of_engine);
  }
}

}  // namespace
}  // namespace shoal
