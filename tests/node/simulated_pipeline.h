// A pipeline of stages in simulated time, driven by the real Scheduler: a stage takes share * T(rows) +
// overhead, a hop takes latency + bytes. For tests of scheduling: deterministic, no clock, no threads.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <queue>
#include <random>
#include <vector>

#include "node/scheduler.h"

namespace shoal {

struct SimulatedHardware {
  std::vector<double> shares{1.0};  // of the whole model's time, by stage
  double flat_s = 22e-3;            // reading all weights once
  double row_s = 3.2e-3;            // computing a row
  double attention_s = 0.4e-6;      // a row and position
  double overhead_s = 0.15e-3;      // a step and stage
  double hop_s = 0.3e-3, hop_row_s = 0.066e-3;
  double stage_seconds(size_t stage, const StepSize& size) const;
  PipelineModel model(double error = 1) const;  // what a probe would have said, times `error`
};

struct SimulatedRequest {
  double arrival_s = 0;
  int prompt = 1;
  int output = 1;
  double cancel_s = Scheduler::kNever;
  bool decoding = false;  // starts with its prompt in the cache
};

struct SimulatedAnswer {
  std::vector<double> token_s;
  bool cancelled = false;
};

struct SimulatedRun {
  std::vector<SimulatedAnswer> answers;
  double end_s = 0;
  std::vector<double> busy_s;  // by stage
  size_t steps = 0;
};

// Runs all requests to their ends. Throws std::logic_error when the scheduler loses, repeats or reorders
// rows, or leaves work lying.
SimulatedRun simulate(const SimulatedHardware& hardware, const SchedulerLimits& limits, PipelineModel model,
                      const std::vector<SimulatedRequest>& requests, int slots);

double percentile(std::vector<double> values, double share);
std::vector<double> token_gaps(const SimulatedAnswer& answer);

}  // namespace shoal
