#include "sharding/lora_shard.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/printable.h"
#include "tensor/format.h"

namespace shoal {
namespace {

// What the pair becomes in memory: its own type where that is a float, else f32, since a rank need not be a
// multiple of a block.
TensorType kept_type(const TensorInfo& tensor) {
  return format_of(tensor.type).is_float ? tensor.type : TensorType::kF32;
}

// Rows [first, first + rows) of a tensor.
WeightMatrix read_matrix(const LoraFile& adapter, BlockSource* source, const TensorInfo& tensor,
                         int64_t first, int64_t rows) {
  std::vector<std::byte> bytes(tensor.bytes / static_cast<uint64_t>(tensor.rows()) *
                               static_cast<uint64_t>(rows));
  std::vector<std::byte> block;
  read_rows(adapter.file, source, tensor, first, bytes, block);
  WeightMatrix read(tensor.type, rows, tensor.cols());
  read.pack_rows(0, rows, bytes);
  std::vector<float> values(static_cast<size_t>(rows * tensor.cols()));
  for (int64_t r = 0; r < rows; ++r) read.decode_row(r, values.data() + r * tensor.cols());
  for (const float value : values) {
    if (!std::isfinite(value))
      throw SetupError("adapter '" + adapter.name + "': tensor " + in_quotes(tensor.name) + " of " +
                       in_quotes(adapter.file.path(), 4096) +
                       " holds what is no number; the file is damaged");
  }
  if (format_of(tensor.type).is_float) return read;
  WeightMatrix floats(TensorType::kF32, rows, tensor.cols());
  floats.pack_rows(0, rows, std::as_bytes(std::span(values)));
  return floats;
}

// Calls fn(layer, matrix, a, b) for every matrix of the layers that the adapter changes.
template <class Fn>
void for_each_pair(const LoraFile& adapter, const ModelConfig& config, const LayerRange& layers, Fn&& fn) {
  for (int layer = layers.begin; layer < layers.end; ++layer) {
    for (const LayerMatrix& matrix : layer_matrices(config, layer)) {
      const TensorInfo *a = adapter.a(matrix.tensor), *b = adapter.b(matrix.tensor);
      if (a != nullptr && b != nullptr) fn(layer - layers.begin, matrix, *a, *b);
    }
  }
}

}  // namespace

LoraWeights load_lora(const LoraFile& adapter, const ModelConfig& config, const LayerRange& layers,
                      BlockSource* source) {
  LoraWeights weights;
  weights.layers.resize(static_cast<size_t>(layers.size()));
  for_each_pair(
      adapter, config, layers,
      [&](int layer, const LayerMatrix& matrix, const TensorInfo& a, const TensorInfo& b) {
        weights.layers[static_cast<size_t>(layer)].push_back(
            {matrix.field, read_matrix(adapter, source, a, 0, a.rows()),
             read_matrix(adapter, source, b, matrix.first_row, matrix.rows), adapter.scale(a.rows())});
      });
  return weights;
}

std::vector<std::string> lora_tensors(const LoraFile& adapter, const ModelConfig& config,
                                      const LayerRange& layers) {
  std::vector<std::string> names;
  for_each_pair(adapter, config, layers,
                [&](int, const LayerMatrix&, const TensorInfo& a, const TensorInfo& b) {
                  if (std::find(names.begin(), names.end(), a.name) != names.end()) return;
                  names.push_back(a.name);
                  names.push_back(b.name);
                });
  return names;
}

uint64_t lora_bytes(const LoraFile& adapter, const ModelConfig& config, const LayerRange& layers) {
  uint64_t total = 0;
  for_each_pair(adapter, config, layers,
                [&](int, const LayerMatrix& matrix, const TensorInfo& a, const TensorInfo& b) {
                  total += WeightMatrix::packed_bytes(kept_type(a), a.rows(), a.cols()) +
                           WeightMatrix::packed_bytes(kept_type(b), matrix.rows, b.cols());
                });
  return total;
}

LoraSizes lora_sizes(std::span<const LoraFile> adapters, const ModelConfig& config) {
  LoraSizes sizes;
  for (const LoraFile& adapter : adapters) {
    for_each_pair(adapter, config, {0, config.n_layer},
                  [&](int, const LayerMatrix& matrix, const TensorInfo& a, const TensorInfo&) {
                    sizes.include(a.cols(), matrix.rows, a.rows());
                  });
  }
  return sizes;
}

}  // namespace shoal
