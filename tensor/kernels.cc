#include "tensor/kernels.h"

#include <string>

#include "base/error.h"
#include "tensor/blas.h"
#include "tensor/float_ops_tables.h"
#include "tensor/product_ops.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace shoal {
namespace {

// SHOAL_PRODUCT_<NAME> is defined by the build where product_<name>.cc exists for the target processor.
std::vector<const Kernels*> find_kernels() {
  static const Kernels kGeneric = {"generic", &kFloatOpsGeneric, &kProductOpsGeneric};
  std::vector<const Kernels*> found = {&kGeneric};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#ifdef SHOAL_PRODUCT_AVX2
  static const Kernels kAvx2 = {"avx2", &kFloatOpsAvx2, &kProductOpsAvx2};
  if (avx2) found.push_back(&kAvx2);
#endif
#ifdef SHOAL_PRODUCT_AVXVNNI
  static const Kernels kAvxVnni = {"avxvnni", &kFloatOpsAvx2, &kProductOpsAvxVnni};
#ifdef SHOAL_EMULATE_AVXVNNI  // tests/emulated: the table is compiled over SIMDe
  const bool avxvnni = true;
#else
  const bool avxvnni = __builtin_cpu_supports("avxvnni");  // CPUID leaf 7, subleaf 1, EAX bit 4
#endif
  if (avx2 && avxvnni) found.push_back(&kAvxVnni);
#endif
#ifdef SHOAL_PRODUCT_AVX512
  static const Kernels kAvx512 = {"avx512", &kFloatOpsAvx512, &kProductOpsAvx512};
#ifdef SHOAL_EMULATE_AVX512  // tests/emulated: the tables are compiled over SIMDe
  const bool avx512 = true;
#else
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
#endif
  if (avx2 && avx512) found.push_back(&kAvx512);
#endif
#elif defined(__aarch64__)
#ifdef SHOAL_PRODUCT_NEON
  static const Kernels kNeon = {"neon", &kFloatOpsNeon, &kProductOpsNeon};
  found.push_back(&kNeon);  // part of the base architecture
#endif
#ifdef SHOAL_PRODUCT_NEONDOT
  static const Kernels kNeonDot = {"neondot", &kFloatOpsNeon, &kProductOpsNeonDot};
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) found.push_back(&kNeonDot);
#endif
#endif
  return found;
}

}  // namespace

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> kAvailable = find_kernels();
  return kAvailable;
}

const Kernels& select_kernels(std::string_view name) {
  const auto& available = available_kernels();
  if (name.empty()) return *available.back();
  if (name == "blas") return blas_kernels();
  std::string names;
  for (const Kernels* kernels : available) {
    if (name == kernels->name) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw SetupError("no kernels '" + std::string(name) + "' on this processor; available: " + names +
                   ", blas");
}

}  // namespace shoal
