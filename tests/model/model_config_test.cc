// The model's shape: read from the keys, checked against the tensors.
#include "model/model_config.h"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>

#include "base/error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_families.h"

namespace shoal {
namespace {

using namespace shoal::test;

GgufFile open_model(const GgufWriter& writer) {
  TempDir dir;
  writer.write(dir.file("model.gguf"));
  return GgufFile::open(dir.file("model.gguf"));
}

TinyModelOptions small_options(const std::string& arch = "llama") {
  TinyModelOptions options;
  options.arch = arch;
  options.n_embd = 64;
  options.n_head = 4;
  options.n_head_kv = 2;
  options.n_ff = 96;
  options.n_vocab = 300;
  return options;
}

// What ModelConfig says about a model changed by `edit`; empty if it accepts it.
std::string refusal(const TinyModelOptions& options, const std::function<void(GgufWriter&)>& edit) {
  GgufWriter writer = tiny_model(options);
  edit(writer);
  const GgufFile file = open_model(writer);
  try {
    ModelConfig::from(file);
    return "";
  } catch (const SetupError& error) {
    return error.what();
  }
}
std::string refusal(const std::function<void(GgufWriter&)>& edit) {
  return refusal(small_options(), edit);
}

void check_says(const std::string& message, std::initializer_list<const char*> words) {
  for (const char* word : words) {
    CHECK_MESSAGE(message.find(word) != std::string::npos,
                  "'" << std::string(word) << "' is missing in: " << message);
  }
}

TEST_CASE("a tiny model of every architecture and element type is a model") {
  for (const std::string& arch : known_architectures()) {
    if (find_architecture(arch)->layout != LayerLayout::kPreNorm)
      continue;  // tests/sharding/encoder_decoder_test.cc has files
    for (const auto& [type, type_name] : tiny_model_types()) {
      CAPTURE(arch);
      CAPTURE(type_name);
      TinyModelOptions options;
      options.arch = arch;
      options.type = type;
      options.n_vocab = 320;
      options.n_layer = 1;
      const GgufFile file = open_model(tiny_model(options));
      const ModelConfig config = ModelConfig::from(file);
      CHECK(config.arch->name == arch);
      CHECK(config.n_vocab == 320);
      CHECK(file.tensor("blk.0.attn_output.weight").type == type);
      CHECK(config.tied_output);
    }
  }
}

TEST_CASE("the fields of a model") {
  TinyModelOptions options = small_options("qwen3");
  options.n_layer = 3;
  options.head_dim = 32;
  options.tied = false;
  GgufWriter writer = tiny_model(options);
  writer.set_f32("qwen3.rope.freq_base", 1e6f);
  writer.set_f32("qwen3.attention.layer_norm_rms_epsilon", 1e-6f);
  const ModelConfig config = ModelConfig::from(open_model(writer));
  CHECK(config.name == "Tiny qwen3");
  CHECK(config.arch == find_architecture("qwen3"));
  CHECK(config.arch->rope == RopeKind::kHalfSplit);
  CHECK(config.arch->qk_norm);
  CHECK(config.n_layer == 3);
  CHECK(config.n_embd == 64);
  CHECK(config.n_vocab == 300);
  CHECK(config.n_ctx_train == 512);
  CHECK(config.head_dim_k == 32);
  CHECK(config.head_dim_v == 32);
  CHECK(config.n_rot == 32);
  CHECK(config.n_head == std::vector<int>{4, 4, 4});
  CHECK(config.n_head_kv == std::vector<int>{2, 2, 2});
  CHECK(config.n_ff == std::vector<int>{96, 96, 96});
  CHECK(config.n_embd_k(2) == 64);
  CHECK(config.n_embd_v(2) == 64);
  REQUIRE(config.ropes.size() == 1);
  CHECK(config.ropes[0].freq_base == 1e6);
  CHECK(config.ropes[0].freq_scale == 1);
  CHECK(config.rope == std::vector<int>{0, 0, 0});
  CHECK(config.window == std::vector<int>{0, 0, 0});
  CHECK(config.norm_eps == 1e-6f);
  CHECK_FALSE(config.rope_factors);
  CHECK_FALSE(config.tied_output);
}

TEST_CASE("absent keys take the format's defaults") {
  GgufWriter writer = tiny_model(small_options());
  writer.erase("llama.rope.freq_base");
  writer.erase("general.name");
  TempDir dir;
  writer.write(dir.file("some-model.gguf"));
  const ModelConfig config = ModelConfig::from(GgufFile::open(dir.file("some-model.gguf")));
  CHECK(config.name == "some-model.gguf");
  CHECK(config.ropes[0].freq_base == 10000);
  CHECK(config.n_rot == 16);
  CHECK(config.head_dim_k == 16);

  TinyModelOptions no_gqa = small_options();
  no_gqa.n_head_kv = 4;
  CHECK(refusal(no_gqa, [](GgufWriter& w) { w.erase("llama.attention.head_count_kv"); }).empty());
}

TEST_CASE("keys may be arrays with one entry a layer") {
  GgufWriter writer = tiny_model(small_options());
  writer.set_array<uint32_t>("llama.attention.head_count", kMetaU32, {4, 4});
  writer.set_array<int32_t>("llama.attention.head_count_kv", kMetaI32, {2, 2});
  writer.set_array<uint32_t>("llama.feed_forward_length", kMetaU32, {96, 96});
  const ModelConfig config = ModelConfig::from(open_model(writer));
  CHECK(config.n_head_kv == std::vector<int>{2, 2});
  check_says(
      refusal([](GgufWriter& w) { w.set_array<uint32_t>("llama.feed_forward_length", kMetaU32, {96}); }),
      {"llama.feed_forward_length", "1 entries for 2 layers"});
  check_says(refusal([](GgufWriter& w) {
               w.set_array<uint32_t>("llama.feed_forward_length", kMetaU32, {96, 64});
             }),
             {"blk.1.ffn_gate.weight", "[64, 96]", "[64, 64]"});
}

TEST_CASE("rope scaling: none, linear and factors; the rest is refused by name") {
  const auto scale = [](const std::function<void(GgufWriter&)>& edit) {
    GgufWriter writer = tiny_model(small_options());
    edit(writer);
    return ModelConfig::from(open_model(writer)).ropes[0].freq_scale;
  };
  CHECK(scale([](GgufWriter& w) { w.set_f32("llama.rope.scaling.factor", 4); }) == 0.25);
  CHECK(scale([](GgufWriter& w) { w.set_f32("llama.rope.scale_linear", 2); }) == 0.5);
  CHECK(scale([](GgufWriter& w) {
          w.set_string("llama.rope.scaling.type", "none");
          w.set_f32("llama.rope.scaling.factor", 4);
        }) == 1);
  for (const char* type : {"dynamic", "longrope", "su\x1b"}) {
    check_says(refusal([&](GgufWriter& w) { w.set_string("llama.rope.scaling.type", type); }),
               {"llama.rope.scaling.type", type[0] == 's' ? "su\\x1B" : type, "none, linear, yarn"});
  }
  check_says(refusal([](GgufWriter& w) { w.set_f32("llama.rope.scaling.factor", -1); }),
             {"rope.scaling.factor"});
  check_says(refusal([](GgufWriter& w) { w.set_f32("llama.rope.scaling.attn_factor", -1.2f); }),
             {"attn_factor"});

  TinyModelOptions factors = small_options();
  factors.rope_freqs = true;
  CHECK(ModelConfig::from(open_model(tiny_model(factors))).rope_factors);
  check_says(refusal(factors, [](GgufWriter& w) { w.set_u32("llama.rope.dimension_count", 12); }),
             {"rope_freqs.weight", "[8]", "[6]"});
}

TEST_CASE("an unknown architecture is named beside the known") {
  check_says(refusal([](GgufWriter& w) { w.set_string("general.architecture", "mamba"); }),
             {"model.gguf", "'mamba'", "llama, mistral3", "qwen3", "gemma3"});
  check_says(refusal([](GgufWriter& w) { w.set_u32("general.architecture", 1); }),
             {"general.architecture", "not a string"});
  check_says(refusal([](GgufWriter& w) { w.erase("general.architecture"); }),
             {"general.architecture", "missing"});
  CHECK(find_architecture("mamba") == nullptr);
  CHECK(find_architecture("") == nullptr);
}

TEST_CASE("what belongs beside a model is told from one by general.type") {
  const auto typed = [](const char* type) {
    return refusal([&](GgufWriter& w) { w.set_string("general.type", type); });
  };
  check_says(typed("adapter"), {"model.gguf", "no model", "--adapter NAME="});
  check_says(typed("imatrix"), {"model.gguf", "importance matrix", "--imatrix"});
  check_says(typed("mmproj"), {"model.gguf", "projector"});
  CHECK(typed("model").empty());
}

TEST_CASE("keys that are missing, of the wrong type or out of range are named") {
  for (const char* key : {"block_count", "context_length", "embedding_length", "feed_forward_length",
                          "attention.head_count", "attention.layer_norm_rms_epsilon"}) {
    const std::string name = std::string("llama.") + key;
    check_says(refusal([&](GgufWriter& w) { w.erase(name); }), {name.c_str(), "missing"});
    check_says(refusal([&](GgufWriter& w) { w.set_string(name, "12"); }), {name.c_str()});
    check_says(refusal([&](GgufWriter& w) { w.set_i64(name, -1); }), {name.c_str()});
    check_says(refusal([&](GgufWriter& w) { w.set_u64(name, ~uint64_t{0}); }), {name.c_str()});
    check_says(refusal([&](GgufWriter& w) { w.set_u32(name, 0x80000000u); }), {name.c_str()});
  }
  for (const char* key :
       {"block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
        "attention.head_count_kv", "attention.key_length", "rope.dimension_count"}) {
    const std::string name = std::string("llama.") + key;
    check_says(refusal([&](GgufWriter& w) { w.set_u32(name, 0); }), {name.c_str(), "is 0"});
  }
  check_says(refusal([](GgufWriter& w) { w.set_f32("llama.rope.freq_base", 0); }), {"rope.freq_base"});
}

TEST_CASE("contradictions between keys are named") {
  check_says(refusal([](GgufWriter& w) { w.set_u32("llama.attention.head_count", 5); }), {"head_count", "5"});
  check_says(refusal([](GgufWriter& w) { w.set_u32("llama.attention.head_count_kv", 3); }),
             {"head_count_kv", "layer 0", "do not divide"});
  check_says(refusal([](GgufWriter& w) {
               w.set_u32("llama.attention.head_count", 3);
               w.set_u32("llama.attention.head_count_kv", 3);
             }),
             {"head_count", "does not divide", "64"});
  check_says(refusal([](GgufWriter& w) { w.set_u32("llama.rope.dimension_count", 32); }),
             {"dimension_count", "16"});
  check_says(refusal([](GgufWriter& w) { w.set_u32("llama.rope.dimension_count", 7); }),
             {"dimension_count", "even"});
  check_says(refusal([](GgufWriter& w) {
               w.set_strings("tokenizer.ggml.tokens", {"a", "b"});
             }),
             {"tokenizer.ggml.tokens", "2 tokens", "300 rows"});
  check_says(refusal([](GgufWriter& w) { w.set_u32("tokenizer.ggml.tokens", 300); }),
             {"not an array of strings"});
}

TEST_CASE("a missing or misshapen tensor of any layer is named") {
  for (const std::string& arch : known_architectures()) {
    if (find_architecture(arch)->layout != LayerLayout::kPreNorm) continue;
    TinyModelOptions options = small_options(arch);
    options.tied = false;
    for (const auto& tensor : tiny_model(options).tensors) {
      const std::string name = tensor.name;
      const std::string missing = refusal(options, [&](GgufWriter& w) { w.erase_tensor(name); });
      // Without an output head the model is a tied one.
      if (name == "output.weight") {
        CHECK(missing.empty());
      } else {
        check_says(missing, {name.c_str(), "missing"});
      }
      check_says(refusal(options,
                         [&](GgufWriter& w) {
                           auto& t = w.tensor(name);
                           t.dims[0] += 1;
                           uint64_t n = 4;
                           for (const uint64_t dim : t.dims) n *= dim;
                           t.data = std::string(n, '\0');
                         }),
                 {name.c_str(), "shape"});
    }
  }
  check_says(refusal([](GgufWriter& w) { w.set_u32("llama.block_count", 3); }),
             {"blk.2.attn_norm.weight", "missing"});
}

TEST_CASE("tensors that would be left out of the computation are refused") {
  const auto with = [](const char* name) {
    return refusal(
        [&](GgufWriter& w) { w.add_tensor(name, TensorType::kF32, {64}, std::string(256, '\0')); });
  };
  check_says(with("blk.0.attn_q.bias"), {"blk.0.attn_q.bias", "not part of architecture llama"});
  check_says(with("blk.2.attn_norm.weight"), {"blk.2.attn_norm.weight"});
  check_says(with("blk.0.ffn_gate_inp.weight"), {"ffn_gate_inp", "mixture of experts"});
  check_says(with("blk.0.ffn_up_exps.weight"), {"ffn_up_exps", "mixture of experts"});
  check_says(refusal([](GgufWriter& w) { w.set_u32("llama.expert_count", 8); }),
             {"expert_used_count", "missing"});
  check_says(refusal(small_options("qwen2"), [](GgufWriter& w) { w.set_u32("qwen2.expert_count", 8); }),
             {"expert_count", "mixture of experts", "qwen2"});
  const auto moe = [](const std::function<void(GgufWriter&)>& edit) {
    return refusal(small_options("qwen3moe"), edit);
  };
  check_says(moe([](GgufWriter& w) { w.set_u32("qwen3moe.expert_used_count", 5); }),
             {"expert_used_count", "from 1 to 4"});
  check_says(moe([](GgufWriter& w) { w.set_u32("qwen3moe.expert_count", 6); }),
             {"ffn_gate_inp", "[64, 4]", "[64, 6]"});
  check_says(moe([](GgufWriter& w) { w.set_u32("qwen3moe.expert_feed_forward_length", 80); }),
             {"ffn_gate_exps", "[64, 96, 4]", "[64, 80, 4]"});
  check_says(moe([](GgufWriter& w) {
               w.add_tensor("blk.0.ffn_up_shexp.weight", TensorType::kF32, {64}, std::string(256, '\0'));
             }),
             {"ffn_up_shexp", "mixture of experts of a kind"});
  check_says(refusal([](GgufWriter& w) { w.set_bool("llama.attention.causal", false); }),
             {"attention.causal"});
}

ModelConfig config_of(const TinyModelOptions& options) {
  return ModelConfig::from(open_model(tiny_model(options)));
}

TEST_CASE("windows: which layers, by the family's pattern, a key or a list") {
  const auto windows = [](const char* arch, int n_layer, const std::function<void(GgufWriter&)>& edit) {
    TinyModelOptions options = small_options(arch);
    options.n_layer = n_layer;
    GgufWriter writer = tiny_model(options);
    edit(writer);
    return ModelConfig::from(open_model(writer)).window;
  };
  const auto nothing = [](GgufWriter&) {};
  using Windows = std::vector<int>;
  CHECK(windows("llama", 2, nothing) == Windows{0, 0});
  CHECK(windows("llama", 2, [](GgufWriter& w) { w.set_u32("llama.attention.sliding_window", 9); }) ==
        Windows{9, 9});
  CHECK(windows("qwen2", 2, [](GgufWriter& w) { w.set_u32("qwen2.attention.sliding_window", 9); }) ==
        Windows{0, 0});
  CHECK(windows("phi3", 2, [](GgufWriter& w) { w.set_u32("phi3.attention.sliding_window", 0); }) ==
        Windows{0, 0});
  CHECK(windows("gemma2", 5, nothing) == Windows{4096, 0, 4096, 0, 4096});
  CHECK(windows("gemma3", 13, nothing) == Windows(13, 0));
  CHECK(windows("gemma3", 13, [](GgufWriter& w) { w.set_u32("gemma3.attention.sliding_window", 7); }) ==
        Windows{7, 7, 7, 7, 7, 0, 7, 7, 7, 7, 7, 0, 7});
  CHECK(windows("gemma3", 4, [](GgufWriter& w) {
          w.set_u32("gemma3.attention.sliding_window", 7);
          w.set_u32("gemma3.attention.sliding_window_pattern", 2);
        }) == Windows{7, 0, 7, 0});
  CHECK(windows("gemma3", 3, [](GgufWriter& w) {
          w.set_u32("gemma3.attention.sliding_window", 7);
          w.set_array<uint8_t>("gemma3.attention.sliding_window_pattern", kMetaBool, {0, 1, 1});
        }) == Windows{0, 7, 7});
  check_says(refusal(small_options("gemma3"),
                     [](GgufWriter& w) {
                       w.set_u32("gemma3.attention.sliding_window", 7);
                       w.set_array<uint8_t>("gemma3.attention.sliding_window_pattern", kMetaBool, {0, 1, 1});
                     }),
             {"gemma3.attention.sliding_window_pattern", "3 entries for 2 layers"});
}

TEST_CASE("which rope turns which layer") {
  using Ropes = std::vector<int>;
  const ModelConfig gemma3 = config_of(tiny_family("gemma3").options);
  CHECK(gemma3.rope == Ropes{1, 1, 1, 1, 1, 0, 1, 1});
  REQUIRE(gemma3.ropes.size() == 2);
  CHECK(gemma3.ropes[0].freq_base == 1e6);
  CHECK(gemma3.ropes[0].freq_scale == 0.125);
  CHECK(gemma3.ropes[1].freq_base == 1e4);
  CHECK(gemma3.ropes[1].freq_scale == 1);
  CHECK(config_of(tiny_family("smollm3").options).rope == Ropes{0, 0, 0, kNoRope, 0, 0});
  TinyModelOptions granite = small_options("granite");
  CHECK(config_of(granite).rope == Ropes{0, 0});
  granite.keys = [](GgufWriter& w, const std::string& p) { w.set_bool(p + "rope.scaling.finetuned", false); };
  CHECK(config_of(granite).rope == Ropes{kNoRope, kNoRope});
}

TEST_CASE("scales: keys, and what the family leaves unsaid") {
  const ModelConfig granite = config_of(tiny_family("granite").options);
  CHECK(granite.embedding_scale == 12);
  CHECK(granite.residual_scale == 0.22f);
  CHECK(granite.attention_scale == 0.015625f);
  CHECK(granite.logit_scale == 0.125f);
  CHECK(granite.final_soft_cap == 0);
  TinyModelOptions options = small_options("gemma2");
  const ModelConfig gemma2 = config_of(options);
  CHECK(gemma2.embedding_scale == 8);
  CHECK(gemma2.residual_scale == 1);
  CHECK(gemma2.attention_scale == 0.25f);
  CHECK(gemma2.attention_soft_cap == 50);
  CHECK(gemma2.final_soft_cap == 30);
  options.head_dim = 64;  // wider than n_embd / n_head, which the model of 46 layers divides by
  CHECK(config_of(options).attention_scale == 0.125f);
  options.n_layer = 46;
  CHECK(config_of(options).attention_scale == 0.25f);
  const ModelConfig mistral3 = config_of(tiny_family("mistral3").options);
  CHECK(mistral3.temperature_scale == 0.1f);
  CHECK(mistral3.temperature_length == 16);
  check_says(refusal(small_options("granite"), [](GgufWriter& w) { w.set_f32("granite.logit_scale", 0); }),
             {"granite.logit_scale", "is not a number from"});
}

TEST_CASE("yarn: the ramp and the growth") {
  const ModelConfig config = config_of(tiny_family("qwen2-yarn").options);
  REQUIRE(config.ropes.size() == 1);
  const RopeScaling& rope = config.ropes[0];
  CHECK(rope.freq_scale == 0.25);
  CHECK(rope.ramp_height == 1);
  // pair(turns) = 16 ln(16 / (2 pi turns)) / (2 ln 10000): below 0 for 32 turns, 0.81 for 1.
  CHECK(rope.ramp_begin == 0);
  CHECK(rope.ramp_end == 1);
  // With an original context of 4096 the fast end counts too: 16 ln(4096 / (2 pi 32)) / (2 ln 10000) = 2.62,
  // and for one turn 5.63.
  GgufWriter writer = tiny_model(tiny_family("qwen2-yarn").options);
  writer.set_u32("qwen2.rope.scaling.original_context_length", 4096);
  const ModelConfig longer = ModelConfig::from(open_model(writer));
  CHECK(longer.ropes[0].ramp_begin == 2);
  CHECK(longer.ropes[0].ramp_end == 6);
  CHECK(std::abs(rope.magnitude - (1 + 0.1 * std::log(4.0))) < 1e-6);
  CHECK(config_of(tiny_family("mistral3").options).ropes[0].magnitude == 1);
}

TEST_CASE("vectors are not quantised") {
  check_says(refusal([](GgufWriter& w) {
               auto& tensor = w.tensor("blk.1.ffn_norm.weight");
               tensor.type = static_cast<uint32_t>(TensorType::kQ8_0);
               tensor.data = std::string(2 * 34, '\0');
             }),
             {"blk.1.ffn_norm.weight", "quantised"});
}

TEST_CASE("a mixture's bytes: all experts are kept, those that a row asks are read") {
  TinyModelOptions options = small_options("qwen3moe");
  options.n_expert = 6;
  options.n_expert_used = 2;
  const GgufFile file = open_model(tiny_model(options));
  const UnitBytes bytes = unit_bytes(file, ModelConfig::from(file));
  const uint64_t expert = 3 * 64 * 96 * 4;
  CHECK(bytes.layers[0] - bytes.layers_read[0] == 4 * expert);
  CHECK(bytes.layers_read[0] > 2 * expert);
}

TEST_CASE("bytes of the planner's units") {
  TinyModelOptions options = small_options("qwen2");
  options.type = TensorType::kQ8_0;
  options.rope_freqs = true;
  const auto q8 = [](uint64_t n_in, uint64_t n_out) { return n_in / 32 * 34 * ((n_out + 15) / 16 * 16); };
  for (bool tied : {true, false}) {
    options.tied = tied;
    const GgufFile file = open_model(tiny_model(options));
    const UnitBytes bytes = unit_bytes(file, ModelConfig::from(file));
    CHECK(bytes.embedding == q8(64, 300));
    CHECK(bytes.output == q8(64, 300) + 64 * 4);
    CHECK(bytes.shared == 8 * 4);
    REQUIRE(bytes.layers.size() == 2);
    const uint64_t matrices = q8(64, 64) * 2 + q8(64, 32) * 2 + q8(64, 96) * 2 + q8(96, 64);
    CHECK(bytes.layers[0] == matrices + (64 + 64 + 64 + 32 + 32) * 4);
    CHECK(bytes.layers[1] == bytes.layers[0]);
    CHECK(bytes.layers_read == bytes.layers);
  }
}

}  // namespace
}  // namespace shoal
