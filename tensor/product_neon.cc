// Products for every Armv8-A processor.
#include "tensor/product_neon_impl.h"

namespace shoal {

const ProductOps kProductOpsNeon = make_product_ops<Neon>();

}  // namespace shoal
