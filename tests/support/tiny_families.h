// One tiny model for each family that Shoal computes, with the family's own keys, tensors and odd shapes
// scaled down: windows and original contexts of a few positions, so that a prompt of 40 tokens goes beyond
// them.
#pragma once

#include <string>
#include <vector>

#include "tests/support/tiny_model.h"

namespace shoal::test {

constexpr int kFamilyPrompt = 40;    // tokens of the prompts that the fixtures hold
constexpr int kFamilyContext = 256;  // the context that the fixtures were made with

// Those that fixtures of adapters are made of: plain, norms of heads, norms after each half, fused matrices.
inline constexpr const char* kLoraFamilies[] = {"llama", "qwen3", "gemma2", "phi3-short"};

struct TinyFamily {
  std::string name;
  TinyModelOptions options;
};

const std::vector<TinyFamily>& tiny_families();
const TinyFamily& tiny_family(const std::string& name);
std::vector<int> family_prompt(const TinyFamily& family);  // kFamilyPrompt tokens, always the same

}  // namespace shoal::test
