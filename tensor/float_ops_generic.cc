// FloatOps in plain C++ for any processor: the definition of the right bits. Built without instruction-set
// flags.
#include "tensor/simd/vec_scalar.h"

#include "tensor/float_ops_impl.h"
#include "tensor/float_ops_tables.h"

namespace shoal {

const FloatOps kFloatOpsGeneric = kTable;

size_t kv_k_page_bytes(KvType type, int n_head_kv, int head_dim) {
  return static_cast<size_t>(n_head_kv * kPageBlocks) * key_block_bytes(type, head_dim);
}

size_t kv_v_page_bytes(KvType type, int n_head_kv, int head_dim) {
  return static_cast<size_t>(n_head_kv) * value_head_bytes(type, head_dim);
}

size_t attention_scratch_floats(KvType type, int n_head, int n_head_kv, int positions_max) {
  const size_t group = static_cast<size_t>(n_head / n_head_kv);
  const size_t blocks = (static_cast<size_t>(positions_max) + kAttentionLanes - 1) / kAttentionLanes;
  const size_t rows = type == KvType::kQ8_0 ? 2 : 1;  // weights, and weights times the scale of V
  return rows * group * blocks * kAttentionLanes;
}

}  // namespace shoal
