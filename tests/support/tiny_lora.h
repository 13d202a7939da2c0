// A small random adapter (LoRA) for a model, as llama.cpp's convert_lora_to_gguf.py would write it. The same
// options give the same bytes on every machine.
#pragma once

#include <cstdint>
#include <string>

#include "model/model_config.h"
#include "tests/support/gguf_writer.h"

namespace shoal::test {

struct TinyLoraOptions {
  int rank = 4;
  float alpha = 8;
  TensorType type = TensorType::kF32;
  std::string only = {};  // changes only the tensors whose name holds this; empty: every matrix of the layers
  float deviation = 0;    // of the elements; 0: such that the adapter adds about as much as the model has
  uint64_t seed = 7;
};

GgufWriter tiny_lora(const ModelConfig& config, const TinyLoraOptions& options = {});

}  // namespace shoal::test
