// The energy objective against every plan there is, priced from its definition.
#include "planner/energy.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <random>

#include "planner/device_kinds.h"
#include "planner/planner.h"
#include "planner/random_input.h"

namespace shoal {
namespace {

PlanInput input_with_watts(const sample::InputShape& shape, unsigned seed) {
  PlanInput input = sample::random_input(shape, seed);
  std::mt19937 random(seed + 17);
  for (DeviceProfile& device : input.devices) {
    device.idle_watts = static_cast<double>(random() % 80) / 10;
    device.busy_watts = device.idle_watts + 0.5 + static_cast<double>(random() % 200) / 10;
  }
  input.objective = Objective::kEnergy;
  return input;
}

// Least joules over all plans: places every stage on every device in every order.
class EveryPlan {
 public:
  explicit EveryPlan(const PlanInput& input) : in_(input) {}
  double best() {
    place(0);
    return best_;
  }

 private:
  void place(int layer) {
    const int n = in_.model.n_layer;
    for (int device = 0; device < static_cast<int>(in_.devices.size()); ++device) {
      if (std::any_of(stages_.begin(), stages_.end(),
                      [&](const StageAssignment& s) { return s.device == device; }))
        continue;
      for (int end = layer; end <= n; ++end) {
        StageAssignment stage;
        stage.device = device;
        stage.embedding = stages_.empty();
        stage.layer_begin = layer, stage.layer_end = end;
        stages_.push_back(stage);
        if (end == n) finish();
        if (end < n || stages_.size() < in_.devices.size()) place(end);
        stages_.pop_back();
      }
    }
  }

  // The output head goes to the last stage, or, with kEnds, home.
  void finish() {
    std::vector<StageAssignment> stages = stages_;
    stages.back().output = true;
    price(stages);
    if (in_.constraints.keep_on_head != KeepOnHead::kEnds || stages.back().device == in_.constraints.head)
      return;
    stages.back().output = false;
    StageAssignment home;
    home.device = in_.constraints.head;
    home.layer_begin = home.layer_end = in_.model.n_layer;
    home.output = true;
    stages.push_back(home);
    price(stages);
  }

  void price(std::vector<StageAssignment> stages) {
    if (!why_infeasible(in_, stages).empty()) return;
    const double lap = evaluate(in_, stages).seconds_per_token;
    double joules = 0;
    for (size_t d = 0; d < in_.devices.size(); ++d) {
      double busy = 0;
      bool used = false;
      for (const StageAssignment& stage : stages)
        if (stage.device == static_cast<int>(d)) busy += stage.seconds, used = true;
      if (used) joules += in_.devices[d].busy_watts * busy + in_.devices[d].idle_watts * (lap - busy);
    }
    best_ = std::min(best_, joules);
  }

  const PlanInput& in_;
  std::vector<StageAssignment> stages_;
  double best_ = std::numeric_limits<double>::infinity();
};

std::optional<Plan> try_plan(const PlanInput& input) {
  try {
    return make_plan(input);
  } catch (const SetupError&) {
    return std::nullopt;
  }
}

TEST_CASE("least energy: equal to every plan tried, on random clusters") {
  int planned = 0;
  for (unsigned seed = 0; seed < 150; ++seed) {
    CAPTURE(seed);
    const sample::InputShape shape{3 + static_cast<int>(seed % 3),
                                   2 + static_cast<int>(seed % 3),
                                   1.5 + 0.5 * (seed % 4),
                                   seed % 2 == 0,
                                   seed % 3 == 0,
                                   seed % 5 == 0};
    const PlanInput input = input_with_watts(shape, seed);
    const double expected = EveryPlan(input).best();
    const auto plan = try_plan(input);
    REQUIRE(plan.has_value() == (expected < std::numeric_limits<double>::infinity()));
    if (!plan) continue;
    CHECK(plan->gap == 0);
    CHECK(plan->predicted.joules_per_token == doctest::Approx(expected).epsilon(1e-9));
    CHECK(plan->objective == Objective::kEnergy);
    CHECK(plan->reasons.size() == input.devices.size());
    ++planned;
  }
  CHECK(planned > 80);
}

TEST_CASE("least energy: fewer devices may win, and the bound holds when the search is cut short") {
  int fewer = 0;
  for (unsigned seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    PlanInput input = input_with_watts({8, 6, 3}, seed + 500);
    const auto exact = try_plan(input);
    if (!exact) continue;
    CHECK(exact->gap == 0);
    const Plan cut = least_energy_plan(input, 2);
    CHECK(cut.predicted.joules_per_token >= exact->predicted.joules_per_token * (1 - 1e-9));
    CHECK(cut.predicted.joules_per_token / (1 + cut.gap) <= exact->predicted.joules_per_token * (1 + 1e-9));
    input.objective = Objective::kLatency;
    fewer += exact->stages.size() < make_plan(input).stages.size() ? 1 : 0;
  }
  CHECK(fewer > 0);
}

TEST_CASE("least energy: watts must be known, and excluded devices need none") {
  PlanInput input = input_with_watts({6, 3, 4}, 3);
  input.devices[1].idle_watts = input.devices[1].busy_watts = 0;
  CHECK_THROWS_WITH_AS(make_plan(input), doctest::Contains("busy-watts"), SetupError);
  input.constraints.head = 0;
  input.constraints.excluded = {1};
  CHECK_NOTHROW(make_plan(input));
}

TEST_CASE("devices alike in all but name are one kind; the head is its own") {
  PlanInput input = sample::random_input({4, 4, 4}, 9);
  for (int d = 1; d < 4; ++d) {
    input.devices[static_cast<size_t>(d)] = input.devices[0];
    input.devices[static_cast<size_t>(d)].name = "other-" + std::to_string(d);
  }
  input.links = LinkTable(4, {1e-3, 1e6});
  input.constraints.head = 0;
  CHECK(device_kinds(input) == std::vector<std::vector<int>>{{0}, {1, 2, 3}});
  input.links.set(0, 3, {1e-3, 2e6});
  CHECK(device_kinds(input) == std::vector<std::vector<int>>{{0}, {1, 2}, {3}});
  input.constraints.excluded = {1};
  CHECK(device_kinds(input) == std::vector<std::vector<int>>{{0}, {2}, {3}});
}

}  // namespace
}  // namespace shoal
