#include "tensor/blas.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "tensor/float_ops.h"
#include "tensor/format.h"
#include "tensor/product_ops.h"
#include "tensor/weight_matrix.h"

namespace shoal {
namespace {

constexpr const char* kLibrary = "libopenblas.so.0";
// From so many rows on (bench/product_speed --kernels blas): with fewer, a panel is not worth unpacking.
constexpr int kRowsMin = 16;
constexpr int kPanelGroups = 8;  // 128 outputs
constexpr int kPanelOutputs = kPanelGroups * kRowGroup;
constexpr int kPanelColumns = 384;  // 192 KiB: unpacked and multiplied from the second-level cache

// cblas_sgemm of the C interface to the BLAS (BLAS Technical Forum standard, annex B), whose constants it
// fixes, too. Declared here, so that building needs no header of a library that a program may never open.
using Sgemm = void (*)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                       const float* a, int ld_a, const float* b, int ld_b, float beta, float* c, int ld_c);
constexpr int kRowMajor = 101, kNoTranspose = 111;

struct OpenBlas {
  Sgemm sgemm;
  std::string description;
  const Kernels* exact;
};

template <class Function>
Function symbol(void* library, const char* name) {
  void* const address = dlsym(library, name);
  if (address == nullptr)
    throw SetupError(std::string(kLibrary) + " has no " + name + ": install OpenBLAS (libopenblas0-pthread)");
  return reinterpret_cast<Function>(address);
}

// OpenBLAS 0.3.21 takes newer processors with AVX-512 for Haswell, at half the speed. What a user has set
// stays.
void choose_core_type() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    setenv("OPENBLAS_CORETYPE", "SkylakeX", 0);
  }
#endif
}

OpenBlas open_library() {
  choose_core_type();
  setenv("OPENBLAS_NUM_THREADS", "1", 1);  // or it starts a thread for each processor as it is loaded
  void* const library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw SetupError(std::string("kernels 'blas' need OpenBLAS (Debian: libopenblas0-pthread): ") +
                     dlerror());
  }
  symbol<void (*)(int)>(library, "openblas_set_num_threads")(1);
  OpenBlas blas;
  blas.sgemm = symbol<Sgemm>(library, "cblas_sgemm");
  blas.description = symbol<char* (*)()>(library, "openblas_get_config")();
  blas.exact = &select_kernels();
  return blas;
}

const OpenBlas& open_blas() {
  static const OpenBlas kOpenBlas = open_library();
  return kOpenBlas;
}

// 16 elements in the format's bytes as floats.
void widen(TensorType type, const std::byte* from, float* to) {
  if (type == TensorType::kF32) {
    std::memcpy(to, from, kRowGroup * sizeof(float));
  } else if (type == TensorType::kF16) {
    open_blas().exact->floats->f16_to_f32(reinterpret_cast<const uint16_t*>(from), kRowGroup, to);
  } else {
    for (int r = 0; r < kRowGroup; ++r) {
      uint16_t half;
      std::memcpy(&half, from + 2 * r, 2);
      const uint32_t bits = uint32_t{half} << 16;
      std::memcpy(to + r, &bits, 4);
    }
  }
}

// y = x times up to kPanelGroups groups, `outputs` of whose rows exist, in chunks of columns whose weights
// are unpacked to [column][output].
void multiply_panel(const Format& format, const ProductArgs& a, const std::byte* weights, int64_t groups,
                    int64_t outputs, float* y) {
  alignas(64) static thread_local float panel[kPanelColumns][kPanelOutputs];
  for (int64_t k0 = 0; k0 < a.cols; k0 += kPanelColumns) {
    const int64_t n = std::min<int64_t>(kPanelColumns, a.cols - k0);
    for (int64_t g = 0; g < groups; ++g) {
      const std::byte* from = weights + g * a.group_bytes + k0 * kRowGroup * format.block_bytes;
      for (int64_t k = 0; k < n; ++k, from += kRowGroup * format.block_bytes)
        widen(format.type, from, panel[k] + g * kRowGroup);
    }
    open_blas().sgemm(kRowMajor, kNoTranspose, kNoTranspose, a.rows, static_cast<int>(outputs),
                      static_cast<int>(n), 1.0f, a.x + k0, static_cast<int>(a.ld_x), panel[0], kPanelOutputs,
                      k0 == 0 ? 0.0f : 1.0f, y, static_cast<int>(a.ld_y));
  }
}

void multiply(const Format& format, const ProductArgs& a) {
  if (!format.is_float || a.rows < kRowsMin) return open_blas().exact->products->multiply(format, a);
  for (int64_t g = 0; g < a.groups; g += kPanelGroups) {
    const int64_t first = g * kRowGroup;
    multiply_panel(format, a, a.weights + g * a.group_bytes, std::min<int64_t>(kPanelGroups, a.groups - g),
                   std::min<int64_t>(kPanelOutputs, a.outputs - first), a.y + first);
  }
}

}  // namespace

const Kernels& blas_kernels() {
  static const ProductOps kProducts = {open_blas().exact->products->tile_rows, multiply, kPanelGroups};
  static const Kernels kKernels = {"blas", open_blas().exact->floats, &kProducts, "blas"};
  return kKernels;
}

std::string blas_description() {
  return open_blas().description;
}

}  // namespace shoal
