// BF16: bfloat16, the upper half of an f32, little-endian. Packed [k][16 rows].
#include "tensor/formats/pack_helpers.h"

namespace shoal {
namespace {

void decode(const std::byte* row, int64_t n, float* out) {
  for (int64_t k = 0; k < n; ++k) out[k] = bfloat_to_float(load_u16(row + 2 * k));
}

void pack(const std::byte* rows, size_t row_bytes, int64_t cols, std::byte* group) {
  interleave_elements16(rows, row_bytes, cols, group);
}

void encode(const float* x, int64_t n, const float*, std::byte* row) {
  for (int64_t k = 0; k < n; ++k) {
    const uint16_t h = float_to_bfloat(x[k]);
    std::memcpy(row + 2 * k, &h, 2);
  }
}

}  // namespace

extern const Format kBF16Format;
const Format kBF16Format = {TensorType::kBF16, "BF16", 1, 2, true, PanelKind::kScale, 0, 0, decode, pack,
                            nullptr,           encode};

}  // namespace shoal
