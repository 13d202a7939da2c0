// What a plan gives when several sequences are served at once: they decode in G groups, one step a group, so
// that one group computes while another is on its way. By simulation (scheduling rule 1) the best G makes the
// larger of two times smallest: the groups' times at the busiest place added up, and one group's lap. Pure;
// any thread.
#pragma once

#include <vector>

#include "planner/types.h"

namespace shoal {

struct ServicePrediction {
  int sequences = 1;
  int groups = 1;
  double first_token_seconds = 0;  // a prompt that comes while nothing else is read
  double seconds_per_token = 0;    // of each sequence: one cycle, in which each makes one token
  double tokens_per_second = 0;    // of all sequences
  double joules_per_token = 0;     // 0: some device's watts are unknown
  double watts = 0;                // of the devices with a stage, on average; 0: unknown
  double peak_watts = 0;           // all of them busy; 0: unknown
};

// `stages` as evaluate() filled them, `sequences` >= 1 of them decoding.
ServicePrediction predict_service(const PlanInput& input, const std::vector<StageAssignment>& stages,
                                  int sequences);

// One step of `rows` decode rows alone, head to head.
double lap_of_rows(const PlanInput& input, const std::vector<StageAssignment>& stages, int rows);

// The same input with a KV cache for `context` tokens of `sequences` sequences instead of those it has, in
// proportion. The model's context and sequences must be known (> 0), or SetupError.
PlanInput with_cache_for(PlanInput input, int context, int sequences);

}  // namespace shoal
