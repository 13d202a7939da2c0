// The FloatOps tables that are compiled in. Each lives in its own float_ops_<isa>.cc, the only files built
// with that instruction set's flags; tensor/kernels.cc decides by looking at the processor which of them may
// be called.
#pragma once

#include "tensor/float_ops.h"

namespace shoal {

extern const FloatOps kFloatOpsGeneric;
#if defined(__x86_64__)
extern const FloatOps kFloatOpsAvx2;    // needs AVX2, FMA, F16C
extern const FloatOps kFloatOpsAvx512;  // needs AVX512F besides
#elif defined(__aarch64__)
extern const FloatOps kFloatOpsNeon;
#endif

}  // namespace shoal
