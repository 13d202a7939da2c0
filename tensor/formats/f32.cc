// F32: little-endian IEEE 754 binary32. Packed [k][16 rows].
#include "tensor/formats/pack_helpers.h"

namespace shoal {
namespace {

void decode(const std::byte* row, int64_t n, float* out) {
  std::memcpy(out, row, n * sizeof(float));
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  auto* out = reinterpret_cast<uint8_t*>(group);
  int64_t k = 0;
  for (; k + 16 <= cols; k += 16) interleave_words<16>(rows + 4 * k, row_bytes, out + 64 * k);
  for (; k < cols; ++k) interleave_word(rows + 4 * k, row_bytes, out + 64 * k);
}

void encode(const float* x, int64_t n, const float*, std::byte* row) {
  std::memcpy(row, x, n * sizeof(float));
}

}  // namespace

extern const Format kF32Format;
const Format kF32Format = {TensorType::kF32, "F32", 1,       4,     true, PanelKind::kScale, 0, 0,
                           decode,           pack,  nullptr, encode};

}  // namespace shoal
