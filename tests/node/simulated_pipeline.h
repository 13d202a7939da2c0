// A pipeline of stages in simulated time, driven by the real AdmissionQueue, CacheSlots and Scheduler as the
// coordinator drives them: a stage takes share * T(rows) + overhead, a hop takes latency + bytes. For tests
// of scheduling: deterministic, no clock, no threads.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <queue>
#include <random>
#include <string>
#include <vector>

#include "node/admission.h"
#include "node/cache_slots.h"
#include "node/scheduler.h"

namespace shoal {

struct SimulatedHardware {
  std::vector<double> shares{1.0};  // of the whole model's time, by stage
  double flat_s = 22e-3;            // reading all weights once
  double row_s = 3.2e-3;            // computing a row
  double attention_s = 0.4e-6;      // a row and position
  double overhead_s = 0.15e-3;      // a step and stage
  double hop_s = 0.3e-3, hop_row_s = 0.066e-3;
  struct Spell {  // the stage takes `factor` times as long for what it begins between the two times
    size_t stage = 0;
    double begin_s = 0, end_s = 0, factor = 1;
  };
  std::vector<Spell> spells;
  double stage_seconds(size_t stage, const StepSize& size) const;
  PipelineModel model(double error = 1) const;  // what a probe would have said, times `error`
};

struct SimulatedRequest {
  double arrival_s = 0;
  int prompt = 1;
  int output = 1;
  double cancel_s = Scheduler::kNever;
  bool decoding = false;  // starts with its prompt in the cache
  int common = 0;         // positions at the beginning that all requests have alike
  int priority = 0;
  std::string user = "";
  double time_s = Scheduler::kNever;  // from arrival until it is given up
};

// The cache of every stage. Sequences are taken off when its pages run out.
struct SimulatedCache {
  int slots = 64;
  int context = 1 << 20;
  int64_t cells = 0;  // 0: slots x context
};

struct SimulatedAnswer {
  std::vector<double> token_s;
  bool cancelled = false, refused = false, late = false;
  double admitted_s = Scheduler::kNever;  // the first time
  int taken_off = 0;                      // so often its pages were given to another
  bool whole(int output) const { return token_s.size() == static_cast<size_t>(output); }
};

struct SimulatedRun {
  std::vector<SimulatedAnswer> answers;
  double end_s = 0;
  std::vector<double> busy_s;  // by stage
  size_t steps = 0;
  size_t taken_off = 0;  // sequences, to be computed again
  size_t reused = 0;     // positions found in the cache
};

// Nobody is refused but for want of time.
inline constexpr AdmissionLimits kAllAdmitted{.waiting_max = 1 << 20,
                                              .waiting_of_user_max = 1 << 20,
                                              .wait_max_s = std::numeric_limits<double>::infinity()};

// Runs all requests to their ends. Throws std::logic_error when the scheduler loses, repeats or reorders
// rows, or leaves work lying, a stage's cache has no page for rows it is sent, or a slot does not hold the
// tokens of the sequence that is computed in it.
SimulatedRun simulate(const SimulatedHardware& hardware, const SchedulerLimits& limits, PipelineModel model,
                      const std::vector<SimulatedRequest>& requests, const SimulatedCache& cache = {},
                      const AdmissionLimits& admission = kAllAdmitted);

double percentile(std::vector<double> values, double share);
std::vector<double> token_gaps(const SimulatedAnswer& answer);

}  // namespace shoal
