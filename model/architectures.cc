// The families of models Shoal computes, one row each.
#include <string_view>

#include "model/model_config.h"

namespace shoal {
namespace {

constexpr Architecture kArchitectures[] = {
    // Also Mistral, Mixtral, SmolLM2, TinyLlama, R1 distilled into Llama. Mistral 7B v0.1 sees 4096 positions
    // in
    // all layers.
    {.name = "llama", .rope = RopeKind::kInterleaved, .experts = true, .windows = WindowPattern::kEveryLayer},
    {.name = "mistral3", .rope = RopeKind::kInterleaved},
    {.name = "granite", .rope = RopeKind::kInterleaved, .rope_is_a_choice = true},
    {.name = "granitemoe", .rope = RopeKind::kInterleaved, .experts = true},
    {.name = "smollm3", .rope = RopeKind::kInterleaved, .no_rope_period = 4},
    {.name = "qwen2", .rope = RopeKind::kHalfSplit, .qkv_bias = true},
    {.name = "qwen3", .rope = RopeKind::kHalfSplit, .qk_norm = true},
    {.name = "qwen3moe", .rope = RopeKind::kHalfSplit, .qk_norm = true, .experts = true},
    {.name = "phi3",
     .rope = RopeKind::kHalfSplit,
     .fused_qkv = true,
     .fused_gate_up = true,
     .windows = WindowPattern::kEveryLayer},
    {.name = "gemma",
     .rope = RopeKind::kHalfSplit,
     .gate = GateKind::kGelu,
     .embedding_times_sqrt_n_embd = true},
    {.name = "gemma2",
     .rope = RopeKind::kHalfSplit,
     .post_norms = true,
     .gate = GateKind::kGelu,
     .embedding_times_sqrt_n_embd = true,
     .attention_soft_cap = 50,
     .final_soft_cap = 30,
     .windows = WindowPattern::kAllButEveryNth,
     .window_period = 2,
     .window = 4096,
     .layers_of_scale_by_n_embd = 46},
    {.name = "gemma3",
     .rope = RopeKind::kHalfSplit,
     .qk_norm = true,
     .post_norms = true,
     .gate = GateKind::kGelu,
     .embedding_times_sqrt_n_embd = true,
     .windows = WindowPattern::kAllButEveryNth,
     .window_period = 6,
     .rope_of_windows = true,
     .layers_of_scale_by_n_embd = 62},
    // Also MiniLM, bge, e5, gte and other sentence encoders; cross-encoders.
    {.name = "bert",
     .rope = RopeKind::kHalfSplit,
     .qkv_bias = true,
     .layout = LayerLayout::kBert,
     .encoder_only = true,
     .learned_positions = true},
    {.name = "nomic-bert",
     .rope = RopeKind::kHalfSplit,
     .fused_qkv = true,
     .layout = LayerLayout::kBert,
     .encoder_only = true},
    // Also Flan-T5, LaMini-Flan-T5.
    {.name = "t5", .rope = RopeKind::kHalfSplit, .layout = LayerLayout::kT5},
    {.name = "t5encoder", .rope = RopeKind::kHalfSplit, .layout = LayerLayout::kT5, .encoder_only = true},
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
