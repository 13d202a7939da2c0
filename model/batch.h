// One step's rows. A row is one token of one sequence: its position and the cache slot the sequence lives in.
#pragma once

#include <cstdint>
#include <vector>

namespace shoal {

inline constexpr int kRowsMax = 512;  // rows of one step

struct BatchRow {
  int32_t token;            // -1 where the stage does not embed
  int32_t position;         // 0-based
  int32_t slot;             // cache slot of the sequence
  bool wants_logits;        // the output head is applied to this row
  int32_t adapter = 0;      // which of the stage's adapters the row passes through, from 1; 0: none
  float adapter_scale = 1;  // multiplies what that adds
};

// Rows of one slot are consecutive positions in ascending order; slots may come in any order.
struct Batch {
  std::vector<BatchRow> rows;
};

}  // namespace shoal
