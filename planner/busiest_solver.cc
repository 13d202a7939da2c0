// Binary search over every value the answer can take (a segment's or a message's busy time). For a value T:
// which devices in which order cover all units if nothing may be busy longer than T? Since feasible segments
// are hereditary, the furthest prefix that the used devices S with last device k can cover, f[S][k], decides;
// cuts before it can always be had by shrinking segments, as long as every device keeps at least one unit
// (section 4.2 of the planning notes: N^2 fewer states than the recurrence over prefixes).
//
// That last condition can fail only when a device that can hold some layers but not others serves as a mere
// relay. So the fast test works with furthest prefixes, its path is checked by exact cuts, and only if these
// do not exist are whole sets of prefixes kept per (S, k).
#include "planner/busiest_solver.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace shoal {
namespace {

class BusiestSearch {
 public:
  explicit BusiestSearch(const Chain& chain)
      : chain_(chain), index_(chain), types_(static_cast<size_t>(chain.types)) {
    SHOAL_CHECK(index_.fits);
    furthest_.resize(index_.sets * types_);
  }

  std::optional<std::vector<Segment>> run() {
    const std::vector<double> values = candidates();
    // Gallop from the least value that the devices' shares allow, then halve: most probes stay near the
    // answer.
    size_t low = first_plausible(values), step = 1;  // everything below low is infeasible
    size_t high = low;
    std::optional<std::vector<Segment>> best;
    for (;; step *= 4) {
      if (high >= values.size()) {
        if (low >= values.size()) return std::nullopt;
        high = values.size() - 1;
      }
      if ((best = try_limit(values[high]))) break;
      low = high + 1;
      if (low >= values.size()) return std::nullopt;
      high = low + step;
    }
    const auto settle = [&] {  // the found plan's own bottleneck may be less than the limit
      const double busiest = busiest_seconds(chain_, *best);
      high = static_cast<size_t>(std::lower_bound(values.begin(), values.end(), busiest) - values.begin());
    };
    settle();
    while (low < high) {
      const size_t middle = low + (high - low) / 2;
      if (auto found = try_limit(values[middle])) {
        best = std::move(found);
        settle();
      } else {
        low = middle + 1;
      }
    }
    return best;
  }

 private:
  struct Step {
    size_t set;
    int type;
  };

  size_t node(size_t set, int type) const { return set * types_ + static_cast<size_t>(type); }
  size_t first_set(int type) const {
    return chain_.later_count(type) > 0 ? index_.stride[static_cast<size_t>(type)] : 0;
  }

  std::vector<double> candidates() const {
    std::vector<double> values;
    const auto add = [&](const std::vector<double>& list) {
      std::copy_if(list.begin(), list.end(), std::back_inserter(values),
                   [](double v) { return v != kUnusable; });
    };
    add(chain_.busy_hop), add(chain_.busy_entry), add(chain_.busy_finish);
    for (int t = 0; t < chain_.types; ++t)
      for (int begin = 0; begin < chain_.units; ++begin)
        for (int end = begin + 1; end <= chain_.reach_of(t, begin); ++end)
          values.push_back(chain_.busy(t, begin, end));
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
    return values;
  }

  // Furthest end of a segment of each type from each unit, and the last unit at or before x where one can
  // begin.
  void fill_limits(double limit) {
    const auto units = static_cast<size_t>(chain_.units);
    limit_ = limit;
    reach_.assign(types_ * units, 0);
    start_.assign(types_ * units, -1);
    longest_.assign(types_, 0);
    for (int t = 0; t < chain_.types; ++t) {
      int end = 0, start = -1;
      for (int begin = 0; begin < chain_.units; ++begin) {
        end = std::max(end, begin);
        while (end < chain_.reach_of(t, begin) && chain_.busy(t, begin, end + 1) <= limit) ++end;
        if (end > begin) start = begin;
        const size_t i = Chain::at(t, begin, chain_.units);
        reach_[i] = static_cast<int16_t>(end);
        start_[i] = static_cast<int16_t>(start);
        longest_[static_cast<size_t>(t)] = std::max(longest_[static_cast<size_t>(t)], end - begin);
      }
    }
    next_.assign(types_, 0);
    for (int from = 0; from < chain_.types; ++from)
      for (int to = 0; to < chain_.types; ++to)
        next_[static_cast<size_t>(from)] |= static_cast<uint32_t>(longest_[static_cast<size_t>(to)] > 0 &&
                                                                  chain_.busy_hop_of(from, to) <= limit)
                                            << to;
  }

  int reach(int type, int begin) const { return reach_[Chain::at(type, begin, chain_.units)]; }
  bool may_enter(int type) const {
    return chain_.may_begin(type) && chain_.busy_entry[static_cast<size_t>(type)] <= limit_ &&
           reach(type, 0) >= chain_.first_units_min();
  }
  bool may_finish(int type) const { return chain_.busy_finish[static_cast<size_t>(type)] <= limit_; }

  size_t first_plausible(const std::vector<double>& values) {
    size_t low = 0, high = values.size();
    while (low < high) {
      const size_t middle = low + (high - low) / 2;
      fill_limits(values[middle]);
      int sum = 0;
      for (int t = 0; t < chain_.types; ++t) sum += longest_[static_cast<size_t>(t)] * chain_.count(t);
      if (sum >= chain_.units) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  std::optional<std::vector<Segment>> try_limit(double limit) {
    fill_limits(limit);
    const std::optional<Step> goal = furthest_goal();
    if (!goal) return std::nullopt;
    const Chain limited = limit_busy(chain_, limit);
    if (auto segments = cut_for_busiest(limited, trace(*goal))) return segments;
    return try_prefix_sets(limited);
  }

  // How many units the devices that are still free could take at most.
  int free_units(size_t set) const {
    int sum = 0;
    for (uint32_t room = index_.room[set]; room != 0; room &= room - 1) {
      const auto t = static_cast<size_t>(std::countr_zero(room));
      const size_t used = (set / index_.stride[t]) % index_.radix[t];
      sum += longest_[t] * static_cast<int>(index_.radix[t] - 1 - used);
    }
    return sum;
  }

  // Fills furthest_; the step at which all units are covered and the result can go home, if any.
  std::optional<Step> furthest_goal() {
    std::fill(furthest_.begin(), furthest_.end(), int16_t{0});
    for (int t = 0; t < chain_.types; ++t) {
      if (!may_enter(t)) continue;
      furthest_[node(first_set(t), t)] = static_cast<int16_t>(reach(t, 0));
      if (reach(t, 0) == chain_.units && may_finish(t)) return Step{first_set(t), t};
    }
    for (size_t set = 0; set < index_.sets; ++set) {
      int most = 0;
      for (size_t k = 0; k < types_; ++k) most = std::max<int>(most, furthest_[set * types_ + k]);
      if (most == 0 || most + free_units(set) < chain_.units) continue;
      for (int k = 0; k < chain_.types; ++k) {
        const int covered = std::min<int>(furthest_[node(set, k)], chain_.units - 1);
        if (covered == 0) continue;
        for (uint32_t next = index_.room[set] & next_[static_cast<size_t>(k)]; next != 0; next &= next - 1) {
          const int t = std::countr_zero(next);
          const int start = start_[Chain::at(t, covered, chain_.units)];
          if (start < chain_.first_units_min()) continue;
          const size_t to = set + index_.stride[static_cast<size_t>(t)];
          const int end = reach(t, start);
          int16_t& furthest = furthest_[node(to, t)];
          furthest = std::max(furthest, static_cast<int16_t>(end));
          if (end == chain_.units && may_finish(t)) return Step{to, t};
        }
      }
    }
    return std::nullopt;
  }

  std::vector<int> trace(Step goal) const {
    std::vector<int> order{goal.type};
    size_t set = goal.set;
    for (int type = goal.type;;) {
      const int end = furthest_[node(set, type)];
      if (set == first_set(type) && may_enter(type) && reach(type, 0) == end) break;
      const size_t before = set - index_.stride[static_cast<size_t>(type)];
      int previous = -1;
      for (int k = 0; k < chain_.types && previous < 0; ++k) {
        const int covered = std::min<int>(furthest_[node(before, k)], chain_.units - 1);
        if (covered == 0 || !(next_[static_cast<size_t>(k)] >> type & 1)) continue;
        const int start = start_[Chain::at(type, covered, chain_.units)];
        if (start >= chain_.first_units_min() && reach(type, start) == end) previous = k;
      }
      SHOAL_CHECK(previous >= 0);
      order.push_back(previous);
      set = before;
      type = previous;
    }
    std::reverse(order.begin(), order.end());
    return order;
  }

  // All prefixes that (S, k) can cover, a row of bits each: exact where single prefixes do not suffice, and
  // rarely needed.
  std::optional<std::vector<Segment>> try_prefix_sets(const Chain& limited) {
    const auto units = static_cast<size_t>(chain_.units);
    const size_t words = units / 64 + 1;
    std::vector<uint64_t> spread(types_ * units * words,
                                 0);  // [types][begin][words] where a segment from begin can end
    for (size_t t = 0; t < types_; ++t)
      for (size_t begin = 0; begin < units; ++begin)
        for (int end = static_cast<int>(begin) + 1;
             end <= reach(static_cast<int>(t), static_cast<int>(begin)); ++end)
          spread[(t * units + begin) * words + static_cast<size_t>(end) / 64] |= uint64_t{1} << (end % 64);
    std::vector<uint64_t> covered(index_.sets * types_ * words, 0);
    for (int t = 0; t < chain_.types; ++t) {
      if (!may_enter(t)) continue;
      for (int end = chain_.first_units_min(); end <= reach(t, 0); ++end)
        covered[node(first_set(t), t) * words + static_cast<size_t>(end) / 64] |= uint64_t{1} << (end % 64);
    }
    for (size_t set = 0; set < index_.sets; ++set) {
      int free = -1;
      for (int k = 0; k < chain_.types; ++k) {
        const uint64_t* from = &covered[node(set, k) * words];
        int most = -1;
        for (size_t w = 0; w < words; ++w)
          if (from[w] != 0) most = static_cast<int>(64 * w) + 63 - std::countl_zero(from[w]);
        if (most < 0) continue;
        if (most == chain_.units && may_finish(k))
          return cut_for_busiest(limited, trace_prefixes(covered, words, {set, k}));
        if (free < 0) free = free_units(set);
        if (most + free < chain_.units) continue;
        for (uint32_t next = index_.room[set] & next_[static_cast<size_t>(k)]; next != 0; next &= next - 1) {
          const auto t = static_cast<size_t>(std::countr_zero(next));
          uint64_t* to = &covered[node(set + index_.stride[t], static_cast<int>(t)) * words];
          for (size_t w = 0; w < words; ++w) {
            for (uint64_t bits = from[w]; bits != 0; bits &= bits - 1) {
              const size_t begin = 64 * w + static_cast<size_t>(std::countr_zero(bits));
              if (begin >= units) break;
              const uint64_t* ends = &spread[(t * units + begin) * words];
              for (size_t v = w; v < words; ++v) to[v] |= ends[v];
            }
          }
        }
      }
    }
    return std::nullopt;
  }

  std::vector<int> trace_prefixes(const std::vector<uint64_t>& covered, size_t words, Step goal) const {
    std::vector<int> order{goal.type};
    size_t set = goal.set;
    int end = chain_.units;
    for (int type = goal.type;;) {
      if (set == first_set(type) && may_enter(type) && end >= chain_.first_units_min() &&
          end <= reach(type, 0))
        break;
      const size_t before = set - index_.stride[static_cast<size_t>(type)];
      int previous = -1;
      for (int k = 0; k < chain_.types && previous < 0; ++k) {
        if (!(next_[static_cast<size_t>(k)] >> type & 1)) continue;
        const uint64_t* from = &covered[node(before, k) * words];
        for (int begin = 1; begin < end; ++begin) {
          if (!(from[begin / 64] >> (begin % 64) & 1) || reach(type, begin) < end) continue;
          previous = k;
          end = begin;
          break;
        }
      }
      SHOAL_CHECK(previous >= 0);
      order.push_back(previous);
      set = before;
      type = previous;
    }
    std::reverse(order.begin(), order.end());
    return order;
  }

  const Chain& chain_;
  const CountIndex index_;
  const size_t types_;
  double limit_ = 0;
  std::vector<int16_t> reach_;     // [types][units] under limit_
  std::vector<int16_t> start_;     // [types][units]
  std::vector<int> longest_;       // [types] units of the longest segment
  std::vector<uint32_t> next_;     // [types] which types may follow
  std::vector<int16_t> furthest_;  // [sets][types] units covered, 0: unreachable
};

}  // namespace

std::optional<std::vector<Segment>> solve_busiest(const Chain& chain) {
  return BusiestSearch(chain).run();
}

}  // namespace shoal
