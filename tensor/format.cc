#include "tensor/format.h"

#include "base/check.h"

// One line per format; the object k<name>Format is defined in formats/<name>.cc.
#define SHOAL_FORMATS(X) \
  X(F32)                 \
  X(F16)                 \
  X(BF16)                \
  X(Q4_0)                \
  X(Q4_1)                \
  X(Q5_0)                \
  X(Q5_1)                \
  X(Q8_0)                \
  X(Q2_K)                \
  X(Q3_K)                \
  X(Q4_K)                \
  X(Q5_K)                \
  X(Q6_K)                \
  X(IQ4_NL)              \
  X(IQ4_XS)              \
  X(IQ3_S)               \
  X(IQ3_XXS)             \
  X(IQ2_S)               \
  X(IQ2_XS)              \
  X(IQ2_XXS)             \
  X(IQ1_M)               \
  X(IQ1_S)               \
  X(MXFP4)               \
  X(TQ1_0)               \
  X(TQ2_0)

namespace shoal {

#define SHOAL_DECLARE(name) extern const Format k##name##Format;
SHOAL_FORMATS(SHOAL_DECLARE)
#undef SHOAL_DECLARE

namespace {

#define SHOAL_ADDRESS(name) &k##name##Format,
constexpr const Format* kFormats[] = {SHOAL_FORMATS(SHOAL_ADDRESS)};
#undef SHOAL_ADDRESS

}  // namespace

const Format* find_format(uint32_t ggml_id) {
  for (const Format* format : kFormats) {
    if (static_cast<uint32_t>(format->type) == ggml_id) return format;
  }
  return nullptr;
}

const Format& format_of(TensorType type) {
  const Format* format = find_format(static_cast<uint32_t>(type));
  SHOAL_CHECK(format != nullptr);
  return *format;
}

std::vector<std::string> known_formats() {
  std::vector<std::string> names;
  for (const Format* format : kFormats) names.emplace_back(format->name);
  return names;
}

}  // namespace shoal
