// What must hold of every plan, where devices are too many for a table over sets of them.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "planner/random_input.h"
#include "tests/planner/try_plan.h"

namespace shoal {
namespace {

// More than 20 devices, all different or of a few types, ample or tight.
PlanInput large_input(unsigned seed) {
  sample::InputShape shape;
  shape.devices = 22 + static_cast<int>(seed % 15);
  shape.layers = 10 + static_cast<int>(seed % 13);
  shape.tightness = (seed % 2 ? 1.6 : 2.5) * shape.devices / 16.0;
  shape.equal_layers = seed % 3 == 0;
  shape.missing_links = seed % 4 == 1;
  shape.mbps_max = seed % 2 ? 1000 : 50;
  shape.types = seed % 5 == 4 ? 3 : 0;
  PlanInput input = sample::random_input(shape, seed + 300'000);
  input.objective = seed / 2 % 2 ? Objective::kLatency : Objective::kThroughput;
  return input;
}

PlanInput relabelled(const PlanInput& input, unsigned seed) {
  std::vector<int> old(input.devices.size());
  std::iota(old.begin(), old.end(), 0);
  std::shuffle(old.begin(), old.end(), std::mt19937(seed));
  PlanInput other = input;
  for (size_t a = 0; a < old.size(); ++a) {
    other.devices[a] = input.devices[static_cast<size_t>(old[a])];
    if (old[a] == input.constraints.head) other.constraints.head = static_cast<int>(a);
    for (size_t b = 0; b < old.size(); ++b)
      other.links.set(static_cast<int>(a), static_cast<int>(b), input.links.at(old[a], old[b]));
  }
  return other;
}

void check_sound(const PlanInput& input, const Plan& plan) {
  CHECK(why_infeasible(input, plan.stages) == "");
  std::vector<int> held(static_cast<size_t>(input.model.n_layer), 0);
  for (const StageAssignment& stage : plan.stages)
    for (int i = stage.layer_begin; i < stage.layer_end; ++i) ++held[static_cast<size_t>(i)];
  CHECK(std::all_of(held.begin(), held.end(), [](int times) { return times == 1; }));
  for (size_t d = 0; d < input.devices.size(); ++d)
    CHECK(device_memory(plan.stages, static_cast<int>(d)).total() <= input.devices[d].memory_bytes);
  CHECK(std::isfinite(plan.gap));
  CHECK(plan.gap >= 0);
}

// Neither of two plans for the same problem is better than the other's gap allows.
void check_agree(double a, double gap_a, double b, double gap_b) {
  CHECK(a <= b * (1 + gap_a) * (1 + 1e-9));
  CHECK(b <= a * (1 + gap_b) * (1 + 1e-9));
}

TEST_CASE("large fleets: plans are sound, come back from JSON, and do not depend on the devices' order") {
  int planned = 0, proven = 0;
  for (unsigned seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    const PlanInput input = large_input(seed);
    const auto plan = try_plan(input);
    const PlanInput other = relabelled(input, seed);
    const auto same = try_plan(other);
    REQUIRE(plan.has_value() == same.has_value());
    if (!plan) continue;
    ++planned;
    proven += plan->gap == 0;
    check_sound(input, *plan);
    check_sound(other, *same);
    check_agree(objective_of(input, *plan), plan->gap, objective_of(other, *same), same->gap);
    const Result<Plan> back = plan_from_json(plan_to_json(*plan));
    REQUIRE(back.has_value());
    CHECK(canonical_plan_text(*back) == canonical_plan_text(*plan));
  }
  CHECK(planned >= 30);
  CHECK(proven >= 30);
}

TEST_CASE("large fleets: another device never makes a proven plan worse") {
  int compared = 0;
  for (unsigned seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    const PlanInput input = large_input(seed);
    const int extra = static_cast<int>(input.devices.size()) - 1;
    if (input.constraints.head == extra) continue;
    PlanInput without = input;
    without.constraints.excluded = {extra};
    const auto fewer = try_plan(without), more = try_plan(input);
    if (!fewer) continue;
    REQUIRE(more.has_value());
    CHECK(objective_of(input, *more) <= objective_of(input, *fewer) * (1 + more->gap) * (1 + 1e-9));
    compared += more->gap == 0;
  }
  CHECK(compared >= 30);
}

}  // namespace
}  // namespace shoal
