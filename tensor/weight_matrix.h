// A weight matrix as the kernels read it: rows packed in groups of 16, interleaved so that one register
// serves 16 output elements. Packing happens once, at load; the file's own order is not kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "tensor/aligned_buffer.h"
#include "tensor/tensor_type.h"

namespace shoal {

inline constexpr int kRowGroup = 16;  // rows interleaved together

class WeightMatrix {
 public:
  WeightMatrix() = default;
  WeightMatrix(WeightMatrix&&) = default;  // a copy would share the bytes
  WeightMatrix& operator=(WeightMatrix&&) = default;

  // A matrix of `rows` outputs by `cols` inputs, contents unset until packed. cols must be a multiple of the
  // type's block. Throws SetupError if not, or if memory cannot be had.
  WeightMatrix(TensorType type, int64_t rows, int64_t cols);

  // The same in bytes [at, at + packed_bytes) of memory that several matrices share: many small ones lie in
  // huge pages so. `at` is a multiple of 64.
  WeightMatrix(TensorType type, int64_t rows, int64_t cols, std::shared_ptr<AlignedBuffer> memory, size_t at);

  // Bytes that a packed matrix takes: the file's bytes, rows rounded up to 16.
  static size_t packed_bytes(TensorType type, int64_t rows, int64_t cols);

  // Packs rows [first_row, first_row + n) from file order. first_row % 16 == 0, and n % 16 == 0 unless these
  // are the last rows. Different row ranges may be packed by different threads at once.
  void pack_rows(int64_t first_row, int64_t n, std::span<const std::byte> file_rows);

  // Row `row` as floats, out[cols]: an embedding lookup. Exactly the value the file's format defines.
  void decode_row(int64_t row, float* out) const;

  TensorType type() const { return type_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  bool empty() const { return rows_ == 0; }
  const std::byte* group(int64_t g) const { return data_ + g * group_bytes_; }
  size_t group_bytes() const { return group_bytes_; }
  size_t bytes() const { return bytes_; }

 private:
  TensorType type_ = TensorType::kF32;
  int64_t rows_ = 0, cols_ = 0;
  size_t group_bytes_ = 0, bytes_ = 0;
  std::shared_ptr<AlignedBuffer> memory_;
  std::byte* data_ = nullptr;  // in memory_
};

}  // namespace shoal
