// What `shoal quantize` can make of a model: the names that it knows, and which type each tensor gets under
// one. Pure functions of the file's header. Mixtures are those of llama.cpp under the same names
// (llama-quant.cpp), without its special cases for eight experts and for one 70B model.
#pragma once

#include <cstdint>
#include <string>

#include "model/gguf_file.h"

namespace shoal {

struct QuantizePreset;

// By name. Throws SetupError that lists the names there are.
const QuantizePreset& quantize_preset(const std::string& name);
uint32_t file_type_of(const QuantizePreset& preset);  // general.file_type: llama.cpp's enum llama_ftype

// What the choice depends on beside a tensor's name and shape.
struct ModelShape {
  int n_layer = 0;
  bool tied = false;     // the embedding is the output head too
  bool grouped = false;  // four query heads or more share a key head, or there are four experts or more
};
ModelShape model_shape(const GgufFile& file);

// Whether the tensor is a matrix that is multiplied; not norms, routers, positions, relative biases.
bool is_quantized(const TensorInfo& tensor);

// The type of such a matrix. `pure`: the preset's main type throughout.
TensorType type_for(const QuantizePreset& preset, const TensorInfo& tensor, const ModelShape& shape,
                    bool pure);

// Whether a matrix of this name is spoilt by the type unless it is known which columns matter.
bool needs_importance(const TensorInfo& tensor, TensorType type);

}  // namespace shoal
