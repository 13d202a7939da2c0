// Reading and checking the shape of a model: metadata keys within bounds, tensors of the shapes that the keys
// ask for. For the readers of the families alone. Throws SetupError naming the file and the key or tensor.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "model/gguf_file.h"
#include "model/gguf_reader.h"
#include "model/model_config.h"

namespace shoal {

inline constexpr uint64_t kLayersMax = 1024;
inline constexpr uint64_t kEmbdMax = 65536;
inline constexpr uint64_t kFeedForwardMax = uint64_t{1} << 20;
inline constexpr uint64_t kVocabMax = uint64_t{1} << 20;
inline constexpr uint64_t kHeadsMax = 1024;
inline constexpr uint64_t kHeadDimMax = 1024;
inline constexpr uint64_t kContextMax = uint64_t{1} << 24;

[[noreturn]] inline void refuse_file(const GgufFile& file, const std::string& message) {
  throw SetupError(quoted(file.path(), 4096) + ": " + message);
}

inline std::string shape_text(const std::vector<int64_t>& dims) {
  std::string text = "[";
  for (int64_t dim : dims) text += (text.size() > 1 ? ", " : "") + std::to_string(dim);
  return text + "]";
}

// Trailing dimensions of 1 say nothing.
inline std::vector<int64_t> significant(std::vector<int64_t> dims) {
  while (dims.size() > 1 && dims.back() == 1) dims.pop_back();
  return dims;
}

// Reads the keys "ARCH.what" of one file.
class Keys {
 public:
  Keys(const GgufFile& file, const std::string& arch) : file_(file), prefix_(arch + ".") {}

  std::string name(const char* what) const { return prefix_ + what; }
  bool has(const char* what) const { return file_.find(name(what)) != nullptr; }
  int size(const char* what, uint64_t max) const { return checked(what, file_.get_uint(name(what)), max); }
  int size(const char* what, uint64_t fallback, uint64_t max) const {
    return checked(what, file_.get_uint(name(what), fallback), max);
  }
  std::vector<int> sizes(const char* what, int n_layer, uint64_t max) const {
    std::vector<int> sizes;
    for (uint64_t value : file_.get_uint_per_layer(name(what), static_cast<size_t>(n_layer))) {
      sizes.push_back(checked(what, value, max));
    }
    return sizes;
  }
  double number(const char* what, double fallback) const { return file_.get_float(name(what), fallback); }
  float norm_eps(const char* what) const {
    const double eps = number(what, -1);
    if (!(eps >= 0 && eps < 1)) refuse_key(what, "is missing or not from 0 to 1");
    return static_cast<float>(eps);
  }
  // A token of the vocabulary.
  uint64_t token(const char* what, uint64_t fallback, int n_vocab) const {
    const uint64_t token = file_.get_uint(name(what), fallback);
    if (token >= static_cast<uint64_t>(n_vocab))
      refuse_key(what, "is " + std::to_string(token) + "; the vocabulary has " + std::to_string(n_vocab));
    return token;
  }
  [[noreturn]] void refuse_key(const char* what, const std::string& message) const {
    refuse_file(file_, "key " + quoted(name(what)) + " " + message);
  }

 private:
  int checked(const char* what, uint64_t value, uint64_t max) const {
    if (value == 0 || value > max) {
      refuse_key(what, "is " + std::to_string(value) + "; it must be from 1 to " + std::to_string(max));
    }
    return static_cast<int>(value);
  }

  const GgufFile& file_;
  std::string prefix_;
};

// Checks tensors one by one and remembers which ones the model uses.
class TensorCheck {
 public:
  explicit TensorCheck(const GgufFile& file) : file_(file) {}

  void matrix(const std::string& name, int64_t n_in, int64_t n_out) { shape(name, {n_in, n_out}); }
  void vector(const std::string& name, int64_t n) {
    const TensorType type = shape(name, {n}).type;
    if (type != TensorType::kF32 && type != TensorType::kF16 && type != TensorType::kBF16) {
      refuse_file(file_, "tensor " + quoted(name) +
                             " is a vector in a quantised format; F32, F16 and BF16 are possible");
    }
  }

  // A small matrix that is kept as f32.
  void bias_table(const std::string& name, int64_t n_in, int64_t n_out) {
    const TensorType type = shape(name, {n_in, n_out}).type;
    if (type != TensorType::kF32 && type != TensorType::kF16 && type != TensorType::kBF16)
      refuse_file(file_,
                  "tensor " + quoted(name) + " is in a quantised format; F32, F16 and BF16 are possible");
  }
  void ignore(const std::string& name) { used_.insert(name); }

  // A tensor that nothing above asked for would be left out of the computation: the answer would be wrong,
  // silently.
  void refuse_unused(const Architecture& arch) const {
    for (const TensorInfo& tensor : file_.tensors()) {
      if (used_.count(tensor.name) != 0) continue;
      const bool experts = tensor.name.find("_exps") != std::string::npos ||
                           tensor.name.find("_shexp") != std::string::npos ||
                           tensor.name.find("ffn_gate_inp") != std::string::npos;
      refuse_file(file_, "tensor " + quoted(tensor.name) +
                             (experts ? " belongs to a mixture of experts, which Shoal does not compute"
                                      : std::string(" is not part of architecture ") + arch.name +
                                            " as Shoal computes it"));
    }
  }

 private:
  const TensorInfo& shape(const std::string& name, const std::vector<int64_t>& dims) {
    const TensorInfo& tensor = file_.tensor(name);
    if (significant(tensor.dims) != significant(dims)) {
      refuse_file(file_, "tensor " + quoted(name) + " has shape " + shape_text(tensor.dims) +
                             "; the model's keys ask for " + shape_text(dims));
    }
    used_.insert(name);
    return tensor;
  }

  const GgufFile& file_;
  std::set<std::string> used_;
};

}  // namespace shoal
