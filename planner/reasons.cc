#include "planner/reasons.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "base/units.h"
#include "planner/checks.h"
#include "planner/device_kinds.h"

namespace shoal {
namespace {

std::string percent(double fraction) {
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.*f %%", fraction < 0.1 ? 1 : 0, 100 * fraction);
  return text.data();
}

std::string rate(double tokens_per_second) {
  std::array<char, 48> text;
  std::snprintf(text.data(), text.size(), "%.*f tokens/s", tokens_per_second < 100 ? 1 : 0,
                tokens_per_second);
  return text.data();
}

// Stages that may be cut anew to say what left-out devices would cost: well below a second. Fleets of more
// get no figure for the rest.
constexpr size_t kTriedStagesMax = 20000;

bool uses(const std::vector<StageAssignment>& stages, int device) {
  return std::any_of(stages.begin(), stages.end(),
                     [&](const StageAssignment& s) { return s.device == device; });
}

std::string used_text(const PlanInput& input, const std::vector<StageAssignment>& stages,
                      const Prediction& predicted, int device) {
  std::string what;
  double seconds = 0;
  for (const StageAssignment& stage : stages) {
    if (stage.device != device) continue;
    seconds += stage.seconds;
    const auto add = [&](const std::string& part) { what += (what.empty() ? "" : ", ") + part; };
    if (stage.embedding) add("the embedding");
    if (stage.layers() > 0) add(layers_text(stage.layer_begin, stage.layer_end));
    if (stage.output) add("the output head");
  }
  const DeviceProfile& profile = input.devices[static_cast<size_t>(device)];
  const uint64_t used = device_memory(stages, device).total();
  std::string text = "holds " + what + ": " + format_seconds(seconds) + " a token, " + format_bytes(used) +
                     " of " + format_bytes(profile.memory_bytes);
  const uint64_t least_layer =
      *std::min_element(input.model.layer_bytes.begin(), input.model.layer_bytes.end()) +
      *std::min_element(input.model.layer_kv_bytes.begin(), input.model.layer_kv_bytes.end());
  if (profile.memory_bytes < used + least_layer) text += "; full, not one more layer fits";
  if (!predicted.bottleneck.link && predicted.bottleneck.from == device)
    text += "; the bottleneck of a full pipeline";
  return text;
}

// -1: the device takes no stage.
int type_of(const Chain& chain, int device) {
  for (int t = 0; t < chain.types; ++t) {
    const std::vector<int>& members = chain.members[static_cast<size_t>(t)];
    if (std::find(members.begin(), members.end(), device) != members.end()) return t;
  }
  return -1;
}

// The least objective when `type` is put somewhere into `order`, between two devices or in the place of one.
double value_with(const PlanInput& input, const Chain& chain, const std::vector<int>& order, int type) {
  const bool latency = input.objective == Objective::kLatency;
  double best = kUnusable;
  const auto attempt = [&](const std::vector<int>& trial) {
    const auto segments = latency ? cut_for_lap(chain, trial) : cut_for_busiest(chain, trial);
    if (!segments) return;
    best = std::min(best, latency ? lap_seconds(chain, *segments) : busiest_seconds(chain, *segments));
  };
  for (size_t i = 0; i <= order.size(); ++i) {
    std::vector<int> inserted = order;
    inserted.insert(inserted.begin() + static_cast<std::ptrdiff_t>(i), type);
    attempt(inserted);
    if (i == order.size()) continue;
    std::vector<int> replaced = order;
    replaced[i] = type;
    attempt(replaced);
  }
  return best;
}

std::string cost_text(const PlanInput& input, double value, const Prediction& predicted) {
  if (value == kUnusable)
    return "left out: no plan found that includes it fits memory, links and constraints";
  if (input.objective == Objective::kLatency) {
    const double now = predicted.seconds_per_token;
    if (format_seconds(value) == format_seconds(now))
      return "left out: it would save nothing, with it in this pipeline a token would take the same " +
             format_seconds(now);
    return "left out: with it in this pipeline a token would take " + format_seconds(value) + " instead of " +
           format_seconds(now) + ", " + percent(now > 0 ? value / now - 1 : 0) + " more";
  }
  const double now = predicted.bottleneck.seconds;
  if (value <= now * (1 + 1e-9))
    return "left out: it would not raise the throughput, which " +
           (predicted.bottleneck.link ? std::string("a link") : "another node") +
           " limits, and would lengthen the lap";
  const double rows = input.workload.concurrency;
  if (rate(rows / value) == rate(rows / now))
    return "left out: it would gain nothing, with it in this pipeline the rate would be the same " +
           rate(rows / now);
  return "left out: with it in this pipeline " + rate(rows / value) + " instead of " + rate(rows / now) +
         ", " + percent(1 - now / value) + " less";
}

std::string unused_text(const PlanInput& input, const CostModel& cost, const Chain& chain,
                        const std::vector<int>& order, const Prediction& predicted, int type, size_t& tried) {
  const int device = chain.members[static_cast<size_t>(type)].front();
  const DeviceProfile& profile = input.devices[static_cast<size_t>(device)];
  bool holds_any = false;
  for (int begin = 0; begin < chain.units; ++begin)
    holds_any = holds_any || chain.reach_of(type, begin) > begin;
  if (!holds_any) {
    uint64_t least = ~uint64_t{0};
    for (int i = 0; i < input.model.n_layer; ++i)
      least = std::min(least, cost.stage_memory({false, i, i + 1, false}).total() + input.model.base_bytes);
    if (profile.memory_bytes >= least) return "left out: it is not trusted with any of the layers";
    return "left out: its " + format_bytes(profile.memory_bytes) + " cannot hold one layer, which takes " +
           format_bytes(least) + " with KV cache, scratch and process";
  }
  tried += (2 * order.size() + 1) * order.size();
  if (tried > kTriedStagesMax)
    return "left out: the plan is as good without it; with so many devices not priced";
  return cost_text(input, value_with(input, chain, order, type), predicted);
}

// For plans whose left-out devices need no search: `unused` says why.
template <class Unused>
std::vector<DeviceReason> reasons_or(const PlanInput& input, std::vector<StageAssignment> stages,
                                     Unused unused) {
  const Prediction predicted = evaluate(input, stages);
  std::vector<DeviceReason> reasons;
  for (int device = 0; device < static_cast<int>(input.devices.size()); ++device) {
    const bool used = uses(stages, device);
    if (!used && !may_take_stage(input, device)) {
      reasons.push_back({device, false, "left out: excluded"});
      continue;
    }
    reasons.push_back({device, used,
                       used ? used_text(input, stages, predicted, device)
                            : unused(input.devices[static_cast<size_t>(device)])});
  }
  return reasons;
}

}  // namespace

std::vector<DeviceReason> device_reasons(const PlanInput& input, const CostModel& cost, const Chain& chain,
                                         std::vector<StageAssignment> stages) {
  const Prediction predicted = evaluate(input, stages);
  std::vector<int> order;
  for (const StageAssignment& stage : stages) {
    if (&stage != &stages.front() && stage.device == stages.front().device)
      continue;  // the end that is on the head
    order.push_back(type_of(chain, stage.device));
  }
  std::vector<DeviceReason> reasons;
  std::vector<std::string> text_of_type(
      static_cast<size_t>(chain.types));  // left-out devices of a type: one answer
  size_t tried = 0;
  for (int device = 0; device < static_cast<int>(input.devices.size()); ++device) {
    if (uses(stages, device)) {
      reasons.push_back({device, true, used_text(input, stages, predicted, device)});
      continue;
    }
    const int type = type_of(chain, device);
    if (type < 0) {
      reasons.push_back({device, false, "left out: excluded"});
      continue;
    }
    std::string& text = text_of_type[static_cast<size_t>(type)];
    if (text.empty()) text = unused_text(input, cost, chain, order, predicted, type, tried);
    reasons.push_back({device, false, text});
  }
  return reasons;
}

std::vector<DeviceReason> manual_reasons(const PlanInput& input, std::vector<StageAssignment> stages) {
  return reasons_or(input, std::move(stages),
                    [](const DeviceProfile&) { return std::string("left out: given no layers by hand"); });
}

std::vector<DeviceReason> energy_reasons(const PlanInput& input, std::vector<StageAssignment> stages) {
  const double lap = evaluate(input, stages).seconds_per_token;
  return reasons_or(input, std::move(stages), [&](const DeviceProfile& device) {
    if (device.busy_watts <= 0) return std::string("left out: its watts are not known");
    std::array<char, 160> text;
    std::snprintf(
        text.data(), text.size(),
        "left out: no plan with it takes less energy; idle it would add %.2f J to each token (%.3g W)",
        device.idle_watts * lap, device.idle_watts);
    return std::string(text.data());
  });
}

std::string why_infeasible(const PlanInput& input, const std::vector<StageAssignment>& stages) {
  const int n = input.model.n_layer, devices = static_cast<int>(input.devices.size()),
            head = input.constraints.head;
  const Constraints& constraints = input.constraints;
  const auto name = [&](int device) { return "node " + input.devices[static_cast<size_t>(device)].name; };
  if (stages.empty() || !stages.front().embedding || !stages.back().output)
    return "the pipeline lacks an end";
  const KeepOnHead& keep = constraints.keep_on_head;
  int next = 0;
  for (size_t i = 0; i < stages.size(); ++i) {
    const StageAssignment& stage = stages[i];
    if (stage.device < 0 || stage.device >= devices) return "a stage names a node that does not exist";
    if (stage.layer_begin != next || stage.layer_end < next || stage.layer_end > n)
      return name(stage.device) + " does not continue the layers at layer " + std::to_string(next);
    next = stage.layer_end;
    if (stage.embedding != (i == 0) || stage.output != (i + 1 == stages.size()))
      return "an end is given twice";
    if (stage.layers() == 0 && !stage.embedding && !stage.output)
      return name(stage.device) + " has an empty stage";
    for (size_t j = 0; j < i; ++j) {
      const bool home =
          keep.ends() && j == 0 && i + 1 == stages.size() && i > 1 && stage.layers() == keep.last;
      if (stages[j].device == stage.device && !home) return name(stage.device) + " has two stages";
    }
    const DeviceProfile& profile = input.devices[static_cast<size_t>(stage.device)];
    const std::vector<int>& excluded = constraints.excluded;
    if (!profile.allowed || std::find(excluded.begin(), excluded.end(), stage.device) != excluded.end())
      return name(stage.device) + " is excluded but has a stage";
    if (profile.layers_max > 0 && stage.layers() > profile.layers_max)  // of each stage
      return name(stage.device) + " has " + std::to_string(stage.layers()) + " layers and may have at most " +
             std::to_string(profile.layers_max);
    const bool secret_first =
        constraints.trusted_first_layers > 0 &&
        (stage.embedding || (stage.layers() > 0 && stage.layer_begin < constraints.trusted_first_layers));
    const bool secret_last =
        constraints.trusted_last_layers > 0 &&
        (stage.output || (stage.layers() > 0 && stage.layer_end > n - constraints.trusted_last_layers));
    if (!profile.trusted && (secret_first || secret_last))
      return name(stage.device) + " is not trusted with the layers it is given";
  }
  if (next != n) return "no node has " + layers_text(next, n);
  if (keep.begins() && (stages.front().device != head || stages.front().layers() < keep.first))
    return "keep-on-head " + to_string(keep) + ": " + layers_text(0, keep.first) + " must be on " +
           name(head);
  if (keep.ends() && (stages.back().device != head || stages.back().layers() < keep.last))
    return "keep-on-head " + to_string(keep) + ": the output head" +
           (keep.last > 0 ? " and " + layers_text(n - keep.last, n) : "") + " must be on " + name(head);
  std::vector<StageAssignment> filled = stages;
  evaluate(input, filled);
  for (size_t i = 0; i < filled.size(); ++i) {
    const int device = filled[i].device, to = i + 1 < filled.size() ? filled[i + 1].device : head;
    if (filled[i].hop_in_seconds == kUnusable || filled[i].hop_out_seconds == kUnusable)
      return "there is no usable link between " + name(device) + " and " +
             name(filled[i].hop_out_seconds == kUnusable ? to
                  : i == 0                               ? head
                                                         : filled[i - 1].device);
    const MemoryUse use = device_memory(filled, device);
    const uint64_t budget = input.devices[static_cast<size_t>(device)].memory_bytes;
    if (use.total() > budget)
      return name(device) + " has " + format_bytes(budget) + " and its layers need " +
             format_bytes(use.total()) + " (weights " + format_bytes(use.weights) + ", KV cache " +
             format_bytes(use.kv) + ", scratch " + format_bytes(use.scratch) + ", process " +
             format_bytes(use.base) + "): " + format_bytes(use.total() - budget) + " are missing";
  }
  return {};
}

}  // namespace shoal
