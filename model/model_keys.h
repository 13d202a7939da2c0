// The keys "ARCH.what" of one model file, checked as they are read; what the parts of ModelConfig::from
// share. Everything throws SetupError naming the file and the key.
#pragma once

#include <string>
#include <vector>

#include "model/gguf_file.h"
#include "model/model_config.h"

namespace shoal {

// Above any model of these families; products of two of them fit in an int.
inline constexpr uint64_t kLayersMax = 1024;
inline constexpr uint64_t kEmbdMax = 65536;
inline constexpr uint64_t kFeedForwardMax = uint64_t{1} << 20;
inline constexpr uint64_t kHeadsMax = 1024;
inline constexpr uint64_t kHeadDimMax = 1024;
inline constexpr uint64_t kContextMax = uint64_t{1} << 24;

[[noreturn]] void refuse_model(const GgufFile& file, const std::string& message);
// Refuses what general.type says is no model but belongs beside one, with how it is used.
void refuse_companion(const GgufFile& file);

class ModelKeys {
 public:
  ModelKeys(const GgufFile& file, const std::string& arch) : file_(file), prefix_(arch + ".") {}

  const GgufFile& file() const { return file_; }
  std::string name(const char* what) const { return prefix_ + what; }
  bool has(const char* what) const { return file_.find(name(what)) != nullptr; }

  // A size from 1 to max.
  int size(const char* what, uint64_t max) const;
  int size(const char* what, uint64_t fallback, uint64_t max) const;
  std::vector<int> sizes(const char* what, int n_layer, uint64_t max) const;  // one a layer
  int size_or_zero(const char* what, uint64_t fallback, uint64_t max) const;
  double number(const char* what, double fallback) const { return file_.get_float(name(what), fallback); }
  // A number from low to high.
  double number(const char* what, double fallback, double low, double high) const;

  float norm_eps(const char* what) const;  // must be there
  // A token of the vocabulary.
  int32_t token(const char* what, uint64_t fallback, int n_vocab) const;

  [[noreturn]] void refuse(const char* what, const std::string& message) const;

 private:
  int checked(const char* what, uint64_t value, uint64_t min, uint64_t max) const;

  const GgufFile& file_;
  std::string prefix_;
};

// Fills n_rot, ropes, rope and the fields of factors; needs the layers, the windows and the head's
// dimensions.
void read_rope(const ModelKeys& keys, ModelConfig& config);

// Every tensor that the model needs is there in the right shape and type, and no other.
void check_tensors(const GgufFile& file, const ModelConfig& config);

}  // namespace shoal
