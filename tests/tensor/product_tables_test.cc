// Products: every table against the generic table, bit for bit, for the numbers of rows at which kernels
// change their way: tile widths, one group or two at a time, packed weights or panels.
#include <doctest/doctest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tensor/format.h"
#include "tensor/kernels.h"
#include "tensor/matmul.h"

namespace shoal {
namespace {

constexpr TensorType kTypes[] = {
    TensorType::kF32,   TensorType::kF16,     TensorType::kBF16,  TensorType::kQ4_0,   TensorType::kQ4_1,
    TensorType::kQ5_0,  TensorType::kQ5_1,    TensorType::kQ8_0,  TensorType::kQ2_K,   TensorType::kQ3_K,
    TensorType::kQ4_K,  TensorType::kQ5_K,    TensorType::kQ6_K,  TensorType::kIQ4_NL, TensorType::kIQ4_XS,
    TensorType::kIQ3_S, TensorType::kIQ3_XXS, TensorType::kIQ2_S, TensorType::kIQ2_XS, TensorType::kIQ2_XXS,
    TensorType::kIQ1_M, TensorType::kIQ1_S,   TensorType::kMXFP4, TensorType::kTQ1_0,  TensorType::kTQ2_0};

WeightMatrix random_matrix(TensorType type, int outputs, int cols, std::mt19937& random) {
  std::vector<std::byte> raw(format_of(type).row_bytes(cols) * outputs);
  for (auto& b : raw) b = static_cast<std::byte>(random() & 0xbf);  // no half or float is infinite
  WeightMatrix w(type, outputs, cols);
  w.pack_rows(0, outputs, raw);
  return w;
}

std::vector<uint32_t> product(const Kernels& kernels, ThreadPool& pool, const WeightMatrix& w,
                              const std::vector<float>& x, int rows) {
  const int cols = static_cast<int>(w.cols()), outputs = static_cast<int>(w.rows());
  std::vector<float> y(static_cast<size_t>(rows) * outputs);
  ActivationRows activations(rows, cols);
  activations.assign(kernels, pool, x.data(), cols, rows, cols);
  matmul(kernels, pool, activations, {{&w, y.data(), outputs}});
  const auto* bits = reinterpret_cast<const uint32_t*>(y.data());
  return {bits, bits + y.size()};
}

}  // namespace

TEST_CASE("products: every table has the generic table's bits at every change of method") {
  constexpr int kRows[] = {9, 10, 64, 67}, kRowsMax = 67;
  ThreadPool pool(1);
  std::mt19937 random(77);
  std::normal_distribution<float> normal;
  int64_t cases = 0, values = 0;
  for (TensorType type : kTypes) {
    for (int cols : {256, 1280}) {  // one chunk of panels, and more
      std::vector<float> x(static_cast<size_t>(kRowsMax) * cols);
      for (float& v : x) v = normal(random);
      for (int outputs : {7, 48, 58}) {  // groups: one with padding, an odd number, an even one with padding
        if (cols > 256 && outputs != 58) continue;  // emulated processors take minutes otherwise
        const WeightMatrix w = random_matrix(type, outputs, cols, random);
        for (int rows : kRows) {
          const auto want = product(select_kernels("generic"), pool, w, x, rows);
          for (const Kernels* kernels : available_kernels()) {
            CAPTURE(std::string(format_of(type).name));
            CAPTURE(std::string(kernels->name));
            CAPTURE(cols);
            CAPTURE(outputs);
            CAPTURE(rows);
            CHECK(product(*kernels, pool, w, x, rows) == want);
            ++cases;
            values += static_cast<int64_t>(want.size());
          }
        }
      }
    }
  }
  MESSAGE(cases << " products of " << available_kernels().size() << " tables, " << values
                << " values; the last table is " << std::string(available_kernels().back()->name));
}

}  // namespace shoal
