// What the planner is given, what is made of its answer, and how long that may take to load.
#include <algorithm>
#include <map>

#include "base/check.h"
#include "node/recovery.h"
#include "planner/planner.h"

namespace shoal {

Plan reindexed(const Plan& plan, const PlanInput& live) {
  Plan moved = plan;
  moved.devices.clear();
  for (const DeviceProfile& device : live.devices) moved.devices.push_back(device.name);
  moved.head = live.constraints.head;
  for (StageAssignment& stage : moved.stages) {
    const std::string& name = plan.devices[static_cast<size_t>(stage.device)];
    const auto found = std::find(moved.devices.begin(), moved.devices.end(), name);
    SHOAL_CHECK(found != moved.devices.end());
    stage.device = static_cast<int>(found - moved.devices.begin());
  }
  moved.predicted = evaluate(live, moved.stages);
  moved.reasons.clear();
  return moved;
}

Result<ReplanAdvice> carry_out(const Recovery::MakePlan& order) {
  try {
    ReplanAdvice advice;
    if (order.running) {
      advice = advise_replan(order.live, *order.running);
      // But layers that the cluster file divides by hand are divided so, whatever that gains.
      const bool by_hand = !order.live.constraints.manual.empty();
      if (advice.old_runs && by_hand) advice.move = !advice.moves.empty();
      if (advice.old_runs && order.held && !by_hand) advice.move = false;
      if (!advice.move) advice.plan = reindexed(*order.running, order.live);
    } else {
      advice.plan = make_plan(order.live);
      advice.move = true;
    }
    return advice;
  } catch (const SetupError& error) {
    return Error{Errc::kRefused, error.what()};
  }
}

// The weights may all come from the head, over links slower than they were measured; or from disks, which all
// read at once.
double load_patience_s(const PlanInput& live, const Plan& plan, bool needed) {
  constexpr double kSlower = 3, kDisk_bytes_per_s = 20e6;
  double seconds = 0;
  std::map<int, uint64_t> bytes_of;
  for (const StageAssignment& stage : plan.stages) {
    uint64_t bytes =
        (stage.embedding ? live.model.embedding_bytes : 0) + (stage.output ? live.model.output_bytes : 0);
    for (int layer = stage.layer_begin; layer < stage.layer_end; ++layer)
      bytes += live.model.layer_bytes[static_cast<size_t>(layer)];
    bytes_of[stage.device] += bytes;
    if (stage.device == live.constraints.head) continue;
    const double rate = live.links.at(live.constraints.head, stage.device).bytes_per_s;
    if (rate > 0) seconds += static_cast<double>(bytes) / rate;
  }
  uint64_t most = 0;
  for (const auto& [device, bytes] : bytes_of) most = std::max(most, bytes);
  return (needed ? Recovery::kNeededLoad_s : Recovery::kBetterLoad_s) + kSlower * seconds +
         static_cast<double>(most) / kDisk_bytes_per_s;
}

bool Recovery::fit(int device, double now_s) const {
  const std::string name = name_of(device);
  return here_.contains(name) && !is_draining(name) && !suspects_.out(name) && !left_out_.is_out(name, now_s);
}

// Those that are there and may take layers; the head in any case, since tokens come from it.
PlanInput Recovery::live_input(double now_s, const std::string& without) const {
  std::vector<int> kept;
  for (int i = 0; i < static_cast<int>(known_.devices.size()); ++i) {
    if ((fit(i, now_s) && name_of(i) != without) || i == known_.constraints.head) kept.push_back(i);
  }
  PlanInput live = known_;
  live.devices.clear();
  live.links = LinkTable(static_cast<int>(kept.size()), LinkProfile{});
  const auto place = [&](int known) {
    const auto found = std::find(kept.begin(), kept.end(), known);
    return found == kept.end() ? -1 : static_cast<int>(found - kept.begin());
  };
  for (size_t a = 0; a < kept.size(); ++a) {
    live.devices.push_back(known_.devices[static_cast<size_t>(kept[a])]);
    if (!fit(kept[a], now_s)) live.devices.back().allowed = false;
    for (size_t b = 0; b < kept.size(); ++b) {
      if (a == b) continue;
      const auto broken = broken_links_.find({name_of(kept[a]), name_of(kept[b])});
      const bool usable = broken == broken_links_.end() || broken->second <= now_s;
      live.links.set(static_cast<int>(a), static_cast<int>(b),
                     usable ? known_.links.at(kept[a], kept[b]) : LinkProfile{});
    }
  }
  live.constraints.head = place(known_.constraints.head);
  live.constraints.excluded.clear();
  for (const int device : known_.constraints.excluded) {
    if (place(device) >= 0) live.constraints.excluded.push_back(place(device));
  }
  // Layers that were divided by hand are, where all hands are there.
  for (ManualRange& range : live.constraints.manual) range.device = place(range.device);
  if (std::any_of(live.constraints.manual.begin(), live.constraints.manual.end(),
                  [](const ManualRange& range) { return range.device < 0; }))
    live.constraints.manual.clear();
  return live;
}

}  // namespace shoal
