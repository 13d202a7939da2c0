#include "sharding/shard.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <string>

#include "base/check.h"
#include "base/error.h"
#include "model/weight_manifest.h"

namespace shoal {

namespace {

// The tensors of a layer: what a file calls them, where they go, whether this architecture has them.
struct MatrixField {
  const char* name;
  WeightMatrix LayerWeights::*field;
};
constexpr MatrixField kLayerMatrices[] = {
    {"attn_q.weight", &LayerWeights::attn_q},     {"attn_k.weight", &LayerWeights::attn_k},
    {"attn_v.weight", &LayerWeights::attn_v},     {"attn_output.weight", &LayerWeights::attn_output},
    {"ffn_gate.weight", &LayerWeights::ffn_gate}, {"ffn_up.weight", &LayerWeights::ffn_up},
    {"ffn_down.weight", &LayerWeights::ffn_down},
};

struct VectorField {
  const char* name;
  std::vector<float> LayerWeights::*field;
  bool Architecture::*present;  // null: always
};
constexpr VectorField kLayerVectors[] = {
    {"attn_norm.weight", &LayerWeights::attn_norm, nullptr},
    {"attn_q.bias", &LayerWeights::attn_q_bias, &Architecture::qkv_bias},
    {"attn_k.bias", &LayerWeights::attn_k_bias, &Architecture::qkv_bias},
    {"attn_v.bias", &LayerWeights::attn_v_bias, &Architecture::qkv_bias},
    {"attn_q_norm.weight", &LayerWeights::attn_q_norm, &Architecture::qk_norm},
    {"attn_k_norm.weight", &LayerWeights::attn_k_norm, &Architecture::qk_norm},
    {"ffn_norm.weight", &LayerWeights::ffn_norm, nullptr},
};

bool has(const ModelConfig& config, const VectorField& vector) {
  return vector.present == nullptr || config.arch->*vector.present;
}

bool needs_embedding_matrix(const ModelConfig& config, const ShardSpec& spec) {
  return spec.embedding || (spec.output && config.tied_output);
}

bool needs_rope_factors(const ModelConfig& config, const ShardSpec& spec) {
  return config.rope_factors && spec.layers.size() > 0;
}

void check_spec(const ModelConfig& config, const ShardSpec& spec) {
  SHOAL_CHECK(0 <= spec.layers.begin && spec.layers.begin <= spec.layers.end &&
              spec.layers.end <= config.n_layer);
}

size_t rounded_bytes(const TensorInfo& info) {  // of a matrix that shares memory with others
  return (WeightMatrix::packed_bytes(info.type, info.rows(), info.cols()) + 63) / 64 * 64;
}

// A block (model/weight_manifest.h) is read at once: it fits the second-level cache, so that it is packed
// from there. A share is what a thread claims at once: whole blocks, about a huge page of packed bytes, so
// that two threads seldom wait for the same page to be zeroed.
constexpr uint64_t kShareBytes = 2 << 20;
constexpr int64_t kReadAheadShares = 16;  // that the disk is asked for while one is packed

// Reads and packs matrices: first all are planned, then read by all threads of the pool, each taking shares
// of rows in the order of the plan, so that the file's bytes never lie in memory beside the packed ones.
class ShardReader {
 public:
  ShardReader(const GgufFile& file, BlockSource* source, ThreadPool& pool, uint64_t total,
              const std::function<void(uint64_t, uint64_t)>& progress)
      : file_(file), source_(source), pool_(pool), total_(total), progress_(progress), pieces_(pool.size()) {}

  // Plans to fill *out, which must stay where it is until read() has returned, in memory of its own.
  void plan_matrix(const std::string& name, WeightMatrix* out) {
    const TensorInfo& info = file_.tensor(name);
    *out = WeightMatrix(info.type, info.rows(), info.cols());
    plan(info, out);
  }

  // The same with the matrix in bytes [*at, ..) of `memory`; moves *at on.
  void plan_matrix(const std::string& name, WeightMatrix* out, const std::shared_ptr<AlignedBuffer>& memory,
                   size_t* at) {
    const TensorInfo& info = file_.tensor(name);
    *out = WeightMatrix(info.type, info.rows(), info.cols(), memory, *at);
    *at += rounded_bytes(info);
    plan(info, out);
  }

  // Reads everything planned. Throws the first thread's error, if any, after all have stopped.
  void read() {
    std::exception_ptr error;
    std::mutex error_mutex;
    std::atomic<bool> failed{false};
    // An exception must not leave a pool thread.
    pool_.for_each(static_cast<int64_t>(shares_.size()), [&](int64_t i, int thread) {
      if (failed) return;
      try {
        read_share(i, thread);
      } catch (...) {
        std::lock_guard lock(error_mutex);
        if (!failed.exchange(true)) error = std::current_exception();
      }
    });
    shares_.clear();
    if (error) std::rethrow_exception(error);
    if (progress_) progress_(done_, total_);
  }

  std::vector<float> vector(const std::string& name) {
    const TensorInfo& info = file_.tensor(name);
    // A matrix of one row decodes every type there is.
    WeightMatrix w(info.type, 1, info.rows() * info.cols());
    std::vector<std::byte> bytes(info.bytes);
    for (uint64_t block = 0; block < block_count(info); ++block) {
      read_block(info, block,
                 std::span(bytes).subspan(block * block_bytes(info), bytes_of_block(info, block)));
    }
    w.pack_rows(0, 1, bytes);
    std::vector<float> out(w.cols());
    w.decode_row(0, out.data());
    done_ += info.bytes;
    return out;
  }

 private:
  struct Share {
    const TensorInfo* info;
    WeightMatrix* out;
    int64_t row, rows;
  };

  void plan(const TensorInfo& info, WeightMatrix* out) {
    const int64_t rows = std::max<int64_t>(1, kShareBytes / block_bytes(info)) * block_rows(info);
    for (int64_t first = 0; first < info.rows(); first += rows) {
      shares_.push_back({&info, out, first, std::min(rows, info.rows() - first)});
    }
  }

  void read_share(int64_t index, int thread) {
    const Share& share = shares_[index];
    const uint64_t row_bytes = share.info->bytes / share.info->rows();
    read_ahead(index);
    const int64_t step = block_rows(*share.info);
    std::vector<std::byte>& piece = pieces_[thread];
    for (int64_t row = share.row, end = share.row + share.rows; row < end; row += step) {
      const int64_t n = std::min(step, end - row);
      piece.resize(n * row_bytes);
      read_block(*share.info, static_cast<uint64_t>(row / step), piece);
      share.out->pack_rows(row, n, piece);
    }
    done_ += share.rows * row_bytes;
    if (thread == 0 && progress_) progress_(done_, total_);  // the caller's thread
  }

  void read_block(const TensorInfo& info, uint64_t block, std::span<std::byte> out) const {
    if (source_ != nullptr) return source_->read_block(info, block, out);
    file_.read(info, block * block_bytes(info), out);
  }

  // Asks for the share kReadAheadShares further on.
  void read_ahead(int64_t index) const {
    const auto ask = [&](int64_t i) {
      if (i >= static_cast<int64_t>(shares_.size())) return;
      const Share& s = shares_[i];
      const uint64_t row_bytes = s.info->bytes / s.info->rows();
      if (source_ != nullptr) {
        source_->expect(*s.info, s.row * row_bytes, s.rows * row_bytes);
      } else {
        file_.expect(*s.info, s.row * row_bytes, s.rows * row_bytes);
      }
    };
    if (index == 0)
      for (int64_t i = 1; i < kReadAheadShares; ++i) ask(i);
    ask(index + kReadAheadShares);
  }

  const GgufFile& file_;
  BlockSource* source_;
  ThreadPool& pool_;
  std::atomic<uint64_t> done_ = 0;
  uint64_t total_;
  const std::function<void(uint64_t, uint64_t)>& progress_;
  std::vector<Share> shares_;
  std::vector<std::vector<std::byte>> pieces_;  // of each thread
};

std::vector<float> checked_rope_factors(const GgufFile& file, std::vector<float> factors) {
  for (const float factor : factors) {
    if (!(factor > 0 && factor < 1e6f))
      throw SetupError(file.path() + ": tensor 'rope_freqs.weight' holds " + std::to_string(factor) +
                       ", which cannot divide a frequency; the file is damaged");
  }
  return factors;
}

// Calls matrix(name) and vector(name) for every tensor of the shard, in the file's usual order.
template <class Matrix, class Vector>
void for_each_tensor(const ModelConfig& config, const ShardSpec& spec, Matrix&& matrix, Vector&& vector) {
  if (needs_embedding_matrix(config, spec)) matrix("token_embd.weight");
  if (needs_rope_factors(config, spec)) vector("rope_freqs.weight");
  for (int layer = spec.layers.begin; layer < spec.layers.end; ++layer) {
    for (const MatrixField& m : kLayerMatrices) matrix(TensorNames::layer(layer, m.name));
    for (const VectorField& v : kLayerVectors)
      if (has(config, v)) vector(TensorNames::layer(layer, v.name));
  }
  if (spec.output) vector("output_norm.weight");
  if (spec.output && !config.tied_output) matrix("output.weight");
}

uint64_t file_bytes(const GgufFile& file, const ModelConfig& config, const ShardSpec& spec) {
  uint64_t total = 0;
  const auto count = [&](const std::string& name) { total += file.tensor(name).bytes; };
  for_each_tensor(config, spec, count, count);
  return total;
}

}  // namespace

void BlockSource::expect(const TensorInfo&, uint64_t, uint64_t) {}

std::vector<std::string> shard_tensors(const ModelConfig& config, const ShardSpec& spec) {
  check_spec(config, spec);
  std::vector<std::string> names;
  const auto add = [&](const std::string& name) { names.push_back(name); };
  for_each_tensor(config, spec, add, add);
  return names;
}

uint64_t shard_bytes(const GgufFile& file, const ModelConfig& config, const ShardSpec& spec) {
  check_spec(config, spec);
  uint64_t total = 0;
  for_each_tensor(
      config, spec,
      [&](const std::string& name) {
        const TensorInfo& info = file.tensor(name);
        total += WeightMatrix::packed_bytes(info.type, info.rows(), info.cols());
      },
      [&](const std::string& name) {
        const TensorInfo& info = file.tensor(name);
        total += info.rows() * info.cols() * sizeof(float);
      });
  return total;
}

uint64_t ShardWeights::bytes() const {
  uint64_t total = (output_norm.size() + rope_factors.size()) * sizeof(float);
  if (token_embd) total += token_embd->bytes();
  if (output && output != token_embd) total += output->bytes();
  for (const LayerWeights& layer : layers) {
    for (const MatrixField& m : kLayerMatrices) total += (layer.*m.field).bytes();
    for (const VectorField& v : kLayerVectors) total += (layer.*v.field).size() * sizeof(float);
  }
  return total;
}

ShardWeights load_shard(const GgufFile& file, const ModelConfig& config, const ShardSpec& spec,
                        ThreadPool& pool, const std::function<void(uint64_t, uint64_t)>& progress,
                        std::shared_ptr<const WeightMatrix> shared_embd, BlockSource* source) {
  check_spec(config, spec);
  const bool shares = shared_embd != nullptr && needs_embedding_matrix(config, spec);
  const uint64_t total =
      file_bytes(file, config, spec) - (shares ? file.tensor("token_embd.weight").bytes : 0);
  ShardReader reader(file, source, pool, total, progress);

  ShardWeights w;
  w.spec = spec;
  std::shared_ptr<WeightMatrix> token_embd, output;
  if (shares) {
    w.token_embd = std::move(shared_embd);
  } else if (needs_embedding_matrix(config, spec)) {
    w.token_embd = token_embd = std::make_shared<WeightMatrix>();
    reader.plan_matrix("token_embd.weight", token_embd.get());
  }
  if (needs_rope_factors(config, spec))
    w.rope_factors = checked_rope_factors(file, reader.vector("rope_freqs.weight"));
  size_t layer_bytes = 0, at = 0;
  for (int layer = spec.layers.begin; layer < spec.layers.end; ++layer) {
    for (const MatrixField& m : kLayerMatrices)
      layer_bytes += rounded_bytes(file.tensor(TensorNames::layer(layer, m.name)));
  }
  const auto layer_memory = std::make_shared<AlignedBuffer>(layer_bytes);
  w.layers.resize(spec.layers.size());
  for (int layer = spec.layers.begin; layer < spec.layers.end; ++layer) {
    LayerWeights& l = w.layers[layer - spec.layers.begin];
    for (const MatrixField& m : kLayerMatrices)
      reader.plan_matrix(TensorNames::layer(layer, m.name), &(l.*m.field), layer_memory, &at);
    for (const VectorField& v : kLayerVectors)
      if (has(config, v)) l.*v.field = reader.vector(TensorNames::layer(layer, v.name));
  }
  if (spec.output) {
    w.output_norm = reader.vector("output_norm.weight");
    if (config.tied_output) {
      w.output = w.token_embd;
    } else {
      w.output = output = std::make_shared<WeightMatrix>();
      reader.plan_matrix("output.weight", output.get());
    }
  }
  reader.read();
  return w;
}

}  // namespace shoal
