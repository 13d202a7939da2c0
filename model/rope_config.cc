// How a file says that positions are rotated.
#include <algorithm>
#include <cmath>

#include "base/printable.h"
#include "model/gguf_reader.h"
#include "model/model_keys.h"
#include "tensor/exact_math.h"

namespace shoal {
namespace {

constexpr uint64_t kRotMax = 1024;
constexpr double kFactorMax = 1e6;

// The growth that YaRN gives scores of a context stretched by `factor` (arXiv:2309.00071, 3.4).
double yarn_growth(double factor, double multiplier) {
  return factor <= 1 ? 1 : 0.1 * multiplier * exact_math::log_of(factor) + 1;
}

// YaRN: pairs that turn more than beta_fast times in the original context keep their frequency, those that
// turn less than beta_slow times are scaled, between them it is a ramp.
void read_yarn(const ModelKeys& keys, int n_rot, int n_ctx_original, RopeScaling& rope) {
  const double fast = keys.number("rope.scaling.yarn_beta_fast", 32, 1e-3, 1e6);
  const double slow = keys.number("rope.scaling.yarn_beta_slow", 1, 1e-3, 1e6);
  const auto pair_of = [&](double turns) {
    constexpr double kTwoPi = 6.283185307179586;
    return n_rot * exact_math::log_of(n_ctx_original / (turns * kTwoPi)) /
           (2 * exact_math::log_of(rope.freq_base));
  };
  rope.ramp_height = keys.number("rope.scaling.yarn_ext_factor", 1, 0, 1);
  rope.ramp_begin = std::max(0.0, std::floor(pair_of(fast)));
  rope.ramp_end = std::min(n_rot - 1.0, std::ceil(pair_of(slow)));
  const double factor = 1 / rope.freq_scale;
  double growth = yarn_growth(factor, 1);
  // mscale_all_dim of the original files: the other factor of the growth is in the attention scale already.
  const double all = keys.number("rope.scaling.yarn_log_multiplier", 0, 0, kFactorMax);
  if (all != 0) growth /= yarn_growth(factor, all);
  rope.magnitude *=
      static_cast<float>(keys.number("rope.scaling.yarn_attn_factor", growth, 1e-3, kFactorMax));
}

RopeScaling read_scaling(const ModelKeys& keys, const ModelConfig& config) {
  RopeScaling rope;
  rope.freq_base = keys.number("rope.freq_base", 10000, 2, 1e12);
  const std::string type = keys.file().get_string(keys.name("rope.scaling.type"), "linear");
  if (type != "none" && type != "linear" && type != "yarn" &&
      !(type == "longrope" && config.rope_factors_by_context)) {
    keys.refuse("rope.scaling.type",
                "asks for rope scaling " + in_quotes(type) +
                    ", which Shoal does not compute; known are none, linear, yarn, the factors tensor "
                    "rope_freqs.weight (Llama 3) and longrope with its two factors tensors (Phi-3)");
  }
  // An absent type with a factor means linear; "scale_linear" is the key's old name; 0 means no scaling.
  const char* factor_key = keys.has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
  const double factor = keys.number(factor_key, 0);
  if (factor != 0 && !(factor >= 1e-3 && factor <= kFactorMax)) {
    keys.refuse(factor_key, "is not a number from 0.001 to 1000000");
  }
  if ((type == "linear" || type == "yarn") && factor != 0) rope.freq_scale = 1 / factor;
  rope.magnitude = static_cast<float>(keys.number("rope.scaling.attn_factor", 1, 1e-3, kFactorMax));
  if (type == "yarn") read_yarn(keys, config.n_rot, config.n_ctx_original, rope);
  return rope;
}

}  // namespace

void read_rope(const ModelKeys& keys, ModelConfig& config) {
  const GgufFile& file = keys.file();
  config.n_rot = keys.size("rope.dimension_count", static_cast<uint64_t>(config.head_dim_k), kRotMax);
  if (config.n_rot > config.head_dim_k || config.n_rot % 2 != 0) {
    keys.refuse("rope.dimension_count", "is " + std::to_string(config.n_rot) +
                                            "; it must be even and at most the head's " +
                                            std::to_string(config.head_dim_k) + " dimensions");
  }
  config.rope_factors = file.find_tensor("rope_freqs.weight") != nullptr;
  config.rope_factors_by_context = file.find_tensor("rope_factors_long.weight") != nullptr;
  config.n_ctx_original = keys.size("rope.scaling.original_context_length",
                                    static_cast<uint64_t>(config.n_ctx_train), uint64_t{1} << 24);
  config.ropes.push_back(read_scaling(keys, config));
  config.rope.assign(static_cast<size_t>(config.n_layer), 0);

  const Architecture& arch = *config.arch;
  const bool windows = std::any_of(config.window.begin(), config.window.end(), [](int w) { return w != 0; });
  if (windows && (arch.rope_of_windows || keys.has("rope.freq_base_swa"))) {
    RopeScaling local = arch.rope_of_windows ? RopeScaling{} : config.ropes[0];
    local.freq_base = keys.number("rope.freq_base_swa", 10000, 2, 1e12);
    config.ropes.push_back(local);
    for (size_t layer = 0; layer < config.rope.size(); ++layer) {
      if (config.window[layer] != 0) config.rope[layer] = 1;
    }
  }
  const bool rotates = !arch.rope_is_a_choice || file.get_bool(keys.name("rope.scaling.finetuned"), true);
  for (int layer = 0; layer < config.n_layer; ++layer) {
    if (!rotates || (arch.no_rope_period > 0 && (layer + 1) % arch.no_rope_period == 0)) {
      config.rope[static_cast<size_t>(layer)] = kNoRope;
    }
  }
}

}  // namespace shoal
