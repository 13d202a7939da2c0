#include "model/quantize.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "base/error.h"
#include "base/printable.h"
#include "base/units.h"
#include "model/gguf_output.h"
#include "model/gguf_reader.h"
#include "model/model_keys.h"
#include "model/quantize_types.h"
#include "tensor/format.h"

namespace shoal {
namespace {

constexpr int64_t kPieceElements = int64_t{4} << 20;  // of a tensor in memory at once, as floats

int64_t rows_of_expert(const TensorInfo& tensor) {
  return tensor.dims.size() > 2 ? tensor.dims[1] : tensor.rows();
}

// The tensor's weights, one a column, or one a column and expert; null where it is not named.
const std::vector<float>* importance_of(const ImportanceMatrix& all, const TensorInfo& tensor) {
  const auto it = all.find(tensor.name);
  if (it == all.end()) return nullptr;
  const auto cols = static_cast<size_t>(tensor.cols());
  const auto experts = static_cast<size_t>(tensor.rows() / std::max<int64_t>(1, rows_of_expert(tensor)));
  if (it->second.size() != cols && it->second.size() != cols * experts) {
    throw SetupError("the importance matrix has " + std::to_string(it->second.size()) +
                     " columns for tensor " + in_quotes(tensor.name) + ", which has " + std::to_string(cols) +
                     (experts > 1 ? " for each of " + std::to_string(experts) + " experts" : "") +
                     ": it was made for another model");
  }
  return &it->second;
}

// Rows [first, first + rows) of a tensor to another type.
class Converter {
 public:
  Converter(const GgufFile& file, const TensorChange& change, const std::vector<float>* importance)
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
        to_.encode(values.data(), cols, importance_of_row(first + r), &out_[to_bytes * r]);
      }
    });
    const auto bad = std::find(wrong.begin(), wrong.end(), uint8_t{1});
    if (bad != wrong.end()) {
      throw SetupError("tensor " + in_quotes(tensor_.name) + " has a value in row " +
                       std::to_string(first + (bad - wrong.begin())) +
                       " that is not a finite number; the source is damaged");
    }
    return out_;
  }

 private:
  const float* importance_of_row(int64_t row) const {
    if (importance_ == nullptr) return nullptr;
    const auto cols = static_cast<size_t>(tensor_.cols());
    if (importance_->size() == cols) return importance_->data();
    return importance_->data() + static_cast<size_t>(row / rows_of_expert(tensor_)) * cols;
  }

  const GgufFile& file_;
  const TensorInfo& tensor_;
  const Format& from_;
  const Format& to_;
  const std::vector<float>* importance_;
  std::vector<std::byte> in_, out_;
};

void refuse_same_file(const GgufFile& file, const std::string& out_path) {
  for (const std::string& part : file.part_paths()) {
    struct stat in, out;
    if (stat(part.c_str(), &in) == 0 && stat(out_path.c_str(), &out) == 0 && in.st_dev == out.st_dev &&
        in.st_ino == out.st_ino) {
      throw SetupError("the output " + in_quotes(out_path, 4096) +
                       " is the source itself; give another name");
    }
  }
}

}  // namespace

ImportanceMatrix read_importance(const std::string& path) {
  const GgufFile file = GgufFile::open(path);
  constexpr std::string_view kSums = ".in_sum2";
  ImportanceMatrix all;
  for (const TensorInfo& tensor : file.tensors()) {
    if (!tensor.name.ends_with(kSums)) continue;
    const std::string name = tensor.name.substr(0, tensor.name.size() - kSums.size());
    const TensorInfo& counts = file.tensor(name + ".counts");
    const auto parts = static_cast<size_t>(tensor.rows());  // one, or one for each expert
    if (tensor.type != TensorType::kF32 || counts.type != TensorType::kF32 ||
        counts.bytes != sizeof(float) * parts) {
      throw SetupError(in_quotes(path, 4096) + ": the importance of " + in_quotes(name) +
                       " is not rows of F32 with one count for each");
    }
    const auto cols = static_cast<size_t>(tensor.cols());
    std::vector<float> values(parts * cols), count(parts);
    file.read(tensor, 0, std::as_writable_bytes(std::span(values)));
    file.read(counts, 0, std::as_writable_bytes(std::span(count)));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = count[i / cols] > 0 ? values[i] / count[i / cols] : 1.0f;
    }
    const auto usable = [](float v) { return std::isfinite(v) && v >= 0; };
    if (!std::all_of(values.begin(), values.end(), usable)) {
      throw SetupError(in_quotes(path, 4096) + ": the importance of " + in_quotes(name) +
                       " has values that are negative or not finite");
    }
    all.emplace(name, std::move(values));
  }
  if (all.empty()) {
    throw SetupError(in_quotes(path, 4096) +
                     " is not an importance matrix: no tensor ends in .in_sum2 (make it with llama-imatrix "
                     "--output-format gguf)");
  }
  return all;
}

std::vector<TensorChange> plan_quantization(const GgufFile& file, const QuantizeOptions& options) {
  const QuantizePreset& preset = quantize_preset(options.type);
  refuse_companion(file);
  if (!options.importance.empty() &&
      std::none_of(file.tensors().begin(), file.tensors().end(),
                   [&](const TensorInfo& tensor) { return options.importance.contains(tensor.name); })) {
    throw SetupError("the importance matrix names no tensor of this model: it was made for another");
  }
  const ModelShape shape = model_shape(file);
  std::vector<TensorChange> changes;
  for (const TensorInfo& tensor : file.tensors()) {
    TensorType to = tensor.type;
    if (is_quantized(tensor)) to = type_for(preset, tensor, shape, options.pure);
    if (to != tensor.type && !format_of(tensor.type).is_float && !options.allow_requantize) {
      throw SetupError("tensor " + in_quotes(tensor.name) + " of the source is already quantised (" +
                       format_of(tensor.type).name +
                       "); quantising it again loses more than quantising an F16, BF16 or F32 file: use one, "
                       "or give --allow-requantize");
    }
    if (to != tensor.type && needs_importance(tensor, to) && !options.importance.contains(tensor.name)) {
      throw SetupError("tensor " + in_quotes(tensor.name) + " would become " + format_of(to).name +
                       ", which spoils a model unless it is known which columns matter: " +
                       (options.importance.empty()
                            ? "give --imatrix FILE (llama-imatrix --output-format gguf makes one)"
                            : "the importance matrix does not name it; it was made for another model"));
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
  out.write_header(file, changes, file_type_of(quantize_preset(options.type)));
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
