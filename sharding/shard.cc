#include "sharding/shard.h"

#include <algorithm>
#include <exception>
#include <string>

#include "base/check.h"
#include "base/error.h"

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

constexpr uint64_t kPieceBytes = 1 << 20;

// Reads tensors one after another in pieces of about 1 MiB over all threads together (a group of 16 rows at
// least), each read and packed by one thread, so that the file's bytes never lie in memory beside the
// packed ones.
class ShardReader {
 public:
  ShardReader(const GgufFile& file, ThreadPool& pool, uint64_t total,
              const std::function<void(uint64_t, uint64_t)>& progress)
      : file_(file),
        pool_(pool),
        total_(total),
        progress_(progress),
        pieces_(pool.size()),
        errors_(pool.size()) {}

  WeightMatrix matrix(const std::string& name) {
    const TensorInfo& info = file_.tensor(name);
    WeightMatrix w(info.type, info.rows(), info.cols());
    const uint64_t row_bytes = info.bytes / info.rows();
    const int64_t step =
        std::max<int64_t>(1, kPieceBytes / pool_.size() / (row_bytes * kRowGroup)) * kRowGroup;
    for (int64_t first = 0; first < info.rows(); first += step * pool_.size()) {
      pool_.for_each(pool_.size(), [&](int64_t part, int) {
        const int64_t row = first + step * part;
        const int64_t n = std::min(step, info.rows() - row);
        if (n > 0) read_piece(info, w, row, n, row_bytes, part);
      });
      for (const std::exception_ptr& error : errors_)
        if (error) std::rethrow_exception(error);
      const int64_t rows_read = std::min(step * pool_.size(), info.rows() - first);
      report(rows_read * row_bytes);
    }
    return w;
  }

  std::vector<float> vector(const std::string& name) {
    const TensorInfo& info = file_.tensor(name);
    // A matrix of one row decodes every type there is.
    WeightMatrix w(info.type, 1, info.rows() * info.cols());
    pieces_[0].resize(info.bytes);
    file_.read(info, 0, pieces_[0]);
    w.pack_rows(0, 1, pieces_[0]);
    std::vector<float> out(w.cols());
    w.decode_row(0, out.data());
    report(info.bytes);
    return out;
  }

 private:
  // An exception must not leave a pool thread, so it waits in errors_ for the caller.
  void read_piece(const TensorInfo& info, WeightMatrix& w, int64_t row, int64_t n, uint64_t row_bytes,
                  int64_t part) {
    try {
      std::vector<std::byte>& piece = pieces_[part];
      piece.resize(n * row_bytes);
      file_.read(info, row * row_bytes, piece);
      w.pack_rows(row, n, piece);
    } catch (...) {
      errors_[part] = std::current_exception();
    }
  }

  void report(uint64_t bytes) {
    done_ += bytes;
    if (progress_) progress_(done_, total_);
  }

  const GgufFile& file_;
  ThreadPool& pool_;
  uint64_t done_ = 0, total_;
  const std::function<void(uint64_t, uint64_t)>& progress_;
  std::vector<std::vector<std::byte>> pieces_;  // as many as threads
  std::vector<std::exception_ptr> errors_;
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
                        std::shared_ptr<const WeightMatrix> shared_embd) {
  check_spec(config, spec);
  const bool shares = shared_embd != nullptr && needs_embedding_matrix(config, spec);
  const uint64_t total =
      file_bytes(file, config, spec) - (shares ? file.tensor("token_embd.weight").bytes : 0);
  ShardReader reader(file, pool, total, progress);

  ShardWeights w;
  w.spec = spec;
  if (shares)
    w.token_embd = std::move(shared_embd);
  else if (needs_embedding_matrix(config, spec))
    w.token_embd = std::make_shared<const WeightMatrix>(reader.matrix("token_embd.weight"));
  if (needs_rope_factors(config, spec))
    w.rope_factors = checked_rope_factors(file, reader.vector("rope_freqs.weight"));
  for (int layer = spec.layers.begin; layer < spec.layers.end; ++layer) {
    LayerWeights& l = w.layers.emplace_back();
    for (const MatrixField& m : kLayerMatrices) l.*m.field = reader.matrix(TensorNames::layer(layer, m.name));
    for (const VectorField& v : kLayerVectors)
      if (has(config, v)) l.*v.field = reader.vector(TensorNames::layer(layer, v.name));
  }
  if (spec.output) {
    w.output_norm = reader.vector("output_norm.weight");
    w.output = config.tied_output ? w.token_embd
                                  : std::make_shared<const WeightMatrix>(reader.matrix("output.weight"));
  }
  return w;
}

}  // namespace shoal
