#include "model/model_keys.h"

#include <cstdio>

#include "base/error.h"
#include "base/printable.h"
#include "model/gguf_reader.h"

namespace shoal {
namespace {

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

}  // namespace

void refuse_model(const GgufFile& file, const std::string& message) {
  throw SetupError(in_quotes(file.path(), 4096) + ": " + message);
}

void refuse_companion(const GgufFile& file) {
  const std::string type = file.get_string("general.type", "model");
  if (type == "adapter") {
    refuse_model(file,
                 "it is an adapter (LoRA) and no model; it is used as it is, beside the model that it was "
                 "made for: --adapter NAME=" +
                     file.path());
  }
  if (type == "imatrix")
    refuse_model(file, "it is an importance matrix and no model; shoal quantize takes it with --imatrix");
  if (type == "mmproj")
    refuse_model(file, "it is a projector of images and no model; Shoal takes text alone");
}

int ModelKeys::size(const char* what, uint64_t max) const {
  return checked(what, file_.get_uint(name(what)), 1, max);
}

int ModelKeys::size(const char* what, uint64_t fallback, uint64_t max) const {
  return checked(what, file_.get_uint(name(what), fallback), 1, max);
}

int ModelKeys::size_or_zero(const char* what, uint64_t fallback, uint64_t max) const {
  return checked(what, file_.get_uint(name(what), fallback), 0, max);
}

std::vector<int> ModelKeys::sizes(const char* what, int n_layer, uint64_t max) const {
  std::vector<int> sizes;
  for (uint64_t value : file_.get_uint_per_layer(name(what), static_cast<size_t>(n_layer))) {
    sizes.push_back(checked(what, value, 1, max));
  }
  return sizes;
}

double ModelKeys::number(const char* what, double fallback, double low, double high) const {
  const double value = number(what, fallback);
  if (!(value >= low && value <= high)) {
    refuse(what, "is not a number from " + number_text(low) + " to " + number_text(high));
  }
  return value;
}

float ModelKeys::norm_eps(const char* what) const {
  const double eps = number(what, -1);
  if (!(eps >= 0 && eps < 1)) refuse(what, "is missing or not from 0 to 1");
  return static_cast<float>(eps);
}

int32_t ModelKeys::token(const char* what, uint64_t fallback, int n_vocab) const {
  const uint64_t token = file_.get_uint(name(what), fallback);
  if (token >= static_cast<uint64_t>(n_vocab))
    refuse(what,
           "is " + std::to_string(token) + "; the vocabulary has " + std::to_string(n_vocab) + " tokens");
  return static_cast<int32_t>(token);
}

void ModelKeys::refuse(const char* what, const std::string& message) const {
  refuse_model(file_, "key " + in_quotes(name(what)) + " " + message);
}

int ModelKeys::checked(const char* what, uint64_t value, uint64_t min, uint64_t max) const {
  if (value < min || value > max) {
    refuse(what, "is " + std::to_string(value) + "; it must be from " + std::to_string(min) + " to " +
                     std::to_string(max));
  }
  return static_cast<int>(value);
}

}  // namespace shoal
