#include "sharding/shard.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "model/weight_manifest.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace shoal {
namespace {

struct Loaded {
  explicit Loaded(const test::TinyModelOptions& options) {
    test::write_tiny_model(path, options);
    file = GgufFile::open(path);
    config = ModelConfig::from(file);
  }
  test::TempDir dir;
  std::string path = dir.file("tiny.gguf");
  GgufFile file;
  ModelConfig config;
};

test::TinyModelOptions options_for(const char* arch, TensorType type, bool tied) {
  test::TinyModelOptions o;
  o.arch = arch;
  o.type = type;
  o.tied = tied;
  o.n_layer = 4;
  o.n_vocab = 300;
  o.rope_freqs = true;
  return o;
}

TEST_CASE("shard_bytes is what load_shard keeps, and shards of a cut add up to the whole") {
  ThreadPool pool(2);
  for (const bool tied : {false, true}) {
    for (const char* arch : {"llama", "qwen2", "qwen3", "phi3", "gemma3", "qwen3moe"}) {
      const Loaded m(options_for(arch, TensorType::kQ5_K, tied));
      const auto load = [&](const ShardSpec& spec) {
        const ShardWeights w = load_shard(m.file, m.config, spec, pool);
        CHECK(w.bytes() == shard_bytes(m.file, m.config, spec));
        CHECK(w.spec == spec);
        CHECK(w.layers.size() == static_cast<size_t>(spec.layers.size()));
        return w.bytes();
      };
      const uint64_t whole = load({true, {0, 4}, true});
      const uint64_t first = load({true, {0, 1}, false}), middle = load({false, {1, 3}, false}),
                     last = load({false, {3, 4}, true});
      const uint64_t embedding = load({true, {0, 0}, false});
      // Every shard with layers has the rope factors; a tied embedding is at both ends.
      const uint64_t factors = 32 * sizeof(float);
      CHECK(first + middle + last == whole + 2 * factors + (tied ? embedding : 0));
    }
  }
}

TEST_CASE("a tied head shares the embedding, also one that is loaded already") {
  ThreadPool pool(1);
  const Loaded m(options_for("llama", TensorType::kQ4_0, true));
  const ShardWeights whole = load_shard(m.file, m.config, {true, {0, 4}, true}, pool);
  CHECK(whole.output == whole.token_embd);
  const ShardWeights head = load_shard(m.file, m.config, {false, {4, 4}, true}, pool);
  REQUIRE(head.output);
  CHECK(head.output != whole.output);
  CHECK(head.output->rows() == m.config.n_vocab);
  uint64_t total = 0;
  const ShardWeights shared = load_shard(
      m.file, m.config, {false, {4, 4}, true}, pool, [&](uint64_t, uint64_t all) { total = all; },
      whole.token_embd);
  CHECK(shared.output == whole.token_embd);
  CHECK(total == m.file.tensor("output_norm.weight").bytes);
  const ShardWeights middle =
      load_shard(m.file, m.config, {false, {1, 2}, false}, pool, {}, whole.token_embd);
  CHECK(middle.token_embd == nullptr);
}

TEST_CASE("packed weights hold the file's values, whatever the thread count") {
  const Loaded m(options_for("qwen2", TensorType::kQ6_K, false));
  ThreadPool one(1), three(3);
  const ShardSpec spec{true, {2, 4}, true};
  const ShardWeights a = load_shard(m.file, m.config, spec, one),
                     b = load_shard(m.file, m.config, spec, three);
  std::vector<float> row_a(m.config.n_embd), row_b(m.config.n_embd);
  for (int row = 0; row < m.config.n_vocab; ++row) {
    a.token_embd->decode_row(row, row_a.data());
    b.token_embd->decode_row(row, row_b.data());
    REQUIRE(row_a == row_b);
  }
  CHECK(a.layers[1].attn_k_bias == b.layers[1].attn_k_bias);
  // Layer 3 of the model, not of the shard.
  const TensorInfo& info = m.file.tensor("blk.3.attn_k.bias");
  std::vector<float> bias(info.cols());
  m.file.read(info, 0, std::as_writable_bytes(std::span(bias)));
  CHECK(a.layers[1].attn_k_bias == bias);
}

TEST_CASE("progress counts this shard's bytes of the file up to the end") {
  const Loaded m(options_for("llama", TensorType::kF16, false));
  ThreadPool pool(2);
  uint64_t last = 0, all = 0, wanted = 0;
  for (const TensorInfo& t : m.file.tensors())
    if (t.name.starts_with("blk.1.") || t.name == "rope_freqs.weight") wanted += t.bytes;
  load_shard(m.file, m.config, {false, {1, 2}, false}, pool, [&](uint64_t done, uint64_t total) {
    CHECK(done >= last);
    CHECK(done <= total);
    last = done;
    all = total;
  });
  CHECK(last == wanted);
  CHECK(all == wanted);
}

TEST_CASE("a file that is cut short while it is loaded is an error, from any thread") {
  const Loaded m(options_for("llama", TensorType::kQ8_0, true));
  std::filesystem::resize_file(m.path, m.file.tensor("blk.2.ffn_up.weight").offset + 1000);
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    CHECK_NOTHROW(load_shard(m.file, m.config, {true, {0, 2}, false}, pool));
    CHECK_THROWS_AS(load_shard(m.file, m.config, {false, {2, 4}, false}, pool), SetupError);
  }
}

// Gives a file's blocks, whole ones only, and remembers which tensors were asked for.
class FileBlocks : public BlockSource {
 public:
  explicit FileBlocks(const GgufFile& file) : file_(file) {}
  void read_block(const TensorInfo& tensor, uint64_t block, std::span<std::byte> out) override {
    const std::lock_guard lock(mutex_);
    CHECK(out.size() == bytes_of_block(tensor, block));
    file_.read(tensor, block * block_bytes(tensor), out);
    asked.insert(tensor.name);
  }
  std::set<std::string> asked;

 private:
  const GgufFile& file_;
  std::mutex mutex_;
};

TEST_CASE("weights from blocks are those from the file, also where a tensor holds several matrices") {
  ThreadPool pool(2);
  for (const char* arch : {"llama", "qwen2", "phi3", "gemma3"}) {
    test::TinyModelOptions options = options_for(arch, TensorType::kQ4_0, true);
    options.n_ff = 1184;     // parts of a tensor that begin inside a block
    options.n_vocab = 2000;  // an embedding of several blocks
    const Loaded m(options);
    FileBlocks blocks(m.file);
    const ShardSpec spec{true, {1, 3}, true};
    const ShardWeights a = load_shard(m.file, m.config, spec, pool),
                       b = load_shard(m.file, m.config, spec, pool, {}, nullptr, &blocks);
    const std::vector<std::string> names = shard_tensors(m.file, m.config, spec);
    CHECK(blocks.asked == std::set<std::string>(names.begin(), names.end()));
    CHECK(blocks.asked.size() == names.size());
    const auto equal = [](const WeightMatrix& x, const WeightMatrix& y) {
      REQUIRE(x.rows() == y.rows());
      std::vector<float> row_x(static_cast<size_t>(x.cols())), row_y(row_x);
      for (int64_t row = 0; row < x.rows(); ++row) {
        x.decode_row(row, row_x.data());
        y.decode_row(row, row_y.data());
        if (row_x != row_y) return false;
      }
      return true;
    };
    CHECK(equal(*a.token_embd, *b.token_embd));
    CHECK(a.output_norm == b.output_norm);
    for (size_t i = 0; i < a.layers.size(); ++i) {
      CHECK(equal(a.layers[i].attn_q, b.layers[i].attn_q));
      CHECK(equal(a.layers[i].attn_v, b.layers[i].attn_v));
      CHECK(equal(a.layers[i].ffn_gate, b.layers[i].ffn_gate));
      CHECK(equal(a.layers[i].ffn_up, b.layers[i].ffn_up));
      CHECK(equal(a.layers[i].ffn_down, b.layers[i].ffn_down));
      CHECK(a.layers[i].ffn_norm == b.layers[i].ffn_norm);
    }
  }
}

TEST_CASE("rope factors that cannot divide are refused by name") {
  test::GgufWriter writer = test::tiny_model(options_for("llama", TensorType::kF32, true));
  writer.tensor("rope_freqs.weight").data.replace(4, 4, test::GgufWriter::pod(0.0f));
  test::TempDir dir;
  writer.write(dir.file("bad.gguf"));
  const GgufFile file = GgufFile::open(dir.file("bad.gguf"));
  const ModelConfig config = ModelConfig::from(file);
  ThreadPool pool(1);
  CHECK_THROWS_WITH_AS(load_shard(file, config, {false, {0, 1}, false}, pool),
                       doctest::Contains("rope_freqs.weight"), SetupError);
}

}  // namespace
}  // namespace shoal
