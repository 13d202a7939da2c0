// The solvers against a plain dynamic program over (used devices, last device, units), on problems too large
// for brute force and with the searches' later stages forced.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "planner/busiest_beam.h"
#include "planner/busiest_solver.h"
#include "planner/lap_solver.h"
#include "planner/random_input.h"

namespace shoal {
namespace {

// The least lap, or the least busiest time, over all solutions; devices are numbered without regard to types.
double reference(const Chain& chain, bool latency) {
  std::vector<int> type_of;
  for (int t = 0; t < chain.types; ++t) type_of.insert(type_of.end(), static_cast<size_t>(chain.count(t)), t);
  const size_t devices = type_of.size(), width = static_cast<size_t>(chain.units) + 1;
  std::vector<double> best((size_t{1} << devices) * devices * width, kUnusable);
  const auto join = [&](double a, double b) { return latency ? a + b : std::max(a, b); };
  double least = kUnusable;
  const auto extend = [&](size_t set, size_t device, int begin, int units_min, double value) {
    const int t = type_of[device];
    for (int end = begin + units_min; end <= chain.reach_of(t, begin); ++end) {
      const double part = latency ? chain.seconds(t, begin, end) : chain.busy(t, begin, end);
      double& slot =
          best[((set | size_t{1} << device) * devices + device) * width + static_cast<size_t>(end)];
      slot = std::min(slot, join(value, part));
    }
  };
  for (size_t d = 0; d < devices; ++d) {
    const auto t = static_cast<size_t>(type_of[d]);
    if (chain.may_begin(type_of[d]))
      extend(0, d, 0, chain.first_units_min(), latency ? chain.entry[t] : chain.busy_entry[t]);
  }
  for (size_t set = 1; set < size_t{1} << devices; ++set)
    for (size_t last = 0; last < devices; ++last)
      for (int u = 1; u <= chain.units; ++u) {
        const double value = best[(set * devices + last) * width + static_cast<size_t>(u)];
        const auto k = static_cast<size_t>(type_of[last]);
        if (value == kUnusable) continue;
        if (u == chain.units) {
          least = std::min(least, join(value, latency ? chain.finish[k] : chain.busy_finish[k]));
          continue;
        }
        for (size_t d = 0; d < devices; ++d) {
          if (set >> d & 1 || chain.later_count(type_of[d]) == 0) continue;
          const int t = type_of[d];
          const double hop = latency ? chain.hop_of(type_of[last], t) : chain.busy_hop_of(type_of[last], t);
          if (hop != kUnusable) extend(set, d, u, 1, join(value, hop));
        }
      }
  return least;
}

Chain sample_chain(unsigned seed) {
  sample::InputShape shape;
  shape.devices = 6 + static_cast<int>(seed % 3);
  shape.layers = 8 + static_cast<int>(seed % 7);
  shape.tightness = 1.15 + 0.15 * (seed % 5);
  shape.equal_layers = seed % 3 == 0;
  shape.device_scales = seed % 4 == 1;
  shape.missing_links = seed % 5 == 2;
  shape.mbps_max = seed % 2 ? 100 : 1000;
  PlanInput input = sample::random_input(shape, seed * 104729 + 7);
  if (seed % 4 == 3) {  // two kinds of devices, several of each
    for (size_t d = 2; d < input.devices.size(); ++d) input.devices[d] = input.devices[d % 2];
    for (int a = 0; a < input.links.devices(); ++a)
      for (int b = 0; b < input.links.devices(); ++b) input.links.set(a, b, {1e-3, 1e7});
  }
  if (seed % 5 == 2) {  // few links, so that slow devices serve as relays
    for (int a = 0; a < input.links.devices(); ++a)
      for (int b = 0; b < input.links.devices(); ++b)
        if ((a * 7 + b * 3 + static_cast<int>(seed)) % 3 != 0) input.links.set(a, b, {});
    for (size_t d = 0; d < input.devices.size(); d += 2)
      for (RowSeconds& point : input.devices[d].decode_layer) point.seconds *= 8;
  }
  return make_chain(input, CostModel(input), 1);
}

bool may_have_a_solution(const Chain& chain) {
  return chain.types > 0 && !(chain.head_first && chain.head_type < 0);
}

TEST_CASE("latency: the searches with sharpened bounds equal a plain dynamic program") {
  int solved = 0, impossible = 0;
  for (unsigned seed = 0; seed < 260; ++seed) {
    CAPTURE(seed);
    const Chain chain = sample_chain(seed);
    if (!may_have_a_solution(chain)) continue;
    const double best = reference(chain, true);
    for (size_t first_width : {size_t{1}, size_t{8}, LapLimits{}.first_width}) {
      const LapResult result = solve_lap(chain, {}, {LapLimits{}.labels, first_width});
      CHECK(result.proven);
      REQUIRE(result.solution.has_value() == (best != kUnusable));
      if (!result.solution) continue;
      CHECK(std::abs(result.solution->seconds - best) <= 1e-9 * best);
      CHECK(std::abs(lap_seconds(chain, result.solution->segments) - best) <= 1e-9 * best);
    }
    ++(best == kUnusable ? impossible : solved);
  }
  CHECK(solved >= 100);
  CHECK(impossible >= 10);
}

TEST_CASE("latency: a search that gives up returns a solution and a gap that holds") {
  int unproven = 0;
  for (unsigned seed = 0; seed < 260; ++seed) {
    CAPTURE(seed);
    const Chain chain = sample_chain(seed);
    if (!may_have_a_solution(chain)) continue;
    const LapResult result = solve_lap(chain, {}, {2, 1});
    if (result.proven) continue;
    ++unproven;
    REQUIRE(result.solution);
    const double best = reference(chain, true);
    CHECK(result.solution->seconds >= best * (1 - 1e-9));
    CHECK(result.solution->seconds <= best * (1 + result.solution->gap) * (1 + 1e-9));
  }
  CHECK(unproven >= 10);
}

TEST_CASE("throughput: the search equals a plain dynamic program") {
  for (unsigned seed = 0; seed < 260; ++seed) {
    CAPTURE(seed);
    const Chain chain = sample_chain(seed);
    if (!may_have_a_solution(chain)) continue;
    const double best = reference(chain, false);
    const auto segments = solve_busiest(chain);
    REQUIRE(segments.has_value() == (best != kUnusable));
    CHECK(any_segments(chain).has_value() == segments.has_value());
    if (segments) CHECK(std::abs(busiest_seconds(chain, *segments) - best) <= 1e-9 * best);
  }
}

TEST_CASE("throughput: the beam proves what it says") {
  int proven = 0, unproven = 0;
  for (unsigned seed = 0; seed < 260; ++seed) {
    CAPTURE(seed);
    const Chain chain = sample_chain(seed);
    if (!may_have_a_solution(chain)) continue;
    const double best = reference(chain, false);
    CHECK(solve_busiest_wide(chain).proven);
    for (const BusiestLimits& limits : {BusiestLimits{}, BusiestLimits{1, 1, 1}}) {
      const BusiestResult result = solve_busiest_wide(chain, limits);
      if (best == kUnusable) CHECK_FALSE(result.segments);
      if (best != kUnusable && result.proven) REQUIRE(result.segments);
      if (!result.segments) continue;
      const double found = busiest_seconds(chain, *result.segments);
      CHECK(found >= best * (1 - 1e-9));
      CHECK(found <= best * (1 + result.gap) * (1 + 1e-9));
      ++(result.proven ? proven : unproven);
    }
  }
  CHECK(proven >= 100);
  CHECK(unproven >= 5);
}

}  // namespace
}  // namespace shoal
