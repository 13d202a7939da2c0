#include "model/lora_file.h"

#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "base/printable.h"
#include "base/units.h"
#include "model/gguf_reader.h"

namespace shoal {
namespace {

struct Shape {
  int64_t rows, cols;
};

// Whether forward_layer() lets adapters add to a matrix: experts and their router are left as they are.
bool can_be_adapted(const LayerMatrix& matrix) {
  using W = LayerWeights;
  for (const MatrixOfLayer field :
       {&W::attn_q, &W::attn_k, &W::attn_v, &W::attn_output, &W::ffn_gate, &W::ffn_up, &W::ffn_down}) {
    if (matrix.experts == nullptr && matrix.field == field) return true;
  }
  return false;
}

// The matrices of the model that an adapter may change.
std::map<std::string, Shape> matrices_of(const ModelConfig& config) {
  std::map<std::string, Shape> shapes;
  for (int layer = 0; layer < config.n_layer; ++layer) {
    for (const LayerMatrix& matrix : layer_matrices(config, layer)) {
      if (!can_be_adapted(matrix)) continue;
      Shape& shape = shapes.try_emplace(matrix.tensor, Shape{0, matrix.cols}).first->second;
      shape.rows += matrix.rows;
    }
  }
  return shapes;
}

std::string shape_text(const TensorInfo& tensor) {
  std::string text;
  for (const int64_t dim : tensor.dims) text += (text.empty() ? "" : " x ") + std::to_string(dim);
  return text;
}

class Checker {
 public:
  Checker(const LoraFile& adapter, const ModelConfig& config)
      : adapter_(adapter), config_(config), matrices_(matrices_of(config)) {}

  void check() const {
    const GgufFile& file = adapter_.file;
    if (file.get_string("general.type", "model") != "adapter")
      fail("is no adapter but " + in_quotes(file.get_string("general.type", "model")) + " (general.type)");
    if (file.get_string("adapter.type", "") != "lora")
      fail("is an adapter of type " + in_quotes(file.get_string("adapter.type", "")) +
           "; only 'lora' is known");
    const std::string architecture = file.get_string("general.architecture", "");
    if (architecture != config_.arch->name)
      fail("is for the architecture " + in_quotes(architecture) + ", and the model is a " +
           in_quotes(config_.arch->name));
    if (config_.encodes()) fail("cannot be used: adapters are for models without an encoder");
    if (file.find("adapter.alora.invocation_tokens") != nullptr)
      fail("acts only after certain tokens (an activated LoRA), which Shoal does not have");
    if (!std::isfinite(adapter_.alpha) || std::abs(adapter_.alpha) > 1e6)
      fail("has no usable adapter.lora.alpha");
    if (file.tensors().empty()) fail("holds no tensors");
    std::set<std::string> bases;
    for (const TensorInfo& tensor : file.tensors()) bases.insert(base_of(tensor.name));
    for (const std::string& base : bases) check_pair(base);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw SetupError("adapter '" + adapter_.name + "': " + in_quotes(adapter_.file.path(), 4096) + " " +
                     what);
  }

  std::string base_of(const std::string& name) const {
    if (name.ends_with(".lora_a") || name.ends_with(".lora_b")) return name.substr(0, name.size() - 7);
    fail("holds the tensor " + in_quotes(name) + ": only pairs NAME.lora_a and NAME.lora_b are known");
  }

  void check_pair(const std::string& base) const {
    const auto found = matrices_.find(base);
    if (found == matrices_.end()) {
      const bool edge = base == "token_embd.weight" || base == "output.weight";
      fail("changes " + in_quotes(base) +
           (edge ? ", and only matrices of layers can be adapted"
                 : ", which is no matrix of a layer that can be adapted"));
    }
    const TensorInfo *a = adapter_.a(base), *b = adapter_.b(base);
    if (a == nullptr || b == nullptr) fail("has one half of the pair for " + in_quotes(base) + " only");
    const auto [rows, cols] = found->second;
    const int64_t rank = a->rows();
    const bool fits = a->dims.size() == 2 && b->dims.size() == 2 && a->cols() == cols && b->rows() == rows &&
                      b->cols() == rank && rank >= 1 && rank <= kLoraRankMax;
    if (fits) return;
    fail("does not fit " + in_quotes(base) + " (" + std::to_string(cols) + " x " + std::to_string(rows) +
         "): lora_a is " + shape_text(*a) + ", lora_b is " + shape_text(*b) + ", and " +
         std::to_string(cols) + " x rank and rank x " + std::to_string(rows) + " are needed");
  }

  const LoraFile& adapter_;
  const ModelConfig& config_;
  std::map<std::string, Shape> matrices_;
};

}  // namespace

LoraFile LoraFile::open(const std::string& name, const std::string& path, const ModelConfig& config) {
  return of(name, GgufFile::open(path), config);
}

LoraFile LoraFile::of(const std::string& name, const GgufFile& file, const ModelConfig& config) {
  LoraFile adapter{name, file, 0};
  adapter.alpha = adapter.file.get_float("adapter.lora.alpha", std::nan(""));
  Checker(adapter, config).check();
  return adapter;
}

}  // namespace shoal
