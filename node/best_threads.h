// How many threads generate fastest on this device. More is not always better: memory is often saturated
// before all processors work, and siblings of one core share its units.
#pragma once

#include <vector>

#include "node/probe.h"

namespace shoal {

struct ThreadCount {
  int threads;
  double token_seconds;  // all layers and the output head, one row, as probe_device() measures them
};

// Measured for 1, 2, 3, 4, 6, 8, 12, 16, ... threads up to `processors`, which is always among them.
std::vector<ThreadCount> measure_thread_counts(const GgufFile& file, const ModelConfig& config,
                                               const Kernels& kernels, uint64_t memory_bytes, int processors);

// The fewest threads that are within 3 % of the fastest. `counts` is not empty.
int best_thread_count(const std::vector<ThreadCount>& counts);

}  // namespace shoal
