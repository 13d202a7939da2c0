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
#include <array>
#include <bit>
#include <limits>

#include "base/check.h"
#include "planner/busy_limits.h"
#include "planner/local_search.h"

namespace shoal {
namespace {

constexpr size_t kNear = 8;  // a probe leaves this part of the open values above it
constexpr uint32_t kLaneMask = (uint32_t{1} << kLanes) - 1;

class BusiestSearch {
 public:
  explicit BusiestSearch(const Chain& chain)
      : chain_(chain),
        index_(chain),
        types_(static_cast<size_t>(chain.types)),
        width_((types_ + kLanes - 1) / kLanes * kLanes),
        limits_(chain) {
    SHOAL_CHECK(index_.fits);
    furthest_.resize(index_.sets * width_);
  }

  std::optional<std::vector<Segment>> run() {
    auto best = try_limit(std::numeric_limits<double>::max());
    if (!best) return best;
    best = improve_order(chain_, std::move(*best), Objective::kThroughput);
    const std::vector<double> values = limits_.candidates();
    const auto settle = [&] {  // the found plan's own bottleneck may be less than the limit
      const double busiest = busiest_seconds(chain_, *best);
      return static_cast<size_t>(std::lower_bound(values.begin(), values.end(), busiest) - values.begin());
    };
    // What the local search found is mostly the answer or near it: probe close below it.
    size_t low = limits_.first_plausible(values), high = settle();  // everything below low is infeasible
    for (size_t part = kNear; low < high;) {
      const size_t middle = high - std::max<size_t>(1, (high - low) / part);
      if (auto found = try_limit(values[middle])) {
        best = std::move(found);
        high = std::min(middle, settle());
        part = 2;
      } else {
        low = middle + 1;
      }
    }
    return best;
  }

  // Segments that keep nothing busy longer than `limit`.
  std::optional<std::vector<Segment>> try_limit(double limit) {
    fill_limits(limit);
    const std::optional<Step> goal = furthest_goal();
    if (!goal) return std::nullopt;
    const Chain limited = limit_busy(chain_, limit);
    if (auto segments = cut_for_busiest(limited, trace(*goal))) return segments;
    return try_prefix_sets(limited);
  }

 private:
  struct Step {
    size_t set;
    int type;
  };

  size_t node(size_t set, int type) const { return set * width_ + static_cast<size_t>(type); }
  size_t first_set(int type) const {
    return chain_.later_count(type) > 0 ? index_.stride[static_cast<size_t>(type)] : 0;
  }

  void fill_limits(double limit) {
    limits_.set(limit);
    next_.assign(types_, 0);
    for (int from = 0; from < chain_.types; ++from)
      for (int to = 0; to < chain_.types; ++to)
        next_[static_cast<size_t>(from)] |= static_cast<uint32_t>(limits_.may_follow(from, to)) << to;
  }

  int reach(int type, int begin) const { return limits_.reach(type, begin); }
  bool may_enter(int type) const { return limits_.may_enter(type); }
  bool may_finish(int type) const { return limits_.may_finish(type); }

  // How many units the devices that a set leaves free could take at most.
  void fill_free() {
    int all = 0;
    for (size_t t = 0; t < types_; ++t)
      all += limits_.longest(static_cast<int>(t)) * static_cast<int>(index_.radix[t] - 1);
    free_.resize(index_.sets);
    free_[0] = all;
    for (size_t t = 0; t < types_; ++t)
      for (size_t set = index_.stride[t]; set < index_.stride[t] * index_.radix[t]; ++set)
        free_[set] = free_[set - index_.stride[t]] - limits_.longest(static_cast<int>(t));
  }

  // What fill_limits found, in the form that the inner loop wants.
  void fill_advance() {
    const size_t width = static_cast<size_t>(chain_.units) + 1;
    advance_.assign(types_ * width, 0);
    follows_.assign(types_ * width_, 0);
    for (int t = 0; t < chain_.types; ++t) {
      const auto index = static_cast<size_t>(t);
      for (int covered = 1; covered <= chain_.units; ++covered) {
        const int start = limits_.start(t, std::min(covered, chain_.units - 1));
        if (start >= chain_.first_units_min())
          advance_[index * width + static_cast<size_t>(covered)] = static_cast<int16_t>(reach(t, start));
      }
      for (size_t to = 0; to < types_; ++to)
        follows_[index * width_ + to] = static_cast<int16_t>(-static_cast<int>(next_[index] >> to & 1));
    }
  }

  // For each of kLanes types from `first` on the most units covered before it, by the last types in `lasts`.
  std::array<int16_t, kLanes> covered_before(const int16_t* row, uint32_t lasts, size_t first) const {
    std::array<int16_t, kLanes> covered{};
    for (; lasts != 0; lasts &= lasts - 1) {
      const auto k = static_cast<size_t>(std::countr_zero(lasts));
      const int16_t* mask = &follows_[k * width_ + first];
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const auto value = static_cast<int16_t>(row[k] & mask[lane]);
        covered[lane] = value > covered[lane] ? value : covered[lane];
      }
    }
    return covered;
  }

  // Fills furthest_; the step at which all units are covered and the result can go home, if any.
  std::optional<Step> furthest_goal() {
    fill_free();
    fill_advance();
    std::fill(furthest_.begin(), furthest_.end(), int16_t{0});
    for (int t = 0; t < chain_.types; ++t) {
      if (!may_enter(t)) continue;
      furthest_[node(first_set(t), t)] = static_cast<int16_t>(reach(t, 0));
      if (reach(t, 0) == chain_.units && may_finish(t)) return Step{first_set(t), t};
    }
    const size_t width = static_cast<size_t>(chain_.units) + 1;
    const uint32_t head = chain_.head_first ? uint32_t{1} << chain_.head_type : 0;
    for (size_t set = 0; set < index_.sets; ++set) {
      const int16_t* row = &furthest_[set * width_];
      const uint32_t lasts = set == 0 ? head : index_.used[set];
      int most = 0;
      for (uint32_t bits = lasts; bits != 0; bits &= bits - 1)
        most = std::max<int>(most, row[std::countr_zero(bits)]);
      if (most == 0 || most + free_[set] < chain_.units) continue;
      for (size_t first = 0; first < types_; first += kLanes) {
        const auto covered = covered_before(row, lasts, first);
        for (uint32_t room = index_.room[set] >> first & kLaneMask; room != 0; room &= room - 1) {
          const auto lane = static_cast<size_t>(std::countr_zero(room)), t = first + lane;
          const int16_t end = advance_[t * width + static_cast<size_t>(covered[lane])];
          int16_t& furthest = furthest_[(set + index_.stride[t]) * width_ + t];
          furthest = std::max(furthest, end);
          if (end == chain_.units && may_finish(static_cast<int>(t)))
            return Step{set + index_.stride[t], static_cast<int>(t)};
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
        const int start = limits_.start(type, covered);
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
    std::vector<uint64_t> covered(index_.sets * width_ * words, 0);
    for (int t = 0; t < chain_.types; ++t) {
      if (!may_enter(t)) continue;
      for (int end = chain_.first_units_min(); end <= reach(t, 0); ++end)
        covered[node(first_set(t), t) * words + static_cast<size_t>(end) / 64] |= uint64_t{1} << (end % 64);
    }
    for (size_t set = 0; set < index_.sets; ++set) {
      for (int k = 0; k < chain_.types; ++k) {
        const uint64_t* from = &covered[node(set, k) * words];
        int most = -1;
        for (size_t w = 0; w < words; ++w)
          if (from[w] != 0) most = static_cast<int>(64 * w) + 63 - std::countl_zero(from[w]);
        if (most < 0) continue;
        if (most == chain_.units && may_finish(k))
          return cut_for_busiest(limited, trace_prefixes(covered, words, {set, k}));
        if (most + free_[set] < chain_.units) continue;
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
  const size_t types_, width_;  // width_: types, padded for the inner loop
  BusyLimits limits_;
  std::vector<uint32_t> next_;  // [types] which types may follow
  std::vector<int> free_;       // [sets] units that devices not in the set could take
  std::vector<int16_t>
      advance_;  // [types][units + 1] where a segment of the type ends at best, by units covered
  std::vector<int16_t> follows_;   // [from type][to type, width_] -1: may follow, else 0
  std::vector<int16_t> furthest_;  // [sets][width_] units covered, 0: unreachable
};

}  // namespace

std::optional<std::vector<Segment>> solve_busiest(const Chain& chain) {
  return BusiestSearch(chain).run();
}

std::optional<std::vector<Segment>> any_segments(const Chain& chain) {
  return BusiestSearch(chain).try_limit(std::numeric_limits<double>::max());
}

}  // namespace shoal
