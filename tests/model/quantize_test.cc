// Quantizing a model file: which tensors become what, what is kept, and what is refused.
#include "model/quantize.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <vector>

#include "base/error.h"
#include "model/gguf_output.h"
#include "tensor/format.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace shoal {
namespace {

using test::TempDir;
using test::TinyModelOptions;

TinyModelOptions source_options(TensorType type = TensorType::kF32) {
  TinyModelOptions options;
  options.type = type;
  options.n_layer = 8;
  options.n_embd = 256;
  options.n_ff = 288;  // ffn_down's rows are no multiple of 256
  options.n_vocab = 320;
  return options;
}

GgufFile quantize(const GgufFile& source, const std::string& out, const QuantizeOptions& options,
                  int threads = 2) {
  ThreadPool pool(threads);
  quantize_model(source, out, options, pool, {});
  return GgufFile::open(out);
}

std::vector<std::byte> bytes_of(const GgufFile& file, const TensorInfo& tensor) {
  std::vector<std::byte> bytes(tensor.bytes);
  file.read(tensor, 0, bytes);
  return bytes;
}

// Every matrix named, columns of different weight, and those of every expert.
ImportanceMatrix importance_for(const GgufFile& file) {
  ImportanceMatrix all;
  for (const TensorInfo& tensor : file.tensors()) {
    if (tensor.dims.size() < 2) continue;
    const int64_t experts = tensor.dims.size() > 2 ? tensor.dims[2] : 1;
    std::vector<float>& weights = all[tensor.name];
    for (int64_t k = 0; k < tensor.cols() * experts; ++k) weights.push_back(0.1f + static_cast<float>(k % 7));
  }
  return all;
}

TensorType type_in(const GgufFile& file, const std::string& name) {
  return file.tensor(name).type;
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Something of a file that was not finished.
bool has_remains(const test::TempDir& dir) {
  for (const auto& entry : std::filesystem::directory_iterator(dir.path()))
    if (entry.path().filename().string().find(".partial") != std::string::npos) return true;
  return false;
}

}  // namespace

TEST_CASE("quantize: matrices are encoded row by row, everything else is copied") {
  TempDir dir;
  test::write_tiny_model(dir.file("in.gguf"), source_options());
  const GgufFile in = GgufFile::open(dir.file("in.gguf"));
  const GgufFile out = quantize(in, dir.file("out.gguf"), {"Q4_K", false, false, {}});

  CHECK(type_in(out, "blk.0.attn_q.weight") == TensorType::kQ4_K);
  CHECK(type_in(out, "blk.0.ffn_down.weight") == TensorType::kQ5_0);  // rows of 288
  CHECK(type_in(out, "token_embd.weight") == TensorType::kQ6_K);      // the tied output head
  CHECK(type_in(out, "blk.0.attn_norm.weight") == TensorType::kF32);
  REQUIRE(out.tensors().size() == in.tensors().size());
  for (const TensorInfo& tensor : in.tensors()) {
    CAPTURE(tensor.name);
    const TensorInfo& made = out.tensor(tensor.name);
    CHECK(made.dims == tensor.dims);
    const std::vector<std::byte> before = bytes_of(in, tensor), after = bytes_of(out, made);
    std::vector<std::byte> want(after.size());
    const Format& format = format_of(made.type);
    for (int64_t r = 0; r < tensor.rows(); ++r) {
      format.encode(reinterpret_cast<const float*>(before.data()) + r * tensor.cols(), tensor.cols(), nullptr,
                    &want[r * format.row_bytes(tensor.cols())]);
    }
    CHECK(after == want);
  }
  auto metadata = out.metadata();
  CHECK(out.get_uint("general.file_type") == 14);
  CHECK(out.get_uint("general.quantization_version") == 2);
  metadata.erase("general.file_type");
  metadata.erase("general.quantization_version");
  CHECK(metadata == in.metadata());
  CHECK_FALSE(has_remains(dir));
}

TEST_CASE("quantize: mixtures give some layers more bits, --pure none") {
  TempDir dir;
  test::write_tiny_model(dir.file("in.gguf"), source_options());
  const GgufFile in = GgufFile::open(dir.file("in.gguf"));
  const auto layers_of = [&](const char* type, TensorType wanted) {
    std::set<int> layers;
    for (const TensorChange& c : plan_quantization(in, {type, false, false, {}})) {
      if (c.tensor->name.ends_with("attn_v.weight") && c.to == wanted) layers.insert(c.tensor->name[4] - '0');
    }
    return layers;
  };
  CHECK(layers_of("Q4_K_M", TensorType::kQ6_K) == std::set<int>{0, 3, 6, 7});
  CHECK(layers_of("Q5_K_M", TensorType::kQ6_K) == std::set<int>{0, 3, 6, 7});
  CHECK(layers_of("Q4_K_S", TensorType::kQ5_K) == std::set<int>{0, 1, 2, 3});
  CHECK(layers_of("Q3_K_M", TensorType::kQ5_K) == std::set<int>{0, 1});
  CHECK(layers_of("Q3_K_M", TensorType::kQ4_K) == std::set<int>{2, 3, 4, 5, 6, 7});
  CHECK(layers_of("Q3_K_L", TensorType::kQ5_K).size() == 8);
  CHECK(layers_of("Q3_K_S", TensorType::kQ3_K).size() == 8);
  for (const TensorChange& c : plan_quantization(in, {"Q8_0", true, false, {}})) {
    CHECK((c.to == TensorType::kQ8_0) == (c.tensor->dims.size() == 2));
  }
}

TEST_CASE("quantize: every type it offers can be written and opened") {
  TempDir dir;
  TinyModelOptions options = source_options(TensorType::kF16);
  options.n_layer = 1;
  options.n_ff = 256;
  test::write_tiny_model(dir.file("in.gguf"), options);
  const GgufFile in = GgufFile::open(dir.file("in.gguf"));
  for (const std::string& type : quantize_types()) {
    CAPTURE(type);
    CHECK_NOTHROW(quantize(in, dir.file("out.gguf"), {type, true, false, importance_for(in)}));
  }
}

TEST_CASE("quantize: the mixtures of few bits, whose choice depends on the heads") {
  TempDir dir;
  TinyModelOptions options = source_options();
  options.n_ff = 512;
  options.tied = false;
  const auto types = [&](const char* type, int n_head_kv) {
    options.n_head = 4;
    options.n_head_kv = n_head_kv;
    test::write_tiny_model(dir.file("in.gguf"), options);
    const GgufFile in = GgufFile::open(dir.file("in.gguf"));
    std::map<std::string, TensorType> chosen;
    for (const TensorChange& c : plan_quantization(in, {type, false, false, importance_for(in)})) {
      chosen[c.tensor->name] = c.to;
    }
    return chosen;
  };
  auto chosen = types("IQ2_XS", 2);
  CHECK(chosen["output.weight"] == TensorType::kQ5_K);
  CHECK(chosen["token_embd.weight"] == TensorType::kQ2_K);
  CHECK(chosen["blk.3.attn_v.weight"] == TensorType::kQ2_K);
  CHECK(chosen["blk.3.attn_q.weight"] == TensorType::kIQ2_XS);
  CHECK(chosen["blk.0.ffn_down.weight"] == TensorType::kQ2_K);
  CHECK(chosen["blk.1.ffn_down.weight"] == TensorType::kIQ2_XS);
  CHECK(types("IQ2_XS", 1)["blk.3.attn_v.weight"] == TensorType::kQ4_K);  // four heads share one
  chosen = types("IQ1_S", 2);
  CHECK(chosen["blk.3.attn_output.weight"] == TensorType::kIQ2_XXS);
  CHECK(chosen["blk.3.ffn_up.weight"] == TensorType::kIQ1_S);
  chosen = types("IQ2_M", 2);
  CHECK(chosen["token_embd.weight"] == TensorType::kIQ3_S);
  CHECK(chosen["blk.3.attn_v.weight"] == TensorType::kIQ3_S);
  CHECK(chosen["blk.3.ffn_gate.weight"] == TensorType::kIQ2_S);
  chosen = types("IQ3_XXS", 2);
  CHECK(chosen["blk.3.attn_k.weight"] == TensorType::kIQ2_S);
  CHECK(chosen["blk.3.attn_output.weight"] == TensorType::kIQ3_S);
  chosen = types("IQ3_XS", 2);
  CHECK(chosen["output.weight"] == TensorType::kQ6_K);
  CHECK(chosen["blk.0.ffn_up.weight"] == TensorType::kIQ3_S);
  CHECK(chosen["blk.1.ffn_up.weight"] == TensorType::kIQ3_XXS);
  CHECK(chosen["blk.7.ffn_up.weight"] == TensorType::kIQ3_S);
  options.n_ff = 288;  // no multiple of 256
  CHECK(types("IQ2_XS", 2)["blk.3.ffn_down.weight"] == TensorType::kIQ4_NL);
}

TEST_CASE("quantize: few bits want to know which columns matter") {
  TempDir dir;
  test::write_tiny_model(dir.file("in.gguf"), source_options());
  const GgufFile in = GgufFile::open(dir.file("in.gguf"));
  for (const char* type : {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS"}) {
    CAPTURE(type);
    CHECK_THROWS_WITH_AS(quantize(in, dir.file("out.gguf"), {type, false, false, {}}),
                         doctest::Contains("--imatrix"), SetupError);
    ImportanceMatrix importance = importance_for(in);
    importance.erase("blk.5.ffn_up.weight");
    CHECK_THROWS_WITH_AS(quantize(in, dir.file("out.gguf"), {type, true, false, importance}),
                         doctest::Contains("does not name it"), SetupError);
  }
  CHECK_FALSE(std::filesystem::exists(dir.file("out.gguf")));
  CHECK_NOTHROW(quantize(in, dir.file("out.gguf"), {"IQ3_S", false, false, {}}));
}

TEST_CASE("quantize: the same bytes with any number of threads") {
  TempDir dir;
  TinyModelOptions options = source_options();
  options.n_layer = 1;
  options.n_ff = 256;
  test::write_tiny_model(dir.file("in.gguf"), options);
  const GgufFile in = GgufFile::open(dir.file("in.gguf"));
  for (const char* type : {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_M", "IQ3_XXS", "IQ3_S", "Q4_K"}) {
    CAPTURE(type);
    const QuantizeOptions how = {type, true, false, importance_for(in)};
    const GgufFile one = quantize(in, dir.file("one.gguf"), how, 1);
    const GgufFile three = quantize(in, dir.file("three.gguf"), how, 3);
    for (const TensorInfo& tensor : one.tensors()) {
      CHECK(bytes_of(one, tensor) == bytes_of(three, three.tensor(tensor.name)));
    }
  }
}

TEST_CASE("quantize: each expert has its own importance") {
  TempDir dir;
  TinyModelOptions options = source_options();
  options.arch = "qwen3moe";
  options.n_layer = 1;
  options.n_ff = 256;
  test::write_tiny_model(dir.file("in.gguf"), options);
  const GgufFile in = GgufFile::open(dir.file("in.gguf"));
  const std::string name = "blk.0.ffn_up_exps.weight";
  const TensorInfo& experts = in.tensor(name);
  REQUIRE(experts.dims.size() == 3);
  const auto n = static_cast<uint64_t>(experts.dims[2]);
  test::GgufWriter matrix;
  std::string sums, counts;
  for (uint64_t e = 0; e < n; ++e) {
    for (int64_t k = 0; k < experts.cols(); ++k) {
      sums += test::GgufWriter::pod(static_cast<float>(e == 1 && k % 2 == 0 ? 800 : 8));
    }
    counts += test::GgufWriter::pod(8.0f);
  }
  matrix.add_tensor(name + ".in_sum2", TensorType::kF32, {static_cast<uint64_t>(experts.cols()), n}, sums);
  matrix.add_tensor(name + ".counts", TensorType::kF32, {1, n}, counts);
  matrix.write(dir.file("imatrix.gguf"));
  const ImportanceMatrix importance = read_importance(dir.file("imatrix.gguf"));
  const std::vector<float> ones(static_cast<size_t>(experts.cols()), 1.0f);
  const GgufFile even = quantize(in, dir.file("even.gguf"), {"IQ3_S", true, false, {{name, ones}}});
  const GgufFile own = quantize(in, dir.file("own.gguf"), {"IQ3_S", true, false, importance});
  const std::vector<std::byte> a = bytes_of(even, even.tensor(name)), b = bytes_of(own, own.tensor(name));
  const size_t one = a.size() / n;
  for (size_t e = 0; e < n; ++e) {
    CHECK(std::equal(a.begin() + e * one, a.begin() + (e + 1) * one, b.begin() + e * one) == (e != 1));
  }
}

TEST_CASE("quantize: importance changes the bytes of its tensor alone, and must fit") {
  TempDir dir;
  test::write_tiny_model(dir.file("in.gguf"), source_options());
  const GgufFile in = GgufFile::open(dir.file("in.gguf"));
  test::GgufWriter matrix;
  std::string sums;
  for (int k = 0; k < 256; ++k) sums += test::GgufWriter::pod(static_cast<float>(k * k));
  matrix.add_tensor("blk.1.attn_q.weight.in_sum2", TensorType::kF32, {256, 1}, sums);
  matrix.add_tensor("blk.1.attn_q.weight.counts", TensorType::kF32, {1, 1}, test::GgufWriter::pod(4.0f));
  matrix.write(dir.file("imatrix.gguf"));

  const ImportanceMatrix importance = read_importance(dir.file("imatrix.gguf"));
  REQUIRE(importance.size() == 1);
  CHECK(importance.at("blk.1.attn_q.weight")[10] == 25.0f);
  const GgufFile plain = quantize(in, dir.file("plain.gguf"), {"Q4_0", false, false, {}});
  const GgufFile weighted = quantize(in, dir.file("weighted.gguf"), {"Q4_0", false, false, importance});
  for (const TensorInfo& tensor : plain.tensors()) {
    const bool same = bytes_of(plain, tensor) == bytes_of(weighted, weighted.tensor(tensor.name));
    CHECK(same == (tensor.name != "blk.1.attn_q.weight"));
  }
  CHECK_THROWS_WITH_AS(
      quantize(in, dir.file("x.gguf"), {"Q4_0", false, false, {{"blk.0.attn_q.weight", {1, 2, 3}}}}),
      doctest::Contains("made for another model"), SetupError);
  CHECK_THROWS_WITH_AS(read_importance(dir.file("in.gguf")), doctest::Contains("not an importance matrix"),
                       SetupError);
}

TEST_CASE("quantize: what it refuses, and that nothing is left behind") {
  TempDir dir;
  test::write_tiny_model(dir.file("in.gguf"), source_options());
  test::write_tiny_model(dir.file("q8.gguf"), source_options(TensorType::kQ8_0));
  const GgufFile in = GgufFile::open(dir.file("in.gguf")), q8 = GgufFile::open(dir.file("q8.gguf"));
  CHECK_THROWS_WITH_AS(quantize(in, dir.file("out.gguf"), {"Q4_M", false, false, {}}),
                       doctest::Contains("known are F16, BF16"), SetupError);
  CHECK_THROWS_WITH_AS(quantize(in, dir.file("in.gguf"), {"Q4_0", false, false, {}}),
                       doctest::Contains("is the source itself"), SetupError);
  CHECK_THROWS_WITH_AS(quantize(q8, dir.file("out.gguf"), {"Q4_0", false, false, {}}),
                       doctest::Contains("--allow-requantize"), SetupError);
  CHECK_NOTHROW(quantize(q8, dir.file("again.gguf"), {"Q4_0", false, true, {}}));
  CHECK_THROWS_WITH_AS(quantize(in, dir.file("none/out.gguf"), {"Q4_0", false, false, {}}),
                       doctest::Contains("could not be created"), SetupError);

  test::GgufWriter adapter = test::tiny_model(source_options());
  adapter.set_string("general.type", "adapter");
  adapter.write(dir.file("adapter.gguf"));
  const GgufFile beside = GgufFile::open(dir.file("adapter.gguf"));
  CHECK_THROWS_WITH_AS(quantize(beside, dir.file("out.gguf"), {"Q4_0", false, false, {}}),
                       doctest::Contains("is an adapter (LoRA) and no model"), SetupError);

  test::GgufWriter damaged = test::tiny_model(source_options());
  damaged.tensor("blk.2.attn_k.weight").data.replace(4, 4, test::GgufWriter::pod(0x7f800000u));
  damaged.write(dir.file("damaged.gguf"));
  const GgufFile bad = GgufFile::open(dir.file("damaged.gguf"));
  CHECK_THROWS_WITH_AS(quantize(bad, dir.file("out.gguf"), {"Q4_0", false, false, {}}),
                       doctest::Contains("blk.2.attn_k.weight"), SetupError);
  CHECK_FALSE(std::filesystem::exists(dir.file("out.gguf")));
  CHECK_FALSE(has_remains(dir));
}

TEST_CASE("quantize: what the output may be, and that a source is safe under any name") {
  const test::TempDir dir;
  // A name that a file half written might have had.
  test::tiny_model(source_options()).write(dir.file("out.gguf.partial"));
  const std::string before = read_file(dir.file("out.gguf.partial"));
  {
    const GgufFile in = GgufFile::open(dir.file("out.gguf.partial"));
    quantize(in, dir.file("out.gguf"), {"Q8_0", false, false, {}});
    CHECK(read_file(dir.file("out.gguf.partial")) == before);
    const std::string written = read_file(dir.file("out.gguf"));
    std::filesystem::create_symlink(dir.file("out.gguf"), dir.file("link.gguf"));
    quantize(in, dir.file("link.gguf"), {"Q4_0", false, false, {}});  // the link stays, its file is new
    CHECK(std::filesystem::is_symlink(dir.file("link.gguf")));
    CHECK(read_file(dir.file("out.gguf")) != written);
    std::filesystem::create_symlink("new.gguf", dir.file("link-to-nothing.gguf"));
    quantize(in, dir.file("link-to-nothing.gguf"), {"q4_0", false, false, {}});
    CHECK(std::filesystem::is_symlink(dir.file("link-to-nothing.gguf")));
    CHECK(std::filesystem::is_regular_file(dir.file("new.gguf")));
    std::filesystem::create_symlink("loop.gguf", dir.file("loop.gguf"));
    CHECK_THROWS_WITH_AS(quantize(in, dir.file("loop.gguf"), {"Q4_0", false, false, {}}),
                         doctest::Contains("link to itself"), SetupError);
    std::filesystem::create_symlink("none/new.gguf", dir.file("link-nowhere.gguf"));
    CHECK_THROWS_WITH_AS(quantize(in, dir.file("link-nowhere.gguf"), {"Q4_0", false, false, {}}),
                         doctest::Contains("link-nowhere.gguf', a link to '"), SetupError);
    CHECK_THROWS_WITH_AS(plan_quantization(in, {"Q4_0", false, false, {{"another.weight", {1.0f}}}}),
                         doctest::Contains("names no tensor"), SetupError);
    for (const std::string& other : {dir.path(), std::string("/dev/null")}) {
      CHECK_THROWS_WITH_AS(quantize(in, other, {"Q4_0", false, false, {}}), doctest::Contains("is no file"),
                           SetupError);
    }
    CHECK(std::filesystem::is_character_file("/dev/null"));
    // Two at once: each file is whole, and one of them has the name.
    GgufOutput a(dir.file("both.gguf")), b(dir.file("both.gguf"));
    a.write(std::as_bytes(std::span("first", 5)));
    b.write(std::as_bytes(std::span("second", 6)));
    a.finish();
    CHECK(read_file(dir.file("both.gguf")) == "first");
    b.finish();
    CHECK(read_file(dir.file("both.gguf")) == "second");
  }
  std::filesystem::remove(dir.file("out.gguf.partial"));
  CHECK_FALSE(has_remains(dir));
}

}  // namespace shoal
