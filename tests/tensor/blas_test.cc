// The class `blas` against the class `exact`: products of float weights agree within rounding, everything
// else has the exact bits, and no division of the work over threads changes a bit.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "tensor/blas.h"
#include "tensor/format.h"
#include "tensor/matmul.h"

namespace shoal {
namespace {

// Weights of the type from random floats; rows in file order.
WeightMatrix random_floats(TensorType type, int outputs, int cols, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<std::byte> raw;
  for (int i = 0; i < outputs * cols; ++i) {
    const float value = normal(random);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    uint8_t bytes[4];
    int n = 4;
    if (type == TensorType::kF32) {
      std::memcpy(bytes, &bits, 4);
    } else {
      // The upper half is the value in BF16, and with a small exponent some value in F16.
      const uint16_t half = static_cast<uint16_t>(type == TensorType::kBF16 ? bits >> 16 : bits & 0xbbff);
      std::memcpy(bytes, &half, n = 2);
    }
    for (int b = 0; b < n; ++b) raw.push_back(static_cast<std::byte>(bytes[b]));
  }
  WeightMatrix w(type, outputs, cols);
  w.pack_rows(0, outputs, raw);
  return w;
}

std::vector<float> product(const Kernels& kernels, int threads, const WeightMatrix& w,
                           const std::vector<float>& x, int rows) {
  ThreadPool pool(threads);
  const int cols = static_cast<int>(w.cols()), outputs = static_cast<int>(w.rows());
  std::vector<float> y(static_cast<size_t>(rows) * outputs, NAN);
  ActivationRows activations(rows, cols);
  activations.assign(kernels, pool, x.data(), cols, rows, cols);
  matmul(kernels, pool, activations, {{&w, y.data(), outputs}});
  return y;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<float> random_rows(int rows, int cols, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(rows) * cols);
  for (float& v : x) v = normal(random);
  return x;
}

}  // namespace

TEST_CASE("blas: a class of its own that is chosen by name alone") {
  const Kernels& blas = select_kernels("blas");
  CHECK(std::string(blas.name) == "blas");
  CHECK(std::string(blas.numeric_class) == "blas");
  CHECK_FALSE(blas_description().empty());
  for (const Kernels* kernels : available_kernels()) {
    CHECK(std::string(kernels->numeric_class) == "exact");
    CHECK(kernels != &blas);
  }
  CHECK_THROWS_AS(select_kernels("blast"), SetupError);
}

TEST_CASE("blas: float products agree with exact ones within rounding, and do not depend on threads") {
  std::mt19937 random(5);
  int differing = 0;
  for (const TensorType type : {TensorType::kF32, TensorType::kF16, TensorType::kBF16}) {
    for (const int cols : {32, 200, 1000}) {     // part of a panel's columns, and more than one panel
      for (const int outputs : {7, 128, 300}) {  // groups: padding, a whole panel, two and a part
        const WeightMatrix w = random_floats(type, outputs, cols, random);
        for (const int rows : {16, 67}) {
          CAPTURE(std::string(format_of(type).name));
          CAPTURE(cols);
          CAPTURE(outputs);
          CAPTURE(rows);
          const std::vector<float> x = random_rows(rows, cols, random);
          const std::vector<float> want = product(select_kernels(), 1, w, x, rows);
          const std::vector<float> got = product(select_kernels("blas"), 1, w, x, rows);
          std::vector<float> row(cols);
          bool close = true;
          for (int o = 0; o < outputs; ++o) {
            w.decode_row(o, row.data());
            for (int r = 0; r < rows; ++r) {
              double magnitude = 0;
              for (int k = 0; k < cols; ++k) magnitude += std::abs(double{row[k]} * x[r * cols + k]);
              close = close && std::abs(got[r * outputs + o] - want[r * outputs + o]) <= 1e-5 * magnitude;
            }
          }
          CHECK(close);
          differing += !same_bits(got, want);
          CHECK(same_bits(product(select_kernels("blas"), 3, w, x, rows), got));
        }
      }
    }
  }
  CHECK(differing > 0);  // or it was not OpenBLAS that computed
}

TEST_CASE("blas: few rows and quantised weights have the bits of the class exact") {
  std::mt19937 random(6);
  const WeightMatrix floats = random_floats(TensorType::kF16, 150, 416, random);
  for (const int rows : {1, 15}) {
    const std::vector<float> x = random_rows(rows, 416, random);
    CHECK(same_bits(product(select_kernels("blas"), 2, floats, x, rows),
                    product(select_kernels(), 1, floats, x, rows)));
  }
  WeightMatrix quantised(TensorType::kQ4_0, 304, 416);
  std::vector<std::byte> raw(format_of(TensorType::kQ4_0).row_bytes(416) * 304);
  for (std::byte& b : raw) b = static_cast<std::byte>(random() & 0x3b);
  quantised.pack_rows(0, 304, raw);
  const std::vector<float> x = random_rows(67, 416, random);
  CHECK(same_bits(product(select_kernels("blas"), 2, quantised, x, 67),
                  product(select_kernels(), 1, quantised, x, 67)));
}

}  // namespace shoal
