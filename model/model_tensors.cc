// The tensors of a model: which there must be, and what they take.
#include <set>

#include "base/error.h"
#include "base/printable.h"
#include "model/gguf_reader.h"
#include "model/layer_weights.h"
#include "model/model_keys.h"

namespace shoal {
namespace {

std::string shape_text(const std::vector<int64_t>& dims) {
  std::string text = "[";
  for (int64_t dim : dims) text += (text.size() > 1 ? ", " : "") + std::to_string(dim);
  return text + "]";
}

// Trailing dimensions of 1 say nothing.
std::vector<int64_t> significant(std::vector<int64_t> dims) {
  while (dims.size() > 1 && dims.back() == 1) dims.pop_back();
  return dims;
}

// Checks tensors one by one and remembers which ones the model uses.
class TensorCheck {
 public:
  explicit TensorCheck(const GgufFile& file) : file_(file) {}

  void matrix(const std::string& name, int64_t n_in, int64_t n_out) { shape(name, {n_in, n_out}); }
  void experts(const std::string& name, int64_t n_in, int64_t n_out, int64_t n_expert) {
    shape(name, {n_in, n_out, n_expert});
  }
  void vector(const std::string& name, int64_t n, int64_t rows = 1) {
    const TensorType type = shape(name, {n, rows}).type;
    if (type != TensorType::kF32 && type != TensorType::kF16 && type != TensorType::kBF16) {
      refuse_model(file_, "tensor " + in_quotes(name) +
                              " is a vector in a quantised format; F32, F16 and BF16 are possible");
    }
  }

  void ignore(const std::string& name) { used_.insert(name); }

  // A tensor that nothing above asked for would be left out of the computation: the answer would be wrong,
  // silently.
  void refuse_unused(const Architecture& arch) const {
    for (const TensorInfo& tensor : file_.tensors()) {
      if (used_.count(tensor.name) != 0) continue;
      const bool experts = tensor.name.find("_exps") != std::string::npos ||
                           tensor.name.find("_shexp") != std::string::npos ||
                           tensor.name.find("ffn_gate_inp") != std::string::npos;
      refuse_model(
          file_,
          "tensor " + in_quotes(tensor.name) +
              (experts ? " belongs to a mixture of experts of a kind that Shoal does not compute"
                       : std::string(" is not part of architecture ") + arch.name + " as Shoal computes it"));
    }
  }

 private:
  const TensorInfo& shape(const std::string& name, const std::vector<int64_t>& dims) {
    const TensorInfo& tensor = file_.tensor(name);
    if (significant(tensor.dims) != significant(dims)) {
      refuse_model(file_, "tensor " + in_quotes(name) + " has shape " + shape_text(tensor.dims) +
                              "; the model's keys ask for " + shape_text(significant(dims)));
    }
    used_.insert(name);
    return tensor;
  }

  const GgufFile& file_;
  std::set<std::string> used_;
};

void check_layer(TensorCheck& check, const ModelConfig& config, int layer) {
  for (const LayerVector& vector : layer_vectors(config, layer))
    check.vector(vector.tensor, vector.size / vector.rows, vector.rows);
  const std::vector<LayerMatrix> matrices = layer_matrices(config, layer);
  for (size_t i = 0; i < matrices.size(); ++i) {  // a tensor's last part tells how many rows it has
    if (i + 1 < matrices.size() && matrices[i + 1].tensor == matrices[i].tensor) continue;
    const LayerMatrix& last = matrices[i];
    if (last.experts != nullptr) {
      check.experts(last.tensor, last.cols, last.rows, last.expert + 1);
    } else {
      check.matrix(last.tensor, last.cols, last.first_row + last.rows);
    }
  }
}

}  // namespace

void check_tensors(const GgufFile& file, const ModelConfig& config) {
  TensorCheck check(file);
  check.matrix("token_embd.weight", config.n_embd, config.n_vocab);
  for (int layer = 0; layer < config.n_layer; ++layer) check_layer(check, config, layer);
  if (config.decodes()) check.vector(output_norm_tensor(config), config.n_embd);
  if (config.decodes() && !config.tied_output) check.matrix("output.weight", config.n_embd, config.n_vocab);
  for (const EmbeddingVector& v : embedding_vectors(config)) check.vector(v.tensor, v.size / v.rows, v.rows);
  for (const ClassifierMatrix& m : classifier_matrices(config)) check.matrix(m.tensor, m.cols, m.rows);
  for (const ClassifierVector& v : classifier_vectors(config)) {
    if (file.find_tensor(v.tensor) != nullptr) check.vector(v.tensor, v.size);
  }
  for (const std::string& name : unread_tensors(config)) check.ignore(name);
  for (const char* name : rope_factor_tensors(config)) check.vector(name, config.n_rot / 2);
  check.refuse_unused(*config.arch);
}

std::string TensorNames::layer(int layer, const char* what) {
  return "blk." + std::to_string(layer) + "." + what;
}

const char* output_norm_tensor(const ModelConfig& config) {
  return config.encodes() ? "dec.output_norm.weight" : "output_norm.weight";
}

std::vector<const char*> rope_factor_tensors(const ModelConfig& config) {
  if (config.rope_factors_by_context) return {"rope_factors_short.weight", "rope_factors_long.weight"};
  if (config.rope_factors) return {"rope_freqs.weight"};
  return {};
}

UnitBytes unit_bytes(const GgufFile& file, const ModelConfig& config) {
  const auto matrix_bytes = [&](const std::string& name) {
    const TensorInfo& tensor = file.tensor(name);
    return WeightMatrix::packed_bytes(tensor.type, tensor.rows(), tensor.cols());
  };
  UnitBytes bytes;
  bytes.embedding = matrix_bytes("token_embd.weight");
  for (const EmbeddingVector& v : embedding_vectors(config))
    bytes.embedding += static_cast<uint64_t>(v.size) * sizeof(float);
  for (const ClassifierMatrix& m : classifier_matrices(config)) bytes.output += matrix_bytes(m.tensor);
  for (const ClassifierVector& v : classifier_vectors(config)) {
    if (file.find_tensor(v.tensor) != nullptr) bytes.output += static_cast<uint64_t>(v.size) * sizeof(float);
  }
  if (config.decodes()) {
    bytes.output += static_cast<uint64_t>(config.n_embd) * sizeof(float) +
                    (config.tied_output ? bytes.embedding : matrix_bytes("output.weight"));
  }
  bytes.shared = rope_factor_tensors(config).size() * static_cast<uint64_t>(config.n_rot / 2) * sizeof(float);
  for (int layer = 0; layer < config.n_layer; ++layer) {
    uint64_t vectors = 0, matrices = 0, experts = 0;
    for (const LayerVector& vector : layer_vectors(config, layer)) {
      vectors += static_cast<uint64_t>(vector.size) * sizeof(float);
    }
    for (const LayerMatrix& matrix : layer_matrices(config, layer)) {
      (matrix.experts != nullptr ? experts : matrices) +=
          WeightMatrix::packed_bytes(file.tensor(matrix.tensor).type, matrix.rows, matrix.cols);
    }
    bytes.layers.push_back(vectors + matrices + experts);
    const uint64_t asked = experts == 0 ? 0 : experts / config.n_expert * config.n_expert_used;
    bytes.layers_read.push_back(vectors + matrices + asked);
  }
  return bytes;
}

}  // namespace shoal
