// Whether a running cluster should move layers. Its devices and links drift; a new plan is proposed only
// when, after the time it takes to move the layers, it gives clearly more within a horizon. Pure; any thread.
#pragma once

#include <string>
#include <vector>

#include "planner/types.h"

namespace shoal {

struct ReplanOptions {
  double gain_min = 0.15;  // least gain that is worth a move
  double horizon_s = 600;  // the time in which the move must pay
};

// Layers (and ends) that a device has to load because it does not hold them now.
struct LayerMove {
  std::string to;
  std::string from;  // who holds the first of them now; "" where nobody does
  int layer_begin = 0, layer_end = 0;
  bool embedding = false, output = false;
  uint64_t bytes = 0;
  double seconds = 0;  // over the link from `from`, else from the head; and from the disk
};

struct ReplanAdvice {
  bool move = false;  // the new plan is worth it, or the old one cannot run
  bool old_runs = true;
  std::string why_not;  // why the old plan cannot run under the live profile
  double old_value =
      0;  // of the objective under the live profile: seconds, or seconds of the bottleneck, or joules
  double new_value = 0;
  double move_seconds = 0;  // devices load at the same time; generation stands still meanwhile
  double gain = 0;          // tokens in the horizon, new over old, less 1 (energy: joules saved)
  Plan plan;                // the new plan
  std::vector<LayerMove> moves;
};

// `live`: the cluster as it is now, `running`: the plan it runs, whose devices are found by name. Throws
// SetupError when the two are not of the same model, or no plan exists.
ReplanAdvice advise_replan(const PlanInput& live, const Plan& running, const ReplanOptions& options = {});

std::string render_advice(const PlanInput& live, const ReplanAdvice& advice,
                          const ReplanOptions& options = {});

}  // namespace shoal
