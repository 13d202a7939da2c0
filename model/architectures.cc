// The families of models Shoal computes, one row each.
#include <string_view>

#include "model/model_config.h"

namespace shoal {
namespace {

constexpr Architecture kArchitectures[] = {
    {.name = "llama", .rope = RopeKind::kInterleaved, .qkv_bias = false, .qk_norm = false},
    {.name = "qwen2", .rope = RopeKind::kHalfSplit, .qkv_bias = true, .qk_norm = false},
    {.name = "qwen3", .rope = RopeKind::kHalfSplit, .qkv_bias = false, .qk_norm = true},
    {.name = "t5", .rope = RopeKind::kHalfSplit, .qkv_bias = false, .qk_norm = false, .relative_bias = true},
    {.name = "t5encoder",
     .rope = RopeKind::kHalfSplit,
     .qkv_bias = false,
     .qk_norm = false,
     .relative_bias = true,
     .encoder_only = true},
};

}  // namespace

const Architecture* find_architecture(std::string_view name) {
  for (const Architecture& architecture : kArchitectures) {
    if (name == architecture.name) return &architecture;
  }
  return nullptr;
}

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const Architecture& architecture : kArchitectures) names.emplace_back(architecture.name);
  return names;
}

}  // namespace shoal
