// FloatOps in plain C++ for any processor: the definition of the right bits. Built without instruction-set
// flags.
#include "tensor/simd/vec_scalar.h"

#include "tensor/float_ops_impl.h"
#include "tensor/float_ops_tables.h"

namespace shoal {

const FloatOps kFloatOpsGeneric = kTable;

size_t attention_scratch_floats(int n_head, int n_head_kv, int positions_max) {
  const size_t group = static_cast<size_t>(n_head / n_head_kv);
  const size_t blocks = (static_cast<size_t>(positions_max) + kAttentionLanes - 1) / kAttentionLanes;
  return group * (blocks * kAttentionLanes + 1);  // a row of scores and 1 / sum for each head of the group
}

}  // namespace shoal
