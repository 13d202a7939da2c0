// Writes a model file again with its matrices in another format: `shoal quantize`.
//
// Everything but the matrices is copied: metadata byte by byte (but for the file type, and for the split of a
// source in parts, which becomes one file), vectors, norms, routers and relative biases. The output appears
// under its name only when it is complete. Throws SetupError: what the file or a flag has wrong (exit code
// 2), or that the disk refused (exit code 1); the unfinished file is removed.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "model/gguf_file.h"
#include "tensor/thread_pool.h"

namespace shoal {

// For each matrix by name, one weight a column, or [experts][columns]: how much an error there matters.
using ImportanceMatrix = std::map<std::string, std::vector<float>>;

// Reads llama.cpp's importance matrix in GGUF form: tensors NAME.in_sum2 (sums of squared activations) and
// NAME.counts.
ImportanceMatrix read_importance(const std::string& path);

struct QuantizeOptions {
  std::string type;               // of quantize_types()
  bool pure = false;              // the output head too in this type
  bool allow_requantize = false;  // a source matrix may be quantised itself
  ImportanceMatrix importance;    // may be empty
};

// What a tensor becomes.
struct TensorChange {
  const TensorInfo* tensor;
  TensorType to;
};

std::vector<std::string> quantize_types();  // names, for help and messages

// The types that all tensors get, in the file's order. Throws SetupError.
std::vector<TensorChange> plan_quantization(const GgufFile& file, const QuantizeOptions& options);

// `progress(done, total)` in elements, called from this thread.
void quantize_model(const GgufFile& file, const std::string& out_path, const QuantizeOptions& options,
                    ThreadPool& pool, const std::function<void(uint64_t, uint64_t)>& progress);

}  // namespace shoal
