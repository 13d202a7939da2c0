// A head with others, driven by hand: what the tests of node/recovery.h share.
#pragma once

#include <doctest/doctest.h>

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "node/recovery.h"
#include "planner/planner.h"

namespace shoal::test {

inline constexpr uint64_t kDrillMiB = 1 << 20;

// A model of 12 layers of 10 MiB on devices of so many MiB; any two linked.
inline PlanInput cluster_of(const std::vector<std::pair<std::string, uint64_t>>& devices) {
  PlanInput input;
  input.model.n_layer = 12;
  input.model.n_embd = 64;
  input.model.layer_bytes.assign(12, 10 * kDrillMiB);
  input.model.layer_kv_bytes.assign(12, kDrillMiB);
  input.model.embedding_bytes = input.model.output_bytes = kDrillMiB;
  input.model.hidden_bytes_per_row = 256;
  for (const auto& [name, mib] : devices) {
    DeviceProfile device;
    device.name = name;
    device.memory_bytes = mib * kDrillMiB;
    device.decode_layer = {{1, 1e-3}};
    device.output_head = {{1, 1e-3}};
    device.prefill_layer_row_seconds = 5e-4;
    input.devices.push_back(device);
  }
  const int n = static_cast<int>(devices.size());
  input.links = LinkTable(n, {1e-3, 1e8});
  return input;
}

// A head of 50 MiB with three others of 60: any three of the four hold the model, with the head.
struct Drill {
  PlanInput known;
  Recovery recovery;
  std::vector<std::string> log;
  std::optional<Recovery::MakePlan> asked;
  std::optional<Recovery::Load> load;
  bool runs = false;
  std::string down;
  int given_up = 0;
  double now_s = 0;

  explicit Drill(const std::vector<std::pair<std::string, uint64_t>>& devices = {{"head", 50},
                                                                                 {"a", 60},
                                                                                 {"b", 60},
                                                                                 {"c", 60}})
      : known(cluster_of(devices)), recovery(known, 1) {
    std::set<std::string> names;
    for (const auto& [name, mib] : devices) names.insert(name);
    recovery.begin_running(make_plan(known), names);
    runs = true;
  }
  void act() {
    for (const Recovery::Action& action : recovery.take_actions()) {
      if (std::holds_alternative<Recovery::Suspend>(action)) runs = false;
      if (const auto* order = std::get_if<Recovery::MakePlan>(&action)) asked = *order;
      if (const auto* order = std::get_if<Recovery::Load>(&action)) load = *order;
      if (std::holds_alternative<Recovery::Resume>(action)) runs = true, down.clear();
      if (const auto* order = std::get_if<Recovery::Down>(&action)) {
        down = order->why;
        CHECK(order->retry_after_s > 0);
      }
      if (std::holds_alternative<Recovery::GiveUp>(action)) ++given_up;
      if (const auto* event = std::get_if<ClusterEvent>(&action)) log.push_back(event->text);
    }
  }
  // Time passes and the planner answers.
  void pass(double seconds, bool quiet = false) {
    for (const double end_s = now_s + seconds; now_s < end_s; now_s += 0.1) {
      recovery.tick(quiet, now_s);
      act();
      if (!asked) continue;
      const Recovery::MakePlan order = *asked;
      asked.reset();
      recovery.planned(order.ticket, carry_out(order), now_s);
      act();
    }
  }
  std::vector<std::string> nodes() const {
    std::vector<std::string> names;
    for (const StageAssignment& stage : load->plan.stages)
      names.push_back(load->plan.devices[static_cast<size_t>(stage.device)]);
    return names;
  }
  void all_ready() {
    const Recovery::Load order = *load;
    for (const std::string& node : nodes()) recovery.ready(node, order.epoch, "", "", now_s);
    act();
  }
  void lose(const std::string& node) {
    recovery.lost(node, "it was unplugged", now_s);
    act();
  }
  std::string used() const {  // a node of the running plan that is not the head
    for (const char* name : {"a", "b", "c"})
      if (recovery.in_plan(name)) return name;
    return "";
  }
};

inline DeviceProfile device(const PlanInput& known, const std::string& name) {
  for (const DeviceProfile& each : known.devices)
    if (each.name == name) return each;
  FAIL("no such device");
  return {};
}

inline std::vector<Recovery::MeasuredLink> links_of(const std::string& name,
                                                    const std::vector<std::string>& others) {
  std::vector<Recovery::MeasuredLink> links;
  for (const std::string& other : others) {
    links.push_back({name, other, {1e-3, 1e8}});
    links.push_back({other, name, {1e-3, 1e8}});
  }
  return links;
}

// A node "fast" comes, with room for the whole model and a hundredth of the others' times.
inline void fast_one_joins(Drill& drill) {
  DeviceProfile fast = device(drill.known, "a");
  fast.name = "fast";
  fast.memory_bytes = 400 * kDrillMiB;
  fast.decode_layer = {{1, 1e-5}};
  fast.output_head = {{1, 1e-5}};
  drill.recovery.joined(fast, links_of("fast", {"head", "a", "b", "c"}), drill.now_s);
  drill.act();
}

}  // namespace shoal::test
