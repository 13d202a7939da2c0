// One step's rows. A row is one token of one sequence: its position and the cache slot the sequence lives in.
#pragma once

#include <cstdint>
#include <vector>

namespace shoal {

inline constexpr int kRowsMax = 512;  // rows of one step

// What a step's rows are. An encode step carries whole inputs, which an encoder sees in both directions: of
// each slot in it all rows, at positions from 0; the slots' caches begin anew. It gives no outputs. An embed
// step gives embeddings: of an encoder alone it carries whole inputs too, of a decoder rows like a decode
// step.
enum class StepKind : uint8_t { kDecode, kEncode, kEmbed };

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
