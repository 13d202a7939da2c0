#include "model/quantize.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <span>

#include "base/error.h"
#include "base/units.h"
#include "model/gguf_output.h"
#include "model/gguf_reader.h"
#include "tensor/format.h"

namespace shoal {
namespace {

constexpr int64_t kPieceElements = int64_t{4} << 20;  // of a tensor in memory at once, as floats

// In a mixture some matrices get more bits: those whose name holds `tensor`, in some layers. Of several rules
// that fit the first counts.
enum class Where { kAll, kFirstTwo, kFirstFour, kFirstSixteenth, kFirstEighth, kSpread };
struct Extra {
  const char* tensor;
  Where where;
  TensorType type;
};

// `file_type` is general.file_type (llama.cpp's enum llama_ftype).
struct Preset {
  const char* name;
  TensorType type;
  uint32_t file_type;
  std::vector<Extra> extras = {};
};

constexpr const char* kValue = "attn_v.weight";  // and, where it is fused with others, attn_qkv
constexpr const char* kOutput = "attn_output.weight";
constexpr const char* kDown = "ffn_down";

const std::vector<Preset>& presets() {
  using enum TensorType;
  static const std::vector<Preset> all = {
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
      {"MXFP4", kMXFP4, 38},
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
      {"TQ2_0", kTQ2_0, 37},
      {"TQ1_0", kTQ1_0, 36},
  };
  return all;
}

const Preset& preset_of(const std::string& name) {
  for (const Preset& preset : presets()) {
    if (name == preset.name) return preset;
  }
  std::string list;
  for (const std::string& known : quantize_types()) list += (list.empty() ? "" : ", ") + known;
  const std::vector<std::string> names = quantize_types();
  const std::string near = nearest_name(name, names);
  throw SetupError("no type " + quoted(name) + " to quantize to" +
                   (near.empty() ? "" : "; did you mean " + near + "?") + "; known are " + list);
}

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

// Matrices that are multiplied; not norms, routers, positions, relative biases.
bool is_quantized(const TensorInfo& tensor) {
  const std::string& name = tensor.name;
  if (tensor.dims.size() < 2 || !name.ends_with("weight")) return false;
  for (const char* kept : {"_norm.weight", "ffn_gate_inp", "attn_rel_b", "position_embd", "token_types"}) {
    if (contains(name, kept)) return false;
  }
  return true;
}

bool is_float(TensorType type) {
  return format_of(type).is_float;
}

// The type that stands in where rows are not a multiple of the block, as llama.cpp chooses it.
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
  if (!name.starts_with("blk.")) return -1;
  return std::atoi(name.c_str() + 4);
}

bool is_among(Where where, int layer, int n_layer) {
  const int eighth = n_layer / 8;
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
    case Where::kSpread:
      return layer < eighth || layer >= 7 * n_layer / 8 || (layer - eighth) % 3 == 2;
  }
  return false;
}

TensorType type_in_layer(const Preset& preset, const std::string& name, int n_layer) {
  const int layer = layer_of(name);
  for (const Extra& extra : preset.extras) {
    const bool named =
        contains(name, extra.tensor) || (extra.tensor == kValue && contains(name, "attn_qkv.weight"));
    if (layer >= 0 && named && is_among(extra.where, layer, n_layer)) return extra.type;
  }
  return preset.type;
}

TensorType type_for(const Preset& preset, const TensorInfo& tensor, bool tied, bool pure, int n_layer) {
  if (pure || is_float(preset.type)) return that_divides(preset.type, tensor.cols());
  if (tensor.name == "output.weight" || (tied && tensor.name == "token_embd.weight")) {
    if (preset.type == TensorType::kQ8_0 || preset.type == TensorType::kMXFP4 || tensor.cols() % 256 != 0) {
      return that_divides(TensorType::kQ8_0, tensor.cols());
    }
    return TensorType::kQ6_K;
  }
  const bool ternary = preset.type == TensorType::kTQ1_0 || preset.type == TensorType::kTQ2_0;
  if (ternary && tensor.name == "token_embd.weight") return that_divides(TensorType::kQ4_K, tensor.cols());
  return that_divides(type_in_layer(preset, tensor.name, n_layer), tensor.cols());
}

const float* importance_of(const ImportanceMatrix& all, const TensorInfo& tensor) {
  const auto it = all.find(tensor.name);
  if (it == all.end()) return nullptr;
  if (it->second.size() != static_cast<size_t>(tensor.cols())) {
    throw SetupError("the importance matrix has " + std::to_string(it->second.size()) +
                     " columns for tensor " + quoted(tensor.name) + ", which has " +
                     std::to_string(tensor.cols()) + ": it was made for another model");
  }
  return it->second.data();
}

// Rows [first, first + rows) of a tensor to another type.
class Converter {
 public:
  Converter(const GgufFile& file, const TensorChange& change, const float* importance)
      : file_(file),
        tensor_(*change.tensor),
        from_(format_of(change.tensor->type)),
        to_(format_of(change.to)),
        importance_(importance) {}

  std::span<const std::byte> convert(int64_t first, int64_t rows, ThreadPool& pool) {
    const int64_t cols = tensor_.cols();
    const size_t from_bytes = from_.row_bytes(cols), to_bytes = to_.row_bytes(cols);
    in_.resize(from_bytes * static_cast<size_t>(rows));
    out_.resize(to_bytes * static_cast<size_t>(rows));
    file_.read(tensor_, from_bytes * static_cast<uint64_t>(first), in_);
    if (from_.type == to_.type) return in_;
    std::vector<uint8_t> wrong(static_cast<size_t>(rows));
    pool.for_range(rows, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> values(static_cast<size_t>(cols));
      for (int64_t r = begin; r < end; ++r) {
        from_.decode(&in_[from_bytes * r], cols, values.data());
        wrong[r] = !std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
        if (wrong[r]) continue;
        to_.encode(values.data(), cols, importance_, &out_[to_bytes * r]);
      }
    });
    const auto bad = std::find(wrong.begin(), wrong.end(), uint8_t{1});
    if (bad != wrong.end()) {
      throw SetupError("tensor " + quoted(tensor_.name) + " has a value in row " +
                       std::to_string(first + (bad - wrong.begin())) +
                       " that is not a finite number; the source is damaged");
    }
    return out_;
  }

 private:
  const GgufFile& file_;
  const TensorInfo& tensor_;
  const Format& from_;
  const Format& to_;
  const float* importance_;
  std::vector<std::byte> in_, out_;
};

void refuse_same_file(const GgufFile& file, const std::string& out_path) {
  for (const std::string& part : file.part_paths()) {
    struct stat in, out;
    if (stat(part.c_str(), &in) == 0 && stat(out_path.c_str(), &out) == 0 && in.st_dev == out.st_dev &&
        in.st_ino == out.st_ino) {
      throw SetupError("the output " + quoted(out_path, 4096) + " is the source itself; give another name");
    }
  }
}

}  // namespace

std::vector<std::string> quantize_types() {
  std::vector<std::string> names;
  for (const Preset& preset : presets()) names.emplace_back(preset.name);
  return names;
}

ImportanceMatrix read_importance(const std::string& path) {
  const GgufFile file = GgufFile::open(path);
  constexpr std::string_view kSums = ".in_sum2";
  ImportanceMatrix all;
  for (const TensorInfo& tensor : file.tensors()) {
    if (!tensor.name.ends_with(kSums)) continue;
    const std::string name = tensor.name.substr(0, tensor.name.size() - kSums.size());
    const TensorInfo& counts = file.tensor(name + ".counts");
    if (tensor.type != TensorType::kF32 || counts.type != TensorType::kF32 || tensor.rows() != 1 ||
        counts.bytes != sizeof(float)) {
      throw SetupError(quoted(path, 4096) + ": the importance of " + quoted(name) +
                       " is not one row of F32 with one count");
    }
    std::vector<float> values(static_cast<size_t>(tensor.cols()));
    float count = 0;
    file.read(tensor, 0, std::as_writable_bytes(std::span(values)));
    file.read(counts, 0, std::as_writable_bytes(std::span(&count, 1)));
    for (float& v : values) v = count > 0 ? v / count : 1.0f;
    const auto usable = [](float v) { return std::isfinite(v) && v >= 0; };
    if (!std::all_of(values.begin(), values.end(), usable)) {
      throw SetupError(quoted(path, 4096) + ": the importance of " + quoted(name) +
                       " has values that are negative or not finite");
    }
    all.emplace(name, std::move(values));
  }
  if (all.empty()) {
    throw SetupError(quoted(path, 4096) +
                     " is not an importance matrix: no tensor ends in .in_sum2 (make it with llama-imatrix "
                     "--output-format gguf)");
  }
  return all;
}

std::vector<TensorChange> plan_quantization(const GgufFile& file, const QuantizeOptions& options) {
  const Preset& preset = preset_of(options.type);
  const bool tied = file.find_tensor("output.weight") == nullptr;
  int n_layer = 0;
  for (const TensorInfo& tensor : file.tensors()) n_layer = std::max(n_layer, layer_of(tensor.name) + 1);
  std::vector<TensorChange> changes;
  for (const TensorInfo& tensor : file.tensors()) {
    TensorType to = tensor.type;
    if (is_quantized(tensor)) to = type_for(preset, tensor, tied, options.pure, n_layer);
    if (to != tensor.type && !is_float(tensor.type) && !options.allow_requantize) {
      throw SetupError("tensor " + quoted(tensor.name) + " of the source is already quantised (" +
                       format_of(tensor.type).name +
                       "); quantising it again loses more than quantising an F16, BF16 or F32 file: use one, "
                       "or give --allow-requantize");
    }
    changes.push_back({&tensor, to});
  }
  return changes;
}

void quantize_model(const GgufFile& file, const std::string& out_path, const QuantizeOptions& options,
                    ThreadPool& pool, const std::function<void(uint64_t, uint64_t)>& progress) {
  refuse_same_file(file, out_path);
  const std::vector<TensorChange> changes = plan_quantization(file, options);
  GgufOutput out(out_path);
  out.write_header(file, changes, preset_of(options.type).file_type);
  uint64_t total = 0, done = 0;
  for (const TensorChange& c : changes) total += static_cast<uint64_t>(c.tensor->cols() * c.tensor->rows());
  for (const TensorChange& change : changes) {
    const TensorInfo& tensor = *change.tensor;
    Converter converter(file, change, importance_of(options.importance, tensor));
    const int64_t step = std::max<int64_t>(1, kPieceElements / tensor.cols());
    for (int64_t row = 0; row < tensor.rows(); row += step) {
      const int64_t rows = std::min(step, tensor.rows() - row);
      out.write(converter.convert(row, rows, pool));
      done += static_cast<uint64_t>(rows * tensor.cols());
      if (progress) progress(done, total);
    }
    out.pad();
  }
  out.finish();
}

}  // namespace shoal
