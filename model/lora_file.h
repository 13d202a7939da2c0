// A GGUF file with a low-rank adapter, as llama.cpp's convert_lora_to_gguf.py writes it: general.type
// "adapter", adapter.type "lora", adapter.lora.alpha, and for each matrix M that it changes M.lora_a [rank,
// n_in] and M.lora_b [n_out, rank]. Checked whole against the model it is for when it is opened. Throws
// SetupError naming the file and the tensor. A value, read by any thread.
#pragma once

#include <string>
#include <vector>

#include "model/gguf_file.h"
#include "model/lora.h"
#include "model/model_config.h"

namespace shoal {

inline constexpr int64_t kLoraRankMax = 4096;

struct LoraFile {
  std::string name;  // that requests choose it by
  GgufFile file;
  double alpha = 0;

  static LoraFile open(const std::string& name, const std::string& path, const ModelConfig& config);
  // Of a file that is open, or of which only the header is here.
  static LoraFile of(const std::string& name, const GgufFile& file, const ModelConfig& config);

  // What it has for a matrix of the model, by the name of the model's tensor; null where it leaves it alone.
  const TensorInfo* a(const std::string& tensor) const { return file.find_tensor(tensor + ".lora_a"); }
  const TensorInfo* b(const std::string& tensor) const { return file.find_tensor(tensor + ".lora_b"); }
  // What multiplies B (A x): alpha / rank, or 1 where alpha is 0 (as llama.cpp has it).
  float scale(int64_t rank) const {
    return alpha != 0 ? static_cast<float>(alpha / static_cast<double>(rank)) : 1.0f;
  }
};

}  // namespace shoal
