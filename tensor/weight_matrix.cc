#include "tensor/weight_matrix.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "tensor/format.h"
#include "tensor/half.h"

namespace shoal {
namespace {

int64_t groups_of(int64_t rows) {
  return rows / kRowGroup + (rows % kRowGroup != 0);
}

// Elements [k] of one row of a float format, packed [k][16 rows].
void decode_float_row(TensorType type, const std::byte* group, int64_t row_in_group, int64_t cols,
                      float* out) {
  for (int64_t k = 0; k < cols; ++k) {
    const int64_t element = k * kRowGroup + row_in_group;
    if (type == TensorType::kF32) {
      std::memcpy(out + k, group + 4 * element, 4);
    } else {
      uint16_t bits;
      std::memcpy(&bits, group + 2 * element, 2);
      out[k] = type == TensorType::kF16 ? half_to_float(bits) : bfloat_to_float(bits);
    }
  }
}

// One row of a panel as floats. scale * sub_scale and its product with q' are exact or rounded once, as in
// the format's own decode.
void decode_panel_row(const Format& format, const Panel& panel, int64_t r, float* out) {
  const bool has_sub = format.kind == PanelKind::kSubScale || format.kind == PanelKind::kSubScaleMin;
  const bool has_min = format.kind == PanelKind::kScaleMin || format.kind == PanelKind::kSubScaleMin;
  for (int k = 0; k < 32; ++k) {
    float scale = panel.scale[r];
    if (has_sub) scale *= static_cast<float>(panel.sub_scale[r][k / 16]);
    float value = scale * static_cast<float>(panel.q[k / 4][r][k % 4] - format.offset);
    if (has_min) {
      value += has_sub ? panel.min[r] * static_cast<float>(panel.sub_min[r][k / 16]) : panel.min[r];
    }
    out[k] = value;
  }
}

}  // namespace

WeightMatrix::WeightMatrix(TensorType type, int64_t rows, int64_t cols)
    : WeightMatrix(type, rows, cols, std::make_shared<AlignedBuffer>(packed_bytes(type, rows, cols)), 0) {}

WeightMatrix::WeightMatrix(TensorType type, int64_t rows, int64_t cols, std::shared_ptr<AlignedBuffer> memory,
                           size_t at)
    : type_(type),
      rows_(rows),
      cols_(cols),
      group_bytes_(packed_bytes(type, kRowGroup, cols)),
      bytes_(packed_bytes(type, rows, cols)),
      memory_(std::move(memory)),
      data_(memory_->data() + at) {
  SHOAL_CHECK(at % 64 == 0 && at <= memory_->size() && bytes_ <= memory_->size() - at);
}

size_t WeightMatrix::packed_bytes(TensorType type, int64_t rows, int64_t cols) {
  const Format& format = format_of(type);
  if (rows <= 0 || cols <= 0 || cols % format.block != 0) {
    throw SetupError("a " + std::string(format.name) + " matrix of " + std::to_string(rows) + " x " +
                     std::to_string(cols) + " is not possible: columns come in blocks of " +
                     std::to_string(format.block) + "; the model file is damaged or was converted wrongly");
  }
  size_t row_bytes = 0, bytes = 0;
  if (__builtin_mul_overflow(static_cast<size_t>(cols / format.block), format.block_bytes, &row_bytes) ||
      __builtin_mul_overflow(static_cast<size_t>(groups_of(rows)), row_bytes, &bytes) ||
      __builtin_mul_overflow(bytes, size_t{kRowGroup}, &bytes)) {
    throw SetupError("a matrix of " + std::to_string(rows) + " x " + std::to_string(cols) +
                     " does not fit any memory; the model file is damaged");
  }
  return bytes;
}

void WeightMatrix::pack_rows(int64_t first_row, int64_t n, std::span<const std::byte> file_rows) {
  const Format& format = format_of(type_);
  const size_t row_bytes = format.row_bytes(cols_);
  SHOAL_CHECK(first_row >= 0 && n >= 0 && first_row <= rows_ && n <= rows_ - first_row);
  SHOAL_CHECK(first_row % kRowGroup == 0 && (n % kRowGroup == 0 || first_row + n == rows_));
  SHOAL_CHECK(file_rows.size() == row_bytes * static_cast<size_t>(n));
  std::byte* out = data_ + first_row / kRowGroup * group_bytes_;
  int64_t row = 0;
  for (; row + kRowGroup <= n; row += kRowGroup, out += group_bytes_) {
    format.pack(file_rows.data() + row * row_bytes, row_bytes, cols_, out);
  }
  if (row < n) {  // zero bytes are zero weights in every format: a zero scale
    std::vector<std::byte> padded(group_bytes_);
    std::memcpy(padded.data(), file_rows.data() + row * row_bytes, (n - row) * row_bytes);
    format.pack(padded.data(), row_bytes, cols_, out);
  }
}

void WeightMatrix::decode_row(int64_t row, float* out) const {
  SHOAL_CHECK(row >= 0 && row < rows_);
  const Format& format = format_of(type_);
  const std::byte* packed = group(row / kRowGroup);
  if (format.is_float) {
    decode_float_row(type_, packed, row % kRowGroup, cols_, out);
    return;
  }
  for (int64_t b = 0; b < cols_ / 32; ++b) {
    Panel panel;
    format.unpack(packed, cols_, b, &panel);
    decode_panel_row(format, panel, row % kRowGroup, out + 32 * b);
  }
}

}  // namespace shoal
