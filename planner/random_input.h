// Seeded random planning inputs for the planner's tests and timings.
#pragma once

#include <algorithm>
#include <random>

#include "planner/planner.h"

namespace shoal::sample {

struct InputShape {
  int layers = 4;
  int devices = 3;
  double tightness = 2;  // offered memory as a multiple of what the model needs
  bool equal_layers = false;
  bool device_scales = false;  // each device has its own relative cost of each layer
  bool missing_links = false;
  double mbps_max = 50;
  bool keep_layers = false;  // the head keeps more than its ends
  int types = 0;             // device i is like device i mod types, links too; 0: all different
};

inline PlanInput random_input(const InputShape& shape, unsigned seed) {
  std::mt19937 random(seed);
  const auto uniform = [&](double low, double high) {
    return low + (high - low) * (static_cast<double>(random()) / 4294967296.0);
  };
  const auto bytes = [&](double low, double high) { return static_cast<uint64_t>(uniform(low, high)); };
  PlanInput input;
  ModelProfile& model = input.model;
  model.name = "random";
  model.n_layer = shape.layers;
  model.n_embd = 1024;
  model.tied_output = random() % 2 == 0;
  model.embedding_bytes = bytes(50, 300);
  model.output_bytes = model.tied_output ? 1 : bytes(50, 300);
  model.shared_bytes = bytes(0, 10);
  model.scratch_bytes = bytes(0, 20);
  model.scratch_output_bytes = bytes(0, 30);
  model.base_bytes = bytes(0, 20);
  model.hidden_bytes_per_row = 16384;
  model.result_bytes_per_row = 64 + random() % 8192;
  const uint64_t layer = 100, kv = bytes(0, 30);
  double need = static_cast<double>(model.embedding_bytes + model.output_bytes);
  for (int i = 0; i < shape.layers; ++i) {
    model.layer_bytes.push_back(shape.equal_layers ? layer : bytes(60, 160));
    model.layer_kv_bytes.push_back(shape.equal_layers ? kv : bytes(0, 40));
    need += static_cast<double>(model.layer_bytes.back() + model.layer_kv_bytes.back());
  }
  std::vector<double> share;
  double sum = 0;
  for (int d = 0; d < shape.devices; ++d) sum += share.emplace_back(uniform(0.2, 1));
  for (int d = 0; d < shape.devices; ++d) {
    DeviceProfile device;
    device.name = "node-" + std::to_string(d);
    device.memory_bytes =
        static_cast<uint64_t>(need * shape.tightness * share[static_cast<size_t>(d)] / sum) +
        model.base_bytes + model.scratch_bytes;
    const double pace = uniform(0.5e-3, 8e-3);
    device.decode_layer = {{1, pace}, {4, pace * uniform(1, 2)}};
    device.output_head = {{1, pace * uniform(0.5, 4)}};
    device.embedding_row_seconds = uniform(0, 1e-4);
    device.prefill_layer_row_seconds = pace / 4;
    if (shape.device_scales)
      for (int i = 0; i < shape.layers; ++i) device.layer_scale.push_back(uniform(0.4, 2.5));
    input.devices.push_back(device);
  }
  input.links = LinkTable(shape.devices, {});
  for (int a = 0; a < shape.devices; ++a)
    for (int b = 0; b < shape.devices; ++b)
      if (a != b && !(shape.missing_links && random() % 4 == 0))
        input.links.set(a, b, {uniform(0, 2e-3), uniform(0.02, 1) * shape.mbps_max * 1e6 / 8});
  for (int a = 0; a < shape.devices && shape.types > 0; ++a) {
    const int like = a % shape.types;
    const std::string name = input.devices[static_cast<size_t>(a)].name;
    input.devices[static_cast<size_t>(a)] = input.devices[static_cast<size_t>(like)];
    input.devices[static_cast<size_t>(a)].name = name;
    for (int b = 0; b < shape.devices; ++b) {
      const int other = b % shape.types;
      const LinkProfile alike{1e-3, 0.5 * shape.mbps_max * 1e6 / 8};
      if (a != b) input.links.set(a, b, like == other ? alike : input.links.at(like, other));
    }
  }
  input.constraints.head = static_cast<int>(random() % static_cast<unsigned>(shape.devices));
  constexpr KeepOnHead kKeeps[] = {KeepOnHead::kNone, KeepOnHead::kFirstLayer, KeepOnHead::kEnds};
  KeepOnHead& keep = input.constraints.keep_on_head = kKeeps[random() % 3];
  if (shape.keep_layers && keep.begins()) {
    keep.first = std::min(shape.layers, 1 + static_cast<int>(seed / 3 % 3));
    if (keep.ends()) keep.last = std::min(shape.layers - keep.first, static_cast<int>(seed / 9 % 3));
  }
  input.workload.concurrency = 1 + static_cast<int>(random() % 6);
  return input;
}

}  // namespace shoal::sample
