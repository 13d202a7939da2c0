// FloatOps for NEON. Built with that instruction set's flags, so it may be called only where kernels.cc found
// it.
#include "tensor/simd/vec_neon.h"

#include "tensor/float_ops_impl.h"
#include "tensor/float_ops_tables.h"

namespace shoal {

const FloatOps kFloatOpsNeon = kTable;

}  // namespace shoal
