#include "tests/support/tiny_lora.h"

#include <cmath>

#include "model/layer_weights.h"
#include "tests/support/tiny_model.h"

namespace shoal::test {

GgufWriter tiny_lora(const ModelConfig& config, const TinyLoraOptions& options) {
  GgufWriter writer;
  writer.set_string("general.architecture", config.arch->name);
  writer.set_string("general.type", "adapter");
  writer.set_string("adapter.type", "lora");
  writer.set_f32("adapter.lora.alpha", options.alpha);
  uint64_t state = options.seed;
  const auto rank = static_cast<uint64_t>(options.rank);
  for (int layer = 0; layer < config.n_layer; ++layer) {
    const std::vector<LayerMatrix> matrices = layer_matrices(config, layer);
    for (size_t i = 0; i < matrices.size(); ++i) {
      if (matrices[i].tensor.find(options.only) == std::string::npos) continue;
      uint64_t rows = static_cast<uint64_t>(matrices[i].rows);
      const std::string& tensor = matrices[i].tensor;
      while (i + 1 < matrices.size() && matrices[i + 1].tensor == tensor)  // parts of one tensor
        rows += static_cast<uint64_t>(matrices[++i].rows);
      const auto cols = static_cast<uint64_t>(matrices[i].cols);
      const float a = options.deviation > 0 ? options.deviation : 1 / std::sqrt(static_cast<float>(cols));
      const float b = options.deviation > 0 ? options.deviation : 0.5f / std::sqrt(static_cast<float>(rank));
      writer.add_tensor(tensor + ".lora_a", options.type, {cols, rank},
                        random_elements(options.type, cols * rank, a, state));
      writer.add_tensor(tensor + ".lora_b", options.type, {rank, rows},
                        random_elements(options.type, rank * rows, b, state));
    }
  }
  return writer;
}

}  // namespace shoal::test
