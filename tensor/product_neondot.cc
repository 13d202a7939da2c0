// Products for Arm processors with the SDOT instruction (Armv8.2-A +dotprod). Built with that flag, so it may
// be called only where kernels.cc found it.
#include "tensor/product_neon_impl.h"

#if !defined(__ARM_FEATURE_DOTPROD)
#error "compile with -march=armv8.2-a+dotprod"
#endif

namespace shoal {

const ProductOps kProductOpsNeonDot = make_product_ops<Neon>();

}  // namespace shoal
