#include "bench/planner_rivals.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace shoal::rivals {
namespace {

double value_of(const Chain& chain, Objective objective, const std::vector<Segment>& segments) {
  return objective == Objective::kLatency ? lap_seconds(chain, segments) : busiest_seconds(chain, segments);
}

// An ant stops once its devices can hold the model, after a few more.
std::vector<int> walk(const Chain& chain, const std::vector<double>& pheromone, std::mt19937& random) {
  const auto types = static_cast<size_t>(chain.types);
  const auto draw = [&] { return static_cast<double>(random()) / 4294967296.0; };
  std::vector<int> order, used(types, 0);
  int held = 0;
  const double surplus = 1 + 0.5 * draw();
  while (held < surplus * chain.units) {
    std::vector<double> weight(types, 0);
    double sum = 0;
    for (int t = 0; t < chain.types; ++t) {
      const auto index = static_cast<size_t>(t);
      const bool first = order.empty();
      if (first ? !chain.may_begin(t) : used[index] >= chain.later_count(t)) continue;
      const double hop = first ? chain.entry[index] : chain.hop_of(order.back(), t);
      if (hop == kUnusable) continue;
      const double trail = first ? 1 : pheromone[static_cast<size_t>(order.back()) * types + index];
      weight[index] = trail / std::pow(hop + 1e-4, 2) / chain.seconds(t, 0, chain.units);
      sum += weight[index];
    }
    if (sum <= 0) break;
    double at = draw() * sum;
    int chosen = -1;
    for (int t = 0; t < chain.types; ++t) {
      if (weight[static_cast<size_t>(t)] <= 0) continue;
      chosen = t;
      at -= weight[static_cast<size_t>(t)];
      if (at <= 0) break;
    }
    order.push_back(chosen);
    ++used[static_cast<size_t>(chosen)];
    int longest = 0;
    for (int begin = 0; begin < chain.units; ++begin)
      longest = std::max(longest, chain.reach_of(chosen, begin) - begin);
    held += longest;
  }
  return order;
}

}  // namespace

double ant_colony(const Chain& chain, Objective objective, int ants, int rounds, unsigned seed) {
  constexpr double kEvaporation = 0.9, kTrailMin = 0.05, kDeposit = 5;
  const auto types = static_cast<size_t>(chain.types);
  std::mt19937 random(seed);
  std::vector<double> pheromone(types * types, 1);
  std::vector<Segment> best;
  double best_value = kUnusable;
  for (int round = 0; round < rounds; ++round) {
    for (int ant = 0; ant < ants; ++ant) {
      const std::vector<int> order = walk(chain, pheromone, random);
      if (order.empty()) continue;
      const auto segments =
          objective == Objective::kLatency ? cut_for_lap(chain, order) : cut_for_busiest(chain, order);
      if (!segments) continue;
      const double value = value_of(chain, objective, *segments);
      if (value < best_value) best_value = value, best = *segments;
    }
    for (double& trail : pheromone) trail = std::max(kTrailMin, trail * kEvaporation);
    for (size_t i = 1; i < best.size(); ++i)
      pheromone[static_cast<size_t>(best[i - 1].type) * types + static_cast<size_t>(best[i].type)] +=
          kDeposit / static_cast<double>(best.size());
  }
  return best_value;
}

RecurrencePlan edgeshard_latency(const Chain& chain) {
  const auto types = static_cast<size_t>(chain.types), units = static_cast<size_t>(chain.units);
  struct State {
    double seconds = kUnusable;
    int from = -1, begin = 0;  // the device before, and where the present run began
  };
  std::vector<State> states((units + 1) * types);
  for (int t = 0; t < chain.types; ++t)
    if (chain.may_begin(t) && chain.reach_of(t, 0) >= 1)
      states[types + static_cast<size_t>(t)] = {chain.entry[static_cast<size_t>(t)] + chain.seconds(t, 0, 1),
                                                -1, 0};
  for (int u = 1; u < chain.units; ++u)
    for (int k = 0; k < chain.types; ++k) {
      const State& state = states[static_cast<size_t>(u) * types + static_cast<size_t>(k)];
      if (state.seconds == kUnusable) continue;
      for (int t = 0; t < chain.types; ++t) {
        const int begin = t == k ? state.begin : u;
        if (chain.reach_of(t, begin) < u + 1) continue;
        if (t != k && u < chain.first_units_min()) continue;
        const double hop = t == k ? 0 : chain.hop_of(k, t);
        State& next = states[static_cast<size_t>(u + 1) * types + static_cast<size_t>(t)];
        const double seconds = state.seconds + hop + chain.seconds(t, u, u + 1);
        if (seconds < next.seconds) next = {seconds, k, begin};
      }
    }
  RecurrencePlan plan;
  int last = -1;
  for (int t = 0; t < chain.types; ++t) {
    const double seconds =
        states[units * types + static_cast<size_t>(t)].seconds + chain.finish[static_cast<size_t>(t)];
    if (seconds < plan.seconds) plan.seconds = seconds, last = t;
  }
  std::vector<int> runs(types, 0);
  for (size_t u = units; u > 0 && last >= 0; --u) {
    const int before = states[u * types + static_cast<size_t>(last)].from;
    if (before != last && ++runs[static_cast<size_t>(last)] > chain.count(last)) plan.overfull = true;
    last = before;
  }
  return plan;
}

double edgeshard_throughput(const Chain& chain, size_t states_max) {
  const auto types = static_cast<size_t>(chain.types), units = static_cast<size_t>(chain.units);
  if (types > 24 || ((units + 1) << types) * types > states_max) return kUnusable;
  const size_t sets = size_t{1} << types;
  std::vector<float> best((units + 1) * sets * types, static_cast<float>(kUnusable));
  const auto at = [&](int u, size_t set, int t) -> float& {
    return best[(static_cast<size_t>(u) * sets + set) * types + static_cast<size_t>(t)];
  };
  const auto spread = [&](double value, int begin, int units_min, size_t set, int t) {
    for (int end = begin + units_min; end <= chain.reach_of(t, begin); ++end) {
      const auto busy = static_cast<float>(std::max(value, chain.busy(t, begin, end)));
      float& slot = at(end, set | size_t{1} << t, t);
      slot = std::min(slot, busy);
    }
  };
  for (int t = 0; t < chain.types; ++t)
    if (chain.may_begin(t))
      spread(chain.busy_entry[static_cast<size_t>(t)], 0, chain.first_units_min(), 0, t);
  for (int u = 1; u < chain.units; ++u)
    for (size_t set = 1; set < sets; ++set)
      for (int k = 0; k < chain.types; ++k) {
        const double value = static_cast<double>(at(u, set, k));
        if (value == kUnusable) continue;
        for (int t = 0; t < chain.types; ++t)
          if (!(set >> t & 1) && chain.later_count(t) > 0)
            spread(std::max(value, chain.busy_hop_of(k, t)), u, 1, set, t);
      }
  double least = kUnusable;
  for (size_t set = 1; set < sets; ++set)
    for (int t = 0; t < chain.types; ++t)
      least = std::min(least, std::max(static_cast<double>(at(chain.units, set, t)),
                                       chain.busy_finish[static_cast<size_t>(t)]));
  return least;
}

}  // namespace shoal::rivals
