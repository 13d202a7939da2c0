#include "model/quantize_types.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>
#include <variant>
#include <vector>

#include "base/error.h"
#include "base/printable.h"
#include "base/units.h"
#include "model/gguf_reader.h"
#include "model/quantize.h"
#include "tensor/format.h"

namespace shoal {
namespace {

// In a mixture some matrices get other types: those whose name holds `tensor`, in some layers. Of several
// rules that fit the first counts.
enum class Where {
  kAll,
  kFirstTwo,
  kFirstFour,
  kFirstSixteenth,
  kFirstEighth,
  kBetween,  // neither in the first eighth nor in the last
  kSpread,   // both of those, and every third layer between
  kGrouped,  // all, in models whose ModelShape is grouped
};
struct Extra {
  const char* tensor;
  Where where;
  TensorType type;
};

constexpr const char* kValue = "attn_v.weight";  // and, where it is fused with others, attn_qkv
constexpr const char* kKey = "attn_k.weight";
constexpr const char* kQuery = "attn_q.weight";
constexpr const char* kOutput = "attn_output.weight";
constexpr const char* kDown = "ffn_down";
constexpr const char* kGate = "ffn_gate";
constexpr const char* kUp = "ffn_up";

}  // namespace

struct QuantizePreset {
  const char* name;
  TensorType type;
  uint32_t file_type;
  std::vector<Extra> extras = {};
  TensorType head = TensorType::kQ6_K;                 // the output head, or the embedding that serves as one
  std::optional<TensorType> embedding = std::nullopt;  // one that does not; absent: `type`
};

namespace {

// IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS: more bits for what suffers most.
std::vector<Extra> low_extras(std::optional<TensorType> output) {
  using enum TensorType;
  std::vector<Extra> extras = {
      {kValue, Where::kGrouped, kQ4_K}, {kValue, Where::kAll, kQ2_K}, {kDown, Where::kFirstEighth, kQ2_K}};
  if (output) extras.push_back({kOutput, Where::kAll, *output});
  return extras;
}

// IQ2_S and IQ2_M.
std::vector<Extra> middle_extras() {
  using enum TensorType;
  return {{kValue, Where::kGrouped, kQ4_K},
          {kValue, Where::kAll, kIQ3_S},
          {kDown, Where::kFirstEighth, kIQ3_S},
          {kOutput, Where::kAll, kIQ3_S}};
}

std::vector<QuantizePreset> float_and_block_presets() {
  using enum TensorType;
  return {
      {"F16", kF16, 1},
      {"BF16", kBF16, 32},
      {"Q8_0", kQ8_0, 7},
      {"Q6_K", kQ6_K, 18},
      {"Q5_K", kQ5_K, 16},
      {"Q5_K_S", kQ5_K, 16},
      {"Q5_K_M", kQ5_K, 17, {{kValue, Where::kSpread, kQ6_K}, {kDown, Where::kSpread, kQ6_K}}},
      {"Q5_1", kQ5_1, 9},
      {"Q5_0", kQ5_0, 8},
      {"Q4_K", kQ4_K, 14},
      {"Q4_K_S", kQ4_K, 14, {{kValue, Where::kFirstFour, kQ5_K}, {kDown, Where::kFirstEighth, kQ5_K}}},
      {"Q4_K_M", kQ4_K, 15, {{kValue, Where::kSpread, kQ6_K}, {kDown, Where::kSpread, kQ6_K}}},
      {"Q4_1", kQ4_1, 3},
      {"Q4_0", kQ4_0, 2},
      {"IQ4_NL", kIQ4_NL, 25},
      {"IQ4_XS", kIQ4_XS, 30},
      {"MXFP4", kMXFP4, 38, {}, kQ8_0},
      {"Q3_K", kQ3_K, 11},
      {"Q3_K_S", kQ3_K, 11},
      {"Q3_K_M",
       kQ3_K,
       12,
       {{kValue, Where::kFirstTwo, kQ5_K},
        {kValue, Where::kAll, kQ4_K},
        {kDown, Where::kFirstSixteenth, kQ5_K},
        {kDown, Where::kAll, kQ4_K},
        {kOutput, Where::kAll, kQ4_K}}},
      {"Q3_K_L",
       kQ3_K,
       13,
       {{kValue, Where::kAll, kQ5_K}, {kDown, Where::kAll, kQ5_K}, {kOutput, Where::kAll, kQ5_K}}},
      {"Q2_K", kQ2_K, 10},
  };
}

std::vector<QuantizePreset> lattice_presets() {
  using enum TensorType;
  return {
      {"IQ3_M",
       kIQ3_S,
       27,
       {{kValue, Where::kAll, kQ4_K}, {kDown, Where::kFirstEighth, kQ4_K}, {kOutput, Where::kAll, kQ4_K}}},
      {"IQ3_S", kIQ3_S, 26, {{kValue, Where::kGrouped, kQ4_K}}},
      {"IQ3_XS",
       kIQ3_S,
       22,
       {{kValue, Where::kGrouped, kQ4_K},
        {kKey, Where::kAll, kIQ3_XXS},
        {kQuery, Where::kAll, kIQ3_XXS},
        {kGate, Where::kBetween, kIQ3_XXS},
        {kUp, Where::kBetween, kIQ3_XXS}}},
      {"IQ3_XXS",
       kIQ3_XXS,
       23,
       {{kValue, Where::kGrouped, kQ4_K},
        {kKey, Where::kAll, kIQ2_S},
        {kQuery, Where::kAll, kIQ2_S},
        {kOutput, Where::kAll, kIQ3_S}},
       kQ5_K,
       kIQ3_S},
      {"IQ2_M", kIQ2_S, 29, middle_extras(), kQ5_K, kIQ3_S},
      {"IQ2_S", kIQ2_XS, 28, middle_extras(), kQ5_K, kIQ3_S},
      {"IQ2_XS", kIQ2_XS, 20, low_extras({}), kQ5_K, kQ2_K},
      {"IQ2_XXS", kIQ2_XXS, 19, low_extras({}), kQ5_K, kQ2_K},
      {"IQ1_M", kIQ1_M, 31, low_extras(kIQ2_XXS), kQ5_K, kQ2_K},
      {"IQ1_S", kIQ1_S, 24, low_extras(kIQ2_XXS), kQ5_K, kQ2_K},
      {"TQ2_0", kTQ2_0, 37, {}, kQ6_K, kQ4_K},
      {"TQ1_0", kTQ1_0, 36, {}, kQ6_K, kQ4_K},
  };
}

const std::vector<QuantizePreset>& presets() {
  static const std::vector<QuantizePreset> all = [] {
    std::vector<QuantizePreset> list = float_and_block_presets();
    for (QuantizePreset& preset : lattice_presets()) list.push_back(std::move(preset));
    return list;
  }();
  return all;
}

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

// The type that stands in where rows are not a multiple of the block: of llama.cpp's choices the better where
// its versions differ (Q2_K and Q3_K: IQ4_NL, in later versions Q4_0, of the same size).
TensorType that_divides(TensorType type, int64_t cols) {
  if (cols % format_of(type).block == 0) return type;
  TensorType other = TensorType::kIQ4_NL;
  if (type == TensorType::kQ4_K) other = TensorType::kQ5_0;
  if (type == TensorType::kQ5_K) other = TensorType::kQ5_1;
  if (type == TensorType::kQ6_K) other = TensorType::kQ8_0;
  if (type == TensorType::kTQ1_0 || type == TensorType::kTQ2_0) other = TensorType::kQ4_0;
  return cols % format_of(other).block == 0 ? other : TensorType::kF16;
}

// Number of the layer in "blk.N.", or -1.
int layer_of(const std::string& name) {
  constexpr int kLayersMax = 1 << 20;
  int layer = -1;
  if (!name.starts_with("blk.")) return layer;
  std::from_chars(name.data() + 4, name.data() + name.size(), layer);
  return layer < kLayersMax ? layer : -1;
}

// A number of heads, or the first of one for each layer.
uint64_t first_number(const GgufFile& file, const std::string& key, uint64_t fallback) {
  const MetaValue* value = file.find(key);
  if (value == nullptr) return fallback;
  if (const auto* u = std::get_if<std::vector<uint64_t>>(value)) return u->empty() ? fallback : u->front();
  if (const auto* i = std::get_if<std::vector<int64_t>>(value)) {
    return i->empty() || i->front() < 0 ? fallback : static_cast<uint64_t>(i->front());
  }
  return file.get_uint(key);
}

bool is_among(Where where, int layer, const ModelShape& shape) {
  const int n_layer = shape.n_layer, eighth = n_layer / 8;
  switch (where) {
    case Where::kAll:
      return true;
    case Where::kFirstTwo:
      return layer < 2;
    case Where::kFirstFour:
      return layer < 4;
    case Where::kFirstSixteenth:
      return layer < n_layer / 16;
    case Where::kFirstEighth:
      return layer < eighth;
    case Where::kBetween:
      return layer >= eighth && layer < 7 * n_layer / 8;
    case Where::kSpread:
      return layer < eighth || layer >= 7 * n_layer / 8 || (layer - eighth) % 3 == 2;
    case Where::kGrouped:
      return shape.grouped;
  }
  return false;
}

TensorType type_in_layer(const QuantizePreset& preset, const std::string& name, const ModelShape& shape) {
  const int layer = layer_of(name);
  for (const Extra& extra : preset.extras) {
    const bool named =
        contains(name, extra.tensor) || (extra.tensor == kValue && contains(name, "attn_qkv.weight"));
    if (layer >= 0 && named && is_among(extra.where, layer, shape)) return extra.type;
  }
  return preset.type;
}

}  // namespace

std::vector<std::string> quantize_types() {
  std::vector<std::string> names;
  for (const QuantizePreset& preset : presets()) names.emplace_back(preset.name);
  return names;
}

const QuantizePreset& quantize_preset(const std::string& name) {
  std::string upper = name;
  for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  for (const QuantizePreset& preset : presets()) {
    if (upper == preset.name) return preset;
  }
  std::string list;
  const std::vector<std::string> names = quantize_types();
  for (const std::string& known : names) list += (list.empty() ? "" : ", ") + known;
  const std::string near = nearest_name(name, names);
  throw SetupError("no type " + in_quotes(name) + " to quantize to" +
                   (near.empty() ? "" : "; did you mean " + near + "?") + "; known are " + list);
}

uint32_t file_type_of(const QuantizePreset& preset) {
  return preset.file_type;
}

ModelShape model_shape(const GgufFile& file) {
  ModelShape shape;
  shape.tied = file.find_tensor("output.weight") == nullptr;
  for (const TensorInfo& tensor : file.tensors()) {
    shape.n_layer = std::max(shape.n_layer, layer_of(tensor.name) + 1);
  }
  const std::string prefix = file.get_string("general.architecture", "") + ".";
  const uint64_t n_head = first_number(file, prefix + "attention.head_count", 0);
  const uint64_t n_head_kv = first_number(file, prefix + "attention.head_count_kv", n_head);
  shape.grouped =
      (n_head_kv > 0 && n_head / n_head_kv >= 4) || file.get_uint(prefix + "expert_count", 0) >= 4;
  return shape;
}

bool is_quantized(const TensorInfo& tensor) {
  const std::string& name = tensor.name;
  if (tensor.dims.size() < 2 || !name.ends_with("weight")) return false;
  for (const char* kept : {"_norm.weight", "ffn_gate_inp", "attn_rel_b", "position_embd", "token_types"}) {
    if (contains(name, kept)) return false;
  }
  return true;
}

TensorType type_for(const QuantizePreset& preset, const TensorInfo& tensor, const ModelShape& shape,
                    bool pure) {
  const int64_t cols = tensor.cols();
  if (pure || format_of(preset.type).is_float) return that_divides(preset.type, cols);
  const bool is_embedding = tensor.name == "token_embd.weight";
  if (tensor.name == "output.weight" || (shape.tied && is_embedding)) {
    const bool eight = preset.type == TensorType::kQ8_0 || cols % 256 != 0;
    return that_divides(eight ? TensorType::kQ8_0 : preset.head, cols);
  }
  if (is_embedding) return that_divides(preset.embedding.value_or(preset.type), cols);
  return that_divides(type_in_layer(preset, tensor.name, shape), cols);
}

bool needs_importance(const TensorInfo& tensor, TensorType type) {
  using enum TensorType;
  if (tensor.name == "output.weight" || tensor.name == "token_embd.weight") return false;
  switch (type) {
    case kIQ1_S:
    case kIQ1_M:
    case kIQ2_XXS:
    case kIQ2_XS:
    case kIQ2_S:
    case kIQ3_XXS:
      return true;
    default:
      return false;
  }
}

}  // namespace shoal
