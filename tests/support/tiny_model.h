// A tiny model with random weights and a generated vocabulary: complete, so that it can be loaded and
// generate, and small enough for a test. The same options give the same bytes on every machine.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tensor/tensor_type.h"
#include "tests/support/gguf_writer.h"

namespace shoal::test {

struct TinyModelOptions {
  std::string arch = "llama";               // any that Shoal knows
  TensorType type = TensorType::kF32;       // of all matrices of the layers
  TensorType embd_type = TensorType::kF32;  // of token_embd and output
  bool embd_as_type = true;                 // embd_type is ignored and `type` is used
  int n_layer = 2;
  int n_embd = 256;  // a multiple of the type's block: 256 for Q2_K to Q6_K
  int n_head = 4, n_head_kv = 2;
  int head_dim = 0;  // 0: n_embd / n_head, and no key_length in the file
  int n_ff = 512;
  int n_vocab = 384;  // at least 259
  int n_ctx = 512;
  int n_rot = 0;                        // 0: the head's dimensions
  int n_expert = 0, n_expert_used = 0;  // qwen3moe and granitemoe: 0 means 4 and 2; n_ff is one expert's
  bool tied = true;
  bool rope_freqs = false;    // the factors tensor of Llama 3
  bool rope_factors = false;  // the two of Phi-3
  // Keys besides those of every model; the names begin with the prefix, "ARCH.".
  std::function<void(GgufWriter&, const std::string& prefix)> keys;
  uint64_t seed = 1;
  uint32_t version = 3;
};

GgufWriter tiny_model(const TinyModelOptions& options);
void write_tiny_model(const std::string& path, const TinyModelOptions& options);

// Every element type that a tiny model can have, and its name.
const std::vector<std::pair<TensorType, const char*>>& tiny_model_types();

// `n` random elements of a type as the file stores them, of about zero mean and the given standard deviation.
// n must be a multiple of the type's block. `state` is the generator's, advanced.
std::string random_elements(TensorType type, uint64_t n, float deviation, uint64_t& state);

}  // namespace shoal::test
