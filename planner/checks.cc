#include "planner/checks.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/units.h"
#include "planner/planner.h"

namespace shoal {
namespace {

constexpr double kSecondsMax = 1e9;
constexpr uint64_t kBytesMax = uint64_t{1} << 52;  // sums of thousands of these do not overflow

[[noreturn]] void reject(const std::string& message) {
  throw SetupError("plan: " + message);
}

void require(bool good, const std::string& message) {
  if (!good) reject(message);
}

bool sound_seconds(double seconds) {
  return seconds >= 0 && seconds <= kSecondsMax;
}

void check_points(const DeviceProfile& device, const std::vector<RowSeconds>& points, const char* what) {
  require(!points.empty(),
          "node " + device.name + " has no measured time for " + what + "; run the probe again");
  int rows = 0;
  for (const RowSeconds& point : points) {
    require(point.rows > rows && point.rows <= kPlanRowsMax,
            "node " + device.name + ": the row counts of its times for " + what + " must rise from 1");
    require(sound_seconds(point.seconds), "node " + device.name + ": a time for " + what + " is not a time");
    rows = point.rows;
  }
}

void check_device(const PlanInput& input, const DeviceProfile& device) {
  check_points(device, device.decode_layer, "a layer");
  check_points(device, device.output_head, "the output head");
  require(sound_seconds(device.embedding_row_seconds) && sound_seconds(device.prefill_layer_row_seconds),
          "node " + device.name + ": its time for the embedding or a prompt row is not a time");
  require(device.load_bytes_per_s >= 0 && device.load_bytes_per_s <= 1e15,
          "node " + device.name + ": load_bytes_per_s is not a rate");
  require(device.memory_bytes <= kBytesMax, "node " + device.name + ": its memory budget is beyond reason");
  require(device.idle_watts >= 0 && device.busy_watts <= 1e6 &&
              (device.busy_watts == 0 ? device.idle_watts <= 1e6 : device.idle_watts <= device.busy_watts),
          "node " + device.name + ": idle-watts must be from 0 to busy-watts, and those within a megawatt");
  require(device.layers_max >= 0, "node " + device.name + ": layers_max must not be negative");
  require(device.layer_scale.empty() || device.layer_scale.size() == static_cast<size_t>(input.model.n_layer),
          "node " + device.name + ": layer_scale must have one number a layer");
  for (double scale : device.layer_scale)
    require(scale >= 0 && scale <= 1e6, "node " + device.name + ": a layer_scale is not a sensible factor");
}

void check_model(const ModelProfile& model) {
  require(model.n_layer > 0 && model.n_layer <= kPlanLayersMax,
          "the model has " + std::to_string(model.n_layer) + " layers; 1 to " +
              std::to_string(kPlanLayersMax) + " can be planned");
  const auto n = static_cast<size_t>(model.n_layer);
  require(model.layer_bytes.size() == n && model.layer_kv_bytes.size() == n,
          "the model profile must have one size of weights and of KV cache a layer");
  for (uint64_t bytes : model.layer_bytes) require(bytes <= kBytesMax, "a layer's size is beyond reason");
  for (uint64_t bytes : model.layer_kv_bytes)
    require(bytes <= kBytesMax, "a layer's KV cache is beyond reason");
  for (uint64_t bytes : {model.embedding_bytes, model.output_bytes, model.shared_bytes, model.scratch_bytes,
                         model.scratch_output_bytes, model.base_bytes})
    require(bytes <= kBytesMax, "a size in the model profile is beyond reason");
  for (uint64_t bytes : {model.hidden_bytes_per_row, model.token_bytes_per_row, model.result_bytes_per_row})
    require(bytes <= (uint64_t{1} << 32), "a message size in the model profile is beyond reason");
}

void check_constraints(const PlanInput& input) {
  const Constraints& constraints = input.constraints;
  const int devices = static_cast<int>(input.devices.size());
  const auto known = [&](int device) { return device >= 0 && device < devices; };
  require(known(constraints.head), "the head is not one of the nodes");
  for (int device : constraints.excluded) require(known(device), "an excluded node is not one of the nodes");
  require(constraints.trusted_first_layers >= 0 && constraints.trusted_last_layers >= 0 &&
              constraints.trusted_first_layers <= input.model.n_layer &&
              constraints.trusted_last_layers <= input.model.n_layer,
          "the number of layers to keep on trusted nodes must be within the model's layers");
  const KeepOnHead& keep = constraints.keep_on_head;
  require(keep.first >= 0 && keep.last >= -1 && (keep.begins() || !keep.ends()) &&
              keep.first + std::max(keep.last, 0) <= input.model.n_layer,
          "keep-on-head " + to_string(keep) + ": the model has " + std::to_string(input.model.n_layer) +
              " layers");
}

std::string name_of(const PlanInput& input, int device) {
  return input.devices[static_cast<size_t>(device)].name;
}

// Memory that a stage of nothing but this unit takes on a device.
uint64_t lone_unit_bytes(const PlanInput& input, const CostModel& cost, int unit) {
  const int n = input.model.n_layer;
  UnitRange range;
  range.embedding = unit == 0;
  range.output = unit == n + 1;
  if (unit >= 1 && unit <= n) range.layer_begin = unit - 1, range.layer_end = unit;
  return cost.stage_memory(range).total() + input.model.base_bytes;
}

std::string unit_text(const PlanInput& input, int unit) {
  if (unit == 0) return "the embedding";
  if (unit == input.model.n_layer + 1) return "the output head";
  return "layer " + std::to_string(unit - 1);
}

std::string explain_head(const PlanInput& input, const CostModel& cost) {
  const KeepOnHead& keep = input.constraints.keep_on_head;
  UnitRange least{true, 0, keep.first, false};
  uint64_t bytes = cost.stage_memory(least).total() + input.model.base_bytes;
  if (keep.ends()) bytes += end_on_head_bytes(input, cost);
  const DeviceProfile& head = input.devices[static_cast<size_t>(input.constraints.head)];
  std::string text = "keep-on-head " + to_string(keep) + ": node " + head.name;
  if (head.memory_bytes >= bytes)
    return text +
           " may not hold the layers that must be there (it is not trusted with them, or has layers_max)";
  return text + " has " + format_bytes(head.memory_bytes) + " and needs " + format_bytes(bytes) +
         " for the embedding, " + layers_text(0, keep.first) +
         (keep.last > 0 ? ", " + layers_text(end_on_head(input).layer_begin, input.model.n_layer) : "") +
         (keep.ends() ? ", the output head" : "") +
         " and the process itself: " + format_bytes(bytes - head.memory_bytes) +
         " are missing; give it more memory, shorten the context, or set keep-on-head: none";
}

// A cluster of one: all of the model, or nothing. Empty if memory is not what is missing.
std::string explain_single(const PlanInput& input, const CostModel& cost) {
  const DeviceProfile& node = input.devices.front();
  const MemoryUse use = cost.stage_memory({true, 0, input.model.n_layer, true});
  const uint64_t need = use.total() + input.model.base_bytes;
  if (need <= node.memory_bytes) return {};
  return "node " + node.name + " is alone, has " + format_bytes(node.memory_bytes) + " and needs " +
         format_bytes(need) + " for the whole model (weights " + format_bytes(use.weights) + ", KV cache " +
         format_bytes(use.kv) + ", scratch " + format_bytes(use.scratch) + ", process " +
         format_bytes(input.model.base_bytes) + "): " + format_bytes(need - node.memory_bytes) +
         " are missing; give it more memory, shorten the context, serve fewer sequences, or add a node";
}

std::string explain_total(const PlanInput& input, const CostModel& cost, const Chain& chain) {
  MemoryUse need = cost.stage_memory({true, 0, input.model.n_layer, true});
  uint64_t offered = 0;
  int holders = 0, units = 0;
  for (int t = 0; t < chain.types; ++t) {
    int longest = 0;
    for (int begin = 0; begin < chain.units; ++begin)
      longest = std::max(longest, chain.reach_of(t, begin) - begin);
    units += longest * chain.count(t);
    for (int device : chain.members[static_cast<size_t>(t)]) {
      const uint64_t fixed = input.model.base_bytes + input.model.scratch_bytes;
      const uint64_t budget = input.devices[static_cast<size_t>(device)].memory_bytes;
      offered += budget > fixed ? budget - fixed : 0;
      ++holders;
    }
  }
  need.scratch = input.model.scratch_output_bytes;
  const std::string needs = "the model needs " + format_bytes(need.total()) + " (weights " +
                            format_bytes(need.weights) + ", KV cache " + format_bytes(need.kv) + ", logits " +
                            format_bytes(need.scratch) + ")";
  const std::string offers = format_bytes(offered) + " in all beside their processes and scratch";
  const std::string ways = "; add a node or memory, shorten the context, or serve fewer sequences";
  const std::string nodes = std::to_string(holders) + (holders == 1 ? " node offers " : " nodes offer ");
  if (need.total() > offered)
    return needs + " and the " + nodes + offers + ": " + format_bytes(need.total() - offered) +
           " are missing" + ways;
  if (units < chain.units)
    return needs + " and the " + nodes + offers +
           ", but in pieces that do not fit whole layers: they hold at most " + std::to_string(units) +
           " of " + std::to_string(chain.units) + " units (the embedding, each layer, the output head)" +
           ways;
  return needs + " and the " + nodes + offers +
         ", but no order of the nodes fits whole layers into their memory over usable links and keeps what "
         "must be on the "
         "head or on trusted nodes" +
         ways;
}

}  // namespace

void check_input(const PlanInput& input) {
  require(!input.devices.empty() && input.devices.size() <= static_cast<size_t>(kPlanDevicesMax),
          "there must be 1 to " + std::to_string(kPlanDevicesMax) + " nodes");
  require(input.links.devices() == static_cast<int>(input.devices.size()),
          "the table of links must cover the nodes");
  check_model(input.model);
  check_constraints(input);
  for (const DeviceProfile& device : input.devices) check_device(input, device);
  for (int from = 0; from < input.links.devices(); ++from) {
    for (int to = 0; to < input.links.devices(); ++to) {
      const LinkProfile& link = input.links.at(from, to);
      require(sound_seconds(link.latency_s) && std::isfinite(link.bytes_per_s),
              "the link from " + name_of(input, from) + " to " + name_of(input, to) +
                  " has no sensible latency or bandwidth");
    }
  }
  const Workload& load = input.workload;
  require(load.prompt_tokens >= 0 && load.output_tokens >= 0 && load.prompt_tokens <= kPlanRowsMax &&
              load.concurrency >= 1 && load.concurrency <= kPlanRowsMax,
          "the workload's prompt, output or concurrency is out of range");
}

std::string layers_text(int begin, int end) {
  if (begin >= end) return "no layers";
  if (end == begin + 1) return "layer " + std::to_string(begin);
  return "layers " + std::to_string(begin) + "-" + std::to_string(end - 1);
}

std::vector<StageAssignment> manual_stages(const PlanInput& input) {
  const int n = input.model.n_layer, head = input.constraints.head;
  std::vector<ManualRange> ranges = input.constraints.manual;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const ManualRange& range = ranges[i];
    require(range.device >= 0 && range.device < static_cast<int>(input.devices.size()),
            "layers are given to a node that does not exist");
    require(range.layer_begin >= 0 && range.layer_begin < range.layer_end && range.layer_end <= n,
            "node " + name_of(input, range.device) +
                " is given layers that the model does not have; its layers are 0-" + std::to_string(n - 1));
    for (size_t j = 0; j < i; ++j)
      require(ranges[j].device != range.device,
              "node " + name_of(input, range.device) +
                  " is given two ranges of layers; a node holds one contiguous range");
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const ManualRange& a, const ManualRange& b) { return a.layer_begin < b.layer_begin; });
  std::vector<StageAssignment> stages;
  int next = 0;
  for (const ManualRange& range : ranges) {
    require(range.layer_begin >= next, layers_text(range.layer_begin, std::min(next, range.layer_end)) +
                                           " given twice: to " + name_of(input, range.device) +
                                           " and to another node");
    require(range.layer_begin == next, "no node is given " + layers_text(next, range.layer_begin));
    StageAssignment stage;
    stage.device = range.device;
    stage.embedding = next == 0;
    stage.layer_begin = range.layer_begin;
    stage.layer_end = next = range.layer_end;
    stages.push_back(stage);
  }
  // Where the head keeps the end and has not got all, the end is its own without being given.
  const KeepOnHead& keep = input.constraints.keep_on_head;
  const bool adds_end =
      keep.ends() && stages.back().device != head && (next == n - keep.last || keep.last == 0);
  require(next == n || adds_end, "no node is given " + layers_text(next, n));
  if (adds_end) {
    StageAssignment end;
    end.device = head;
    end.layer_begin = next;
    end.layer_end = n;
    stages.push_back(end);
  }
  stages.back().output = true;
  return stages;
}

std::string explain_no_plan(const PlanInput& input, const CostModel& cost, const Chain& chain) {
  if (chain.types == 0) return "no node may take a stage: all are excluded";
  if (input.devices.size() == 1) {
    const std::string text = explain_single(input, cost);
    if (!text.empty()) return text;
  }
  if (chain.head_first && chain.head_type < 0)
    return "keep-on-head " + to_string(input.constraints.keep_on_head) + ": the head " +
           name_of(input, input.constraints.head) + " is excluded; allow it or set keep-on-head: none";
  if (chain.head_first && chain.reach_of(chain.head_type, 0) < chain.head_units)
    return explain_head(input, cost);
  for (int unit = 0; unit < chain.units; ++unit) {
    bool fits = false;
    uint64_t largest = 0;
    for (int t = 0; t < chain.types; ++t) {
      fits = fits || chain.reach_of(t, unit) > unit || (chain.head_first && unit < chain.head_units);
      for (int device : chain.members[static_cast<size_t>(t)])
        largest = std::max(largest, input.devices[static_cast<size_t>(device)].memory_bytes);
    }
    if (fits) continue;
    return unit_text(input, unit) + " alone needs " + format_bytes(lone_unit_bytes(input, cost, unit)) +
           " with its KV cache, scratch and process, and no node may or can hold it: the largest has " +
           format_bytes(largest);
  }
  return explain_total(input, cost, chain);
}

}  // namespace shoal
