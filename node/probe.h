// Measuring a device: real kernels on the model's real layers, so that the planner's seconds are this
// device's seconds.
#pragma once

#include "model/gguf_file.h"
#include "model/model_config.h"
#include "planner/types.h"
#include "tensor/kernels.h"

namespace shoal {

struct ProbeOptions {
  int threads = 1;
  uint64_t memory_bytes = 0;  // budget of the device: the probe stays well inside
  // The file has its header only: weights of its shapes and formats are made up, which take as long to
  // compute.
  bool made_up = false;
};

// Seconds per layer and per output head at several row counts. Takes a fraction of a second; the memory it
// used is given back before it returns. Deterministic but for the clock.
DeviceProfile probe_device(const GgufFile& file, const ModelConfig& config, const Kernels& kernels,
                           const ProbeOptions& options);

// Bytes a second read from memory by `threads` threads, from a buffer larger than the caches: what bounds
// generation.
double probe_memory_read(int threads);

}  // namespace shoal
