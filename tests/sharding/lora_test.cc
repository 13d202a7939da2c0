// Adapters: llama.cpp's logits behind the same adapter (fixtures/lora.txt, made by
// tools/make_lora_fixtures.py), the same bits wherever the model is cut and whatever the other rows of a step
// pass through, and files that do not fit.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "tests/sharding/stage_chain.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_families.h"
#include "tests/support/tiny_lora.h"

namespace shoal {
namespace {

using test::Answers;
using test::StageChain;

// A family's model and three adapters: of everything, of f16 and one kind of matrix, of a large rank.
struct Model {
  explicit Model(const std::string& family) : options(test::tiny_family(family).options) {
    test::write_tiny_model(dir.file("tiny.gguf"), options);
    file = GgufFile::open(dir.file("tiny.gguf"));
    config = ModelConfig::from(file);
    for (const int token : test::family_prompt(test::tiny_family(family))) tokens.push_back(token);
    add("all", {});
    add("half", {.rank = 5, .alpha = 3, .type = TensorType::kF16, .only = "ffn_", .seed = 8});
    add("wide", {.rank = 40, .alpha = 16, .only = "attn_", .seed = 9});
  }
  void add(const std::string& name, const test::TinyLoraOptions& lora) {
    test::tiny_lora(config, lora).write(dir.file(name));
    adapters.push_back(LoraFile::open(name, dir.file(name), config));
  }
  StageChain chain(const std::vector<int>& cuts, int threads = 2,
                   const Kernels& kernels = select_kernels()) const {
    const StageOptions stage{test::kFamilyContext, 8, 64};
    return StageChain(file, config, cuts, stage, kernels, threads, adapters);
  }
  // All tokens in one slot, `chunk` rows a step.
  Answers feed(StageChain& chain, int chunk, int adapter, float scale = 1, int slot = 0) const {
    Answers answers;
    for (size_t begin = 0; begin < tokens.size(); begin += static_cast<size_t>(chunk)) {
      std::vector<BatchRow> rows;
      for (size_t p = begin; p < std::min(begin + static_cast<size_t>(chunk), tokens.size()); ++p)
        rows.push_back({tokens[p], static_cast<int32_t>(p), slot, true, adapter, scale});
      REQUIRE(chain.run({}, rows, 0).has_value());
      for (size_t r = 0; r < rows.size(); ++r) answers.push_back(answer(chain, r, rows.size()));
    }
    return answers;
  }

  test::TinyModelOptions options;
  test::TempDir dir;
  GgufFile file;
  ModelConfig config;
  std::vector<LoraFile> adapters;
  std::vector<int32_t> tokens;
};

TEST_CASE("behind an adapter the logits are llama.cpp's") {
  for (const char* family : test::kLoraFamilies) {
    INFO(std::string(family));
    const Model model(family);
    std::ifstream in(SHOAL_SOURCE_DIR "/tests/sharding/fixtures/lora.txt");
    REQUIRE(in.good());
    double difference = 0, without = 0, size = 0;
    int lines = 0;
    StageChain chain = model.chain({0, model.config.n_layer});
    std::vector<double> base(model.tokens.size() * static_cast<size_t>(model.config.n_vocab));
    const auto compute = [&](int adapter, float scale) {
      std::vector<BatchRow> rows;
      for (size_t p = 0; p < model.tokens.size(); ++p)
        rows.push_back({model.tokens[p], static_cast<int32_t>(p), 0, true, adapter, scale});
      REQUIRE(chain.run({}, rows, 0).has_value());
      std::vector<double> logits(base.size());
      for (size_t p = 0; p < rows.size(); ++p) {
        for (const Candidate& c : chain.outputs()[p].candidates)
          logits[p * static_cast<size_t>(model.config.n_vocab) + static_cast<size_t>(c.token)] = c.logit;
      }
      return logits;
    };
    base = compute(0, 1);
    for (std::string line; std::getline(in, line);) {
      std::istringstream fields(line);
      std::string name;
      float scale;
      size_t position, token;
      double logit;
      char colon;
      fields >> name >> scale >> position;
      if (name != family) continue;
      ++lines;
      const std::vector<double> own = compute(1, scale);
      while (fields >> token >> colon >> logit) {
        const size_t at = position * static_cast<size_t>(model.config.n_vocab) + token;
        difference += (own[at] - logit) * (own[at] - logit);
        without += (base[at] - logit) * (base[at] - logit);
        size += logit * logit;
      }
    }
    REQUIRE(lines == 8);
    // As family_test.cc has it: K and V in f16, and llama.cpp's gelu.
    const double relative = std::sqrt(difference / size);
    CHECK(relative < 1e-3 * std::sqrt(model.config.n_layer) + 2e-3);
    CHECK(std::sqrt(without / size) > 0.2);  // the adapter matters
    MESSAGE(std::string(family) << ": " << relative << ", without the adapter " << std::sqrt(without / size));
  }
}

TEST_CASE("behind adapters any cut, chunk, thread count and kernel table gives the same bits") {
  for (const char* family : test::kLoraFamilies) {
    INFO(std::string(family));
    const Model model(family);
    const int n = model.config.n_layer;
    StageChain whole = model.chain({0, n}, 1, *available_kernels().front());
    for (int adapter = 1; adapter <= 3; ++adapter) {
      const Answers expected = model.feed(whole, 1, adapter, 0.75f);
      for (const std::vector<int>& cuts :
           std::vector<std::vector<int>>{{0, 1, n}, {0, 1, 2, n}, {0, 0, n, n}}) {
        StageChain chain = model.chain(cuts, 3);
        for (const int chunk : {1, 7, 40}) REQUIRE(model.feed(chain, chunk, adapter, 0.75f) == expected);
      }
      for (const Kernels* kernels : available_kernels()) {
        StageChain chain = model.chain({0, n}, 2, *kernels);
        REQUIRE(model.feed(chain, 40, adapter, 0.75f) == expected);
      }
    }
  }
}

TEST_CASE("rows of one step with different adapters, scales and none are each as if alone") {
  const Model model("llama");
  struct Use {
    int adapter;
    float scale;
  };
  const std::vector<Use> uses = {{0, 1}, {1, 1}, {2, 1}, {3, 0.5f}, {1, -2}, {0, 1}, {3, 1}};
  StageChain alone = model.chain({0, model.config.n_layer}),
             together = model.chain({0, 1, model.config.n_layer});
  std::vector<Answers> expected, got(uses.size());
  for (const Use& use : uses) expected.push_back(model.feed(alone, 7, use.adapter, use.scale));
  CHECK(expected[0] == expected[5]);
  CHECK(expected[0] != expected[1]);
  CHECK(expected[1] != expected[4]);
  std::mt19937 random(4);
  std::vector<size_t> next(uses.size(), 0);
  while (true) {
    std::vector<BatchRow> rows;
    for (int i = 0; i < 40; ++i) {
      const size_t s = random() % uses.size();
      if (next[s] == model.tokens.size()) continue;
      rows.push_back({model.tokens[next[s]], static_cast<int32_t>(next[s]), static_cast<int32_t>(s), true,
                      uses[s].adapter, uses[s].scale});
      ++next[s];
    }
    if (rows.empty()) break;
    REQUIRE(together.run({}, rows, 0).has_value());
    for (size_t r = 0; r < rows.size(); ++r)
      got[static_cast<size_t>(rows[r].slot)].push_back(answer(together, r, rows.size()));
  }
  for (size_t s = 0; s < uses.size(); ++s) {
    INFO("sequence ", s);
    while (next[s] < model.tokens.size()) FAIL("not all rows were computed");
    CHECK(got[s] == expected[s]);
  }
}

TEST_CASE("an adapter of scale 0 changes no bit, and memory is what was promised") {
  const Model model("llama");
  StageChain chain = model.chain({0, 1, model.config.n_layer});
  CHECK(model.feed(chain, 16, 1, 0.0f) == model.feed(chain, 16, 0));
  for (const LoraFile& adapter : model.adapters) {
    uint64_t sum = 0;
    for (int layer = 0; layer < model.config.n_layer; ++layer) {
      const LoraWeights weights = load_lora(adapter, model.config, {layer, layer + 1});
      CHECK(weights.bytes() == lora_bytes(adapter, model.config, {layer, layer + 1}));
      sum += weights.bytes();
    }
    CHECK(sum == lora_bytes(adapter, model.config, {0, model.config.n_layer}));
    CHECK(sum > 0);
  }
  const BatchRow unknown{1, 0, 0, true, 4, 1};
  const Result<void> refused = chain.run({}, {&unknown, 1}, 1);
  REQUIRE(refused.has_error());
  CHECK(refused.error().message.find("there is no adapter 4") != std::string::npos);
}

TEST_CASE("an adapter that does not fit is refused by name") {
  const Model model("llama"), other("qwen3");
  const auto refusal = [&](const std::function<void(test::GgufWriter&)>& spoil, const ModelConfig& config) {
    test::GgufWriter writer = test::tiny_lora(model.config);
    spoil(writer);
    writer.write(model.dir.file("bad"));
    try {
      LoraFile::open("bad", model.dir.file("bad"), config);
    } catch (const SetupError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  const auto refused = [&](const char* said, const std::function<void(test::GgufWriter&)>& spoil) {
    const std::string text = refusal(spoil, model.config);
    CHECK_MESSAGE(text.find(said) != std::string::npos, said, ": ", text);
    CHECK(text.find("adapter 'bad'") != std::string::npos);
  };
  CHECK(refusal([](auto&) {}, model.config) == "accepted");
  CHECK(refusal([](auto&) {}, other.config)
            .find("is for the architecture 'llama', and the model is a 'qwen3'") != std::string::npos);
  refused("is no adapter but 'model'", [](auto& w) { w.erase("general.type"); });
  refused("of type 'control_vector'", [](auto& w) { w.set_string("adapter.type", "control_vector"); });
  refused("adapter.lora.alpha", [](auto& w) { w.erase("adapter.lora.alpha"); });
  refused("activated LoRA", [](auto& w) { w.set_u32("adapter.alora.invocation_tokens", 1); });
  refused("one half of the pair", [](auto& w) { w.erase_tensor("blk.1.attn_k.weight.lora_b"); });
  refused("only pairs",
          [](auto& w) { w.tensor("blk.1.attn_k.weight.lora_b").name = "blk.1.attn_norm.weight"; });
  refused("no matrix of a layer that can be adapted", [](auto& w) {
    w.tensor("blk.1.attn_k.weight.lora_a").name = "blk.9.attn_k.weight.lora_a";
    w.tensor("blk.1.attn_k.weight.lora_b").name = "blk.9.attn_k.weight.lora_b";
  });
  refused("only matrices of layers can be adapted", [](auto& w) {
    w.tensor("blk.1.attn_k.weight.lora_a").name = "token_embd.weight.lora_a";
    w.tensor("blk.1.attn_k.weight.lora_b").name = "token_embd.weight.lora_b";
  });
  refused("does not fit 'blk.1.attn_k.weight'", [](auto& w) {
    auto& a = w.tensor("blk.1.attn_k.weight.lora_a");
    std::swap(a.dims[0], a.dims[1]);
  });
  refused("does not fit", [](auto& w) {
    w.tensor("blk.1.attn_k.weight.lora_b").dims = w.tensor("blk.1.attn_q.weight.lora_b").dims;
    w.tensor("blk.1.attn_k.weight.lora_b").data = w.tensor("blk.1.attn_q.weight.lora_b").data;
  });

  test::GgufWriter damaged = test::tiny_lora(model.config);
  std::string& data = damaged.tensor("blk.1.attn_k.weight.lora_a").data;
  data.replace(0, 4, std::string("\x00\x00\xc0\x7f", 4));  // a NaN
  damaged.write(model.dir.file("bad"));
  const LoraFile file = LoraFile::open("bad", model.dir.file("bad"), model.config);
  CHECK_NOTHROW(load_lora(file, model.config, {0, 1}));
  CHECK_THROWS_AS(load_lora(file, model.config, {1, 2}), SetupError);
}

}  // namespace
}  // namespace shoal
