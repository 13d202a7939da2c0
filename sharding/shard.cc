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

bool needs_embedding_matrix(const ModelConfig& config, const ShardSpec& spec) {
  return spec.embedding || (spec.output && config.tied_output);
}

std::vector<const char*> needed_rope_factors(const ModelConfig& config, const ShardSpec& spec) {
  return spec.layers.size() > 0 ? rope_factor_tensors(config) : std::vector<const char*>{};
}

void check_spec(const ModelConfig& config, const ShardSpec& spec) {
  SHOAL_CHECK(0 <= spec.layers.begin && spec.layers.begin <= spec.layers.end &&
              spec.layers.end <= config.n_layer);
}

size_t packed_bytes(const GgufFile& file, const LayerMatrix& m) {
  return WeightMatrix::packed_bytes(file.tensor(m.tensor).type, m.rows, m.cols);
}

size_t rounded_bytes(const GgufFile& file, const LayerMatrix& m) {  // of one that shares memory with others
  return (packed_bytes(file, m) + 63) / 64 * 64;
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
      : file_(file),
        source_(source),
        pool_(pool),
        total_(total),
        progress_(progress),
        pieces_(pool.size()),
        blocks_(pool.size()) {}

  // Plans to fill *out, which must stay where it is until read() has returned, in memory of its own.
  void plan_matrix(const std::string& name, WeightMatrix* out) {
    const TensorInfo& info = file_.tensor(name);
    *out = WeightMatrix(info.type, info.rows(), info.cols());
    plan(info, 0, out);
  }

  // The same for a matrix of a layer, in bytes [*at, ..) of `memory`; moves *at on.
  void plan_matrix(const LayerMatrix& matrix, WeightMatrix* out, const std::shared_ptr<AlignedBuffer>& memory,
                   size_t* at) {
    const TensorInfo& info = file_.tensor(matrix.tensor);
    *out = WeightMatrix(info.type, matrix.rows, matrix.cols, memory, *at);
    *at += rounded_bytes(file_, matrix);
    plan(info, matrix.first_row, out);
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
    read_rows(info, 0, bytes, 0);
    w.pack_rows(0, 1, bytes);
    std::vector<float> out(w.cols());
    w.decode_row(0, out.data());
    done_ += info.bytes;
    return out;
  }

 private:
  struct Share {
    const TensorInfo* info;
    int64_t tensor_row;  // of the matrix's first row
    WeightMatrix* out;
    int64_t row, rows;  // of the matrix
  };

  void plan(const TensorInfo& info, int64_t tensor_row, WeightMatrix* out) {
    const int64_t rows = std::max<int64_t>(1, kShareBytes / block_bytes(info)) * block_rows(info);
    for (int64_t first = 0; first < out->rows(); first += rows) {
      shares_.push_back({&info, tensor_row, out, first, std::min(rows, out->rows() - first)});
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
      read_rows(*share.info, share.tensor_row + row, piece, thread);
      share.out->pack_rows(row, n, piece);
    }
    done_ += share.rows * row_bytes;
    if (thread == 0 && progress_) progress_(done_, total_);  // the caller's thread
  }

  // Rows [row, ...) of a tensor, as many as `out` holds. Where a source gives blocks and they are not what is
  // wanted, as in a tensor of several matrices, they go through the thread's own buffer.
  void read_rows(const TensorInfo& info, int64_t row, std::span<std::byte> out, int thread) {
    uint64_t at = info.bytes / info.rows() * row;
    if (source_ == nullptr) return file_.read(info, at, out);
    while (!out.empty()) {
      const uint64_t block = at / block_bytes(info), skipped = at - block * block_bytes(info);
      const uint64_t bytes = bytes_of_block(info, block), n = std::min<uint64_t>(bytes - skipped, out.size());
      if (n == bytes) {
        source_->read_block(info, block, out.first(n));
      } else {
        std::vector<std::byte>& whole = blocks_[thread];
        whole.resize(bytes);
        source_->read_block(info, block, whole);
        std::copy_n(whole.begin() + skipped, n, out.begin());
      }
      out = out.subspan(n);
      at += n;
    }
  }

  // Asks for the share kReadAheadShares further on.
  void read_ahead(int64_t index) const {
    const auto ask = [&](int64_t i) {
      if (i >= static_cast<int64_t>(shares_.size())) return;
      const Share& s = shares_[i];
      const uint64_t row_bytes = s.info->bytes / s.info->rows();
      const uint64_t first = (s.tensor_row + s.row) * row_bytes, bytes = s.rows * row_bytes;
      if (source_ != nullptr) {
        source_->expect(*s.info, first, bytes);
      } else {
        file_.expect(*s.info, first, bytes);
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
  std::vector<std::vector<std::byte>> pieces_, blocks_;  // of each thread
};

std::vector<float> read_rope_factors(const GgufFile& file, ShardReader& reader, const char* tensor) {
  std::vector<float> factors = reader.vector(tensor);
  for (const float factor : factors) {
    if (!(factor > 1e-6f && factor < 1e6f))
      throw SetupError(file.path() + ": tensor '" + tensor + "' holds " + std::to_string(factor) +
                       ", which cannot divide a frequency; the file is damaged");
  }
  return factors;
}

// Calls use(tensor, bytes) for everything that the shard reads, in the file's usual order. A tensor of
// several matrices comes once for each.
template <class Use>
void for_each_tensor(const GgufFile& file, const ModelConfig& config, const ShardSpec& spec, Use&& use) {
  const auto whole = [&](const std::string& name) { use(name, file.tensor(name).bytes); };
  if (needs_embedding_matrix(config, spec)) whole("token_embd.weight");
  for (const char* name : needed_rope_factors(config, spec)) whole(name);
  for (int layer = spec.layers.begin; layer < spec.layers.end; ++layer) {
    for (const LayerMatrix& m : layer_matrices(config, layer)) {
      const TensorInfo& info = file.tensor(m.tensor);
      use(m.tensor, info.bytes / info.rows() * m.rows);
    }
    for (const LayerVector& v : layer_vectors(config, layer)) whole(v.tensor);
  }
  if (spec.embedding)
    for (const EmbeddingVector& v : embedding_vectors(config)) whole(v.tensor);
  if (!spec.output) return;
  for (const ClassifierMatrix& m : classifier_matrices(config)) whole(m.tensor);
  for (const ClassifierVector& v : classifier_vectors(config))
    if (file.find_tensor(v.tensor) != nullptr) whole(v.tensor);
  if (config.decodes()) whole(output_norm_tensor(config));
  if (config.decodes() && !config.tied_output) whole("output.weight");
}

// Bytes of the shard's tensors in the file.
uint64_t file_bytes(const GgufFile& file, const ModelConfig& config, const ShardSpec& spec) {
  uint64_t total = 0;
  for_each_tensor(file, config, spec, [&](const std::string&, uint64_t bytes) { total += bytes; });
  return total;
}

}  // namespace

void BlockSource::expect(const TensorInfo&, uint64_t, uint64_t) {}

std::vector<std::string> shard_tensors(const GgufFile& file, const ModelConfig& config,
                                       const ShardSpec& spec) {
  check_spec(config, spec);
  std::vector<std::string> names;
  for_each_tensor(file, config, spec, [&](const std::string& name, uint64_t) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  });
  return names;
}

uint64_t shard_bytes(const GgufFile& file, const ModelConfig& config, const ShardSpec& spec) {
  check_spec(config, spec);
  const UnitBytes units = unit_bytes(file, config);
  uint64_t total = needs_embedding_matrix(config, spec) ? units.embedding : 0;
  if (spec.layers.size() > 0) total += units.shared;
  for (int layer = spec.layers.begin; layer < spec.layers.end; ++layer) total += units.layers[layer];
  if (spec.output) total += config.tied_output ? config.n_embd * sizeof(float) : units.output;
  return total;
}

uint64_t ShardWeights::bytes() const {
  uint64_t total = embedding.bytes() + (classifier ? classifier->bytes() : 0);
  total += (output_norm.size() + rope_factors.size() + rope_factors_long.size()) * sizeof(float);
  if (token_embd) total += token_embd->bytes();
  if (output && output != token_embd) total += output->bytes();
  for (const LayerWeights& layer : layers) total += layer.bytes();
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
  if (spec.embedding)
    for (const EmbeddingVector& v : embedding_vectors(config)) w.embedding.*v.field = reader.vector(v.tensor);
  std::unique_ptr<ClassifierWeights> classifier;
  if (spec.output && config.ranks()) {
    classifier = std::make_unique<ClassifierWeights>();
    for (const ClassifierMatrix& m : classifier_matrices(config))
      reader.plan_matrix(m.tensor, &((*classifier).*m.field));
    for (const ClassifierVector& v : classifier_vectors(config))
      if (file.find_tensor(v.tensor) != nullptr) (*classifier).*v.field = reader.vector(v.tensor);
  }
  const std::vector<const char*> factors = needed_rope_factors(config, spec);
  if (!factors.empty()) w.rope_factors = read_rope_factors(file, reader, factors[0]);
  if (factors.size() > 1) w.rope_factors_long = read_rope_factors(file, reader, factors[1]);
  size_t layer_bytes = 0, at = 0;
  for (int layer = spec.layers.begin; layer < spec.layers.end; ++layer) {
    for (const LayerMatrix& m : layer_matrices(config, layer)) layer_bytes += rounded_bytes(file, m);
  }
  const auto layer_memory = std::make_shared<AlignedBuffer>(layer_bytes);
  w.layers.resize(spec.layers.size());
  for (int layer = spec.layers.begin; layer < spec.layers.end; ++layer) {
    LayerWeights& l = w.layers[layer - spec.layers.begin] = LayerWeights(config);
    for (const LayerMatrix& m : layer_matrices(config, layer))
      reader.plan_matrix(m, &m.in(l), layer_memory, &at);
    for (const LayerVector& v : layer_vectors(config, layer)) l.*v.field = reader.vector(v.tensor);
  }
  if (spec.output && config.decodes()) {
    w.output_norm = reader.vector(output_norm_tensor(config));
    if (config.tied_output) {
      w.output = w.token_embd;
    } else {
      w.output = output = std::make_shared<WeightMatrix>();
      reader.plan_matrix("output.weight", output.get());
    }
  }
  reader.read();
  w.classifier = std::move(classifier);
  return w;
}

}  // namespace shoal
