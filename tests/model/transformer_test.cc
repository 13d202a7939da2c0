// The engine's layers against the float64 reference, for every architecture and format; and the property that
// a row's result depends on nothing but the row and its own sequence.
#include "model/transformer.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/support/reference_model.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_families.h"

namespace shoal {
namespace {

WeightMatrix read_rows(const GgufFile& file, const std::string& name, int64_t first, int64_t rows) {
  const TensorInfo& info = file.tensor(name);
  const uint64_t row_bytes = info.bytes / info.rows();
  std::vector<std::byte> bytes(rows * row_bytes);
  file.read(info, first * row_bytes, bytes);
  WeightMatrix w(info.type, rows, info.cols());
  w.pack_rows(0, rows, bytes);
  return w;
}

WeightMatrix read_matrix(const GgufFile& file, const std::string& name) {
  return read_rows(file, name, 0, file.tensor(name).rows());
}

std::vector<float> read_vector(const GgufFile& file, const std::string& name) {
  const TensorInfo* info = file.find_tensor(name);
  if (info == nullptr) return {};
  REQUIRE(info->type == TensorType::kF32);
  std::vector<float> values(info->bytes / sizeof(float));
  file.read(*info, 0, std::as_writable_bytes(std::span(values)));
  return values;
}

// A tiny model with all that a step needs.
struct Engine {
  Engine(const test::TinyModelOptions& options, const Kernels& kernels, int threads)
      : kernels(kernels), pool(threads) {
    test::write_tiny_model(dir.file("tiny.gguf"), options);
    file = std::make_unique<GgufFile>(GgufFile::open(dir.file("tiny.gguf")));
    config = ModelConfig::from(*file);
    act = std::make_unique<Activations>(config, kRows, kContext, threads);
    cache = std::make_unique<KvCache>(config, 0, config.n_layer, kContext, kSlots);
    token_embd = read_matrix(*file, "token_embd.weight");
    output = read_matrix(*file, config.tied_output ? "token_embd.weight" : "output.weight");
    output_norm = read_vector(*file, "output_norm.weight");
    frequencies = rope_frequencies(config, read_vector(*file, "rope_freqs.weight"));
    cx = {&config, &this->kernels, &pool, act.get(), frequencies.data()};
    for (int layer = 0; layer < config.n_layer; ++layer) load_layer(layer);
  }

  void load_layer(int layer) {
    LayerWeights& l = layers.emplace_back(config);
    for (const LayerMatrix& m : layer_matrices(config, layer))
      m.in(l) = read_rows(*file, m.tensor, m.first_row, m.rows);
    for (const LayerVector& v : layer_vectors(config, layer)) l.*v.field = read_vector(*file, v.tensor);
  }

  // All layers over the rows; hidden[i] is what layer i - 1 left, hidden[n_layer + 1] the logits.
  std::vector<std::vector<float>> step(const std::vector<BatchRow>& rows) {
    for (const BatchRow& row : rows) {
      cache->trim(row.slot, row.position);
      REQUIRE(cache->extend(row.slot, 1).has_value());
    }
    const int n = static_cast<int>(rows.size());
    std::vector<std::vector<float>> hidden(1, std::vector<float>(rows.size() * config.n_embd));
    embed(cx, token_embd, rows, hidden[0].data());
    prepare_positions(cx, rows);
    for (int layer = 0; layer < config.n_layer; ++layer) {
      hidden.push_back(hidden.back());
      forward_layer(cx, layer, layers[layer], rows, *cache, hidden.back().data());
    }
    std::vector<float> logits(rows.size() * config.n_vocab);
    output_head(cx, output_norm, output, hidden.back().data(), n, logits.data());
    hidden.push_back(std::move(logits));
    return hidden;
  }

  static constexpr int kRows = 80, kContext = 128, kSlots = 3;
  test::TempDir dir;
  const Kernels& kernels;
  ThreadPool pool;
  std::unique_ptr<GgufFile> file;
  ModelConfig config;
  std::unique_ptr<Activations> act;
  std::unique_ptr<KvCache> cache;
  WeightMatrix token_embd, output;
  std::vector<float> output_norm;
  std::vector<double> frequencies;
  std::vector<LayerWeights> layers;
  ComputeContext cx;
};

test::TinyModelOptions options_for(const std::string& arch, TensorType type) {
  test::TinyModelOptions o;
  o.arch = arch;
  o.type = type;
  o.n_ff = 256;
  o.n_vocab = 300;  // not a multiple of 16
  o.rope_freqs = arch == "llama";
  o.tied = arch != "qwen2";
  if (arch == "gemma2")
    o.keys = [](test::GgufWriter& w, const std::string& p) { w.set_u32(p + "attention.sliding_window", 24); };
  if (arch == "qwen2") o.n_head_kv = 1;
  if (arch == "qwen3") o.n_head = 8, o.n_head_kv = 2, o.head_dim = 64;  // wider than n_embd / n_head
  return o;
}

std::vector<BatchRow> random_rows(int n, int slot, int n_vocab, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<BatchRow> rows;
  for (int i = 0; i < n; ++i) rows.push_back({static_cast<int32_t>(random() % n_vocab), i, slot, true});
  return rows;
}

// Root mean square of (got - want), over that of (want - base).
double relative_error(std::span<const float> got, std::span<const double> want,
                      std::span<const double> base) {
  double error = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    size += (want[i] - base[i]) * (want[i] - base[i]);
  }
  return std::sqrt(error / size);
}

// Each row's error of what each layer adds, given the same input as the engine's layer had, and of the
// logits.
std::vector<double> errors_against(test::ReferenceModel reference, const Engine& e,
                                   const std::vector<BatchRow>& rows,
                                   const std::vector<std::vector<float>>& hidden) {
  std::vector<double> errors;
  const auto row_of = [&](size_t layer, size_t r) {
    const size_t width = hidden[layer].size() / rows.size();
    return std::span(hidden[layer]).subspan(r * width, width);
  };
  for (size_t r = 0; r < rows.size(); ++r) {
    const std::vector<double> exact = reference.embed(rows[r].token);
    const std::vector<float> embedded(exact.begin(), exact.end());
    REQUIRE(std::equal(embedded.begin(), embedded.end(), row_of(0, r).begin()));
    for (int layer = 0; layer <= e.config.n_layer; ++layer) {
      const std::span<const float> in = row_of(layer, r);
      const std::vector<double> before(in.begin(), in.end());
      const bool is_layer = layer < e.config.n_layer;
      const std::vector<double> after =
          is_layer ? reference.forward_layer(layer, before) : reference.logits(before);
      const std::vector<double> base = is_layer ? before : std::vector<double>(after.size(), 0.0);
      errors.push_back(relative_error(row_of(layer + 1, r), after, base));
    }
  }
  std::sort(errors.begin(), errors.end());
  return errors;
}

// What the tolerances are made of (relative to what a layer adds to hidden):
// - kSame, for the median row: sums of up to 512 terms in f32, each step off by at most 2^-24; errors of
// independent sign
//   add up to about sqrt(512) 2^-24 = 1.4e-6, and a layer has seven products one after another.
// - Where the reference rounds as the engine does, a value can still lie so near to a boundary that f32 and
// double fall
//   to different sides, which happens to an int8 once in about 1e5. The row then differs by one step there,
//   and the small change makes more of the following roundings differ: at worst all of them, which is the
//   noise of the rounding itself. So the largest error is bounded by the same number as against a reference
//   without rounding:
// - kInt8: every activation off by up to half a step, deviation 3 / 127 / sqrt(12) = 0.7 % where a block's
// largest
//   is three deviations; the products from attention's values to the layer's end add four such errors: 1.4 %;
//   three times that for the worst row.
// - kHalf: the same for K and V in f16, 2^-11 / sqrt(3) = 2.8e-4 each; three times that.
constexpr double kSame = 1e-5, kInt8 = 0.042, kHalf = 0.85e-3;

// Median and largest error of a model's rows with the engine's roundings and without any.
struct Errors {
  double median = 0, largest = 0, plain = 0;
  void widen(const Errors& e) {
    median = std::max(median, e.median);
    largest = std::max(largest, e.largest);
    plain = std::max(plain, e.plain);
  }
};

Errors check_errors(const test::TinyModelOptions& options, int n_rows, bool rounds) {
  Engine e(options, select_kernels(), 2);
  const std::vector<BatchRow> rows = random_rows(n_rows, 1, e.config.n_vocab, 3);
  const std::vector<std::vector<float>> hidden = e.step(rows);
  const std::vector<double> same = errors_against({*e.file, e.config, {true, true}}, e, rows, hidden);
  const std::vector<double> plain = errors_against({*e.file, e.config, {false, false}}, e, rows, hidden);
  CHECK(same[same.size() / 2] < kSame);
  CHECK(same.back() < (rounds ? kInt8 : kHalf));
  CHECK(plain.back() < (rounds ? kInt8 : kHalf));
  return {same[same.size() / 2], same.back(), plain.back()};
}

void print(const std::string& name, const Errors& e) {
  MESSAGE(name << ": same roundings: median row " << e.median << ", largest " << e.largest
               << "; no roundings: largest " << e.plain);
}

TEST_CASE("every format agrees with the float64 reference, layer by layer") {
  for (const char* arch : {"llama", "qwen2", "qwen3"}) {
    Errors worst;
    for (const auto& [type, type_name] : test::tiny_model_types()) {
      INFO(std::string(arch), " ", std::string(type_name));
      const bool rounds = type != TensorType::kF32 && type != TensorType::kF16 && type != TensorType::kBF16;
      worst.widen(check_errors(options_for(arch, type), 35, rounds));  // into the second page
    }
    print(arch, worst);
  }
}

TEST_CASE("every family agrees with the float64 reference, layer by layer") {
  for (const test::TinyFamily& family : test::tiny_families()) {
    if (family.options.rope_factors) continue;  // two sets of factors are the stage's to choose from
    INFO(family.name);
    print(family.name, check_errors(family.options, test::kFamilyPrompt, false));
  }
}

TEST_CASE("a window hides what lies before it, and only in the layers that have one") {
  for (const char* name : {"gemma2", "gemma3"}) {
    INFO(std::string(name));
    Engine e(test::tiny_family(name).options, select_kernels(), 1);
    const int n = 30, window = *std::max_element(e.config.window.begin(), e.config.window.end());
    REQUIRE(window > 0);
    REQUIRE(window < n / 2);
    std::vector<BatchRow> rows = random_rows(n, 0, e.config.n_vocab, 9);
    const auto first_layers = [&] {
      const std::vector<std::vector<float>> hidden = e.step(rows);
      return std::vector<float>(hidden[1].end() - e.config.n_embd, hidden[1].end());  // layer 0, last row
    };
    REQUIRE(e.config.window[0] == window);
    const std::vector<float> before = first_layers();
    rows[n - 1 - window].token ^= 1;
    CHECK(first_layers() == before);
    rows[n - window].token ^= 1;
    CHECK(first_layers() != before);
  }
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

TEST_CASE(
    "a row of a step equals the same row fed alone, bit for bit, on every kernel table and thread count") {
  for (const TensorType type : {TensorType::kF16, TensorType::kQ4_1, TensorType::kQ6_K}) {
    for (const char* arch : {"llama", "qwen3", "gemma2", "qwen3moe"}) {
      Engine alone(options_for(arch, type), *available_kernels().front(), 1);
      const std::vector<BatchRow> rows = random_rows(70, 0, alone.config.n_vocab, 5);
      std::vector<std::vector<std::vector<float>>> expected;  // of each row, each layer
      for (const BatchRow& row : rows) expected.push_back(alone.step({row}));

      for (const Kernels* kernels : available_kernels()) {
        for (const int threads : {1, 2, 3}) {
          INFO(std::string(arch), " ", std::string(kernels->name), ", threads ", threads);
          Engine together(options_for(arch, type), *kernels, threads);
          const std::vector<std::vector<float>> got = together.step(rows);
          for (size_t layer = 0; layer < got.size(); ++layer) {
            const size_t width = got[layer].size() / rows.size();
            for (size_t r = 0; r < rows.size(); ++r)
              REQUIRE(same_bits(std::span(got[layer]).subspan(r * width, width), expected[r][layer]));
          }
        }
      }
    }
  }
}

TEST_CASE("Activations::bytes grows with rows and threads, and covers the buffers") {
  Engine e(options_for("llama", TensorType::kF32), select_kernels(), 1);
  const uint64_t bytes = Activations::bytes(e.config, 64, 128, 2);
  CHECK(bytes > Activations::bytes(e.config, 32, 128, 2));
  CHECK(bytes > Activations::bytes(e.config, 64, 128, 1));
  CHECK(bytes > Activations(e.config, 64, 128, 2).memory.size());
}

}  // namespace
}  // namespace shoal
