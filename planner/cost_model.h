// The one cost model: what a range of units costs a device in time and memory, and what a message costs a
// link. Built once from a PlanInput that stays alive; immutable afterwards, so any thread may ask it.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "planner/types.h"

namespace shoal {

inline constexpr double kUnusable = std::numeric_limits<double>::infinity();

// A stage's share of the model, without a device.
struct UnitRange {
  bool embedding = false;
  int layer_begin = 0;
  int layer_end = 0;
  bool output = false;
};

// Seconds for `rows` rows by a device's measured points (see DeviceProfile).
double seconds_at_rows(const std::vector<RowSeconds>& points, int rows);

class CostModel {
 public:
  explicit CostModel(const PlanInput& input);

  // Computing a step of `rows` rows, all of which want logits where the output head is.
  double compute_seconds(int device, const UnitRange& range, int rows) const;
  // One prompt chunk of `rows` rows, only the last of which wants logits.
  double prefill_seconds(int device, const UnitRange& range, int rows) const;

  // One message: latency + bytes / bandwidth. 0 from a device to itself, kUnusable where there is no link.
  double message_seconds(int from, int to, uint64_t bytes) const;
  // How long the message occupies the link: messages follow each other, so latency limits no throughput.
  double occupancy_seconds(int from, int to, uint64_t bytes) const;

  // Memory of one stage, without the process's base.
  MemoryUse stage_memory(const UnitRange& range) const;

 private:
  double scaled_layers(int device, int begin, int end) const;

  const PlanInput& input_;
  std::vector<std::vector<double>> scale_prefix_;  // [device][n_layer + 1] average layers before layer i
  std::vector<uint64_t> weight_prefix_;            // [n_layer + 1]
  std::vector<uint64_t> kv_prefix_;                // [n_layer + 1]
};

// How a prompt that is alone in the pipeline is read: in the chunks with which its first token comes
// earliest, as the scheduler does. Small chunks fill the stages sooner, large ones cost each stage less.
struct PromptReading {
  int chunk_rows = 1;
  double seconds = 0;  // to the first token; kUnusable: over a link that cannot be used
};
PromptReading read_prompt(const PlanInput& input, const CostModel& cost,
                          const std::vector<StageAssignment>& stages, int prompt_tokens);

inline UnitRange unit_range(const StageAssignment& stage) {
  return {stage.embedding, stage.layer_begin, stage.layer_end, stage.output};
}

}  // namespace shoal
