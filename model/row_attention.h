// Attention of a step's rows where a family's own layer does it otherwise than transformer.cc: over a whole
// input, with a bias by distance, without rotation. On the engine thread and its pool.
#pragma once

#include <span>

#include "model/relative_bias.h"
#include "model/transformer.h"

namespace shoal {

// act.k and act.v of each row go to their place in layer `layer` of a cache.
void store_rows(const ComputeContext& cx, int layer, std::span<const BatchRow> rows, KvCache& cache);

struct RowAttention {
  float scale = 1;  // of q . k
  const RelativeBias* bias = nullptr;
  bool up_to_own = false;  // a row sees positions up to its own; otherwise all of its slot
};

// act.attended of each row: act.q over its own slot in layer `layer` of a cache.
void attend_rows(const ComputeContext& cx, int layer, const RowAttention& how, std::span<const BatchRow> rows,
                 const KvCache& cache);

}  // namespace shoal
