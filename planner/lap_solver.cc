// A* over partial solutions (used devices S, last device k, units covered i). LapBound gives the lower bound
// of what is left: its least relaxed completion, less the price of every device that is still free. The bound
// is consistent, so once the best open bound reaches the best solution that solution is optimal. A search
// that grows past its budget is dropped and begins again with a sharper bound, which counts more types.
#include "planner/lap_solver.h"

#include <algorithm>
#include <queue>

#include "base/check.h"
#include "planner/busiest_solver.h"
#include "planner/lap_bound.h"
#include "planner/local_search.h"

namespace shoal {
namespace {

constexpr int kRoughSteps = 40, kFirstSteps = 120, kLaterSteps = 40;  // of tuning
constexpr double kRelativeSlack = 1e-12;  // two laps nearer than this are the same

// The best label of each (set, last type, units), by open addressing; its memory follows the labels made, not
// the states there are.
class LabelIndex {
 public:
  static constexpr uint32_t kNone = ~uint32_t{0};

  void clear() {
    slots_.assign(size_t{1} << 12, {});
    used_ = 0;
  }
  // The label of `key`, kNone for a new one. Valid until the next call.
  uint32_t& at(uint64_t key) {
    if (2 * used_ >= slots_.size()) grow();
    Slot& slot = find(key);
    if (slot.label == kNone && slot.key != key) {
      slot.key = key;
      ++used_;
    }
    return slot.label;
  }

 private:
  struct Slot {
    uint64_t key = ~uint64_t{0};
    uint32_t label = kNone;
  };
  Slot& find(uint64_t key) {
    const size_t mask = slots_.size() - 1;
    size_t i = static_cast<size_t>((key * 0x9E3779B97F4A7C15ull) >> 20) & mask;  // Fibonacci hashing
    while (slots_[i].key != key && slots_[i].key != ~uint64_t{0}) i = (i + 1) & mask;
    return slots_[i];
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 4);
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.key != ~uint64_t{0}) find(slot.key) = slot;
  }
  std::vector<Slot> slots_;
  size_t used_ = 0;
};

class LapSearch {
 public:
  LapSearch(const Chain& chain, const std::vector<Segment>& known, size_t labels_max)
      : chain_(chain), index_(chain), bound_(chain), labels_max_(labels_max) {
    SHOAL_CHECK(index_.fits);
    if (!known.empty()) offer(known);
  }

  LapResult run(size_t first_budget) {
    LapResult result;
    result.proven = prove(first_budget);
    result.labels = made_;
    if (!best_.empty()) result.solution = LapSolution{best_, best_seconds_, result.proven ? 0.0 : gap()};
    return result;
  }

 private:
  struct Label {
    double seconds;
    double free_price;  // of all devices not used
    uint32_t set;
    uint32_t from;  // label of the previous segment, or kNone
    uint32_t counts;
    int16_t type;
    int16_t units;
  };
  struct Open {
    double bound;
    uint32_t label;
    bool operator<(const Open& other) const { return bound > other.bound; }  // least bound on top
  };

  // False: gave up.
  bool prove(size_t first_budget) {
    const auto seen = [this](const std::vector<Segment>& path) { return offer_repaired(path); };
    if (!bound_.tune(bound_.affordable(kRoughSteps), best_seconds_, seen)) return true;
    if (best_.empty()) {
      auto any = any_segments(chain_);
      if (!any) return true;
      offer(std::move(*any));
    }
    offer(improve_order(chain_, best_, Objective::kLatency));
    int steps = kFirstSteps;
    for (size_t budget = first_budget;; budget *= 3) {
      bound_.tune(bound_.affordable(steps), best_seconds_, seen);
      open_bound_ = std::max(open_bound_, bound_.root());
      if (hopeless(open_bound_)) return true;
      const size_t left = labels_max_ - made_;
      if (search(std::min(budget, left))) return true;
      if (made_ >= labels_max_) return false;
      if (!bound_.count_more()) return search(labels_max_ - made_);
      steps = kLaterSteps;
    }
  }

  void offer(std::vector<Segment> segments) {
    const double seconds = lap_seconds(chain_, segments);
    if (seconds >= best_seconds_) return;
    best_seconds_ = seconds;
    best_ = std::move(segments);
  }

  // The relaxed path's order without repetitions, cut anew.
  double offer_repaired(const std::vector<Segment>& path) {
    std::vector<int> order;
    for (const Segment& segment : path) {
      const bool first_only = chain_.head_first && segment.type == chain_.head_type;
      const auto uses = std::count(order.begin(), order.end(), segment.type);
      if (uses < (first_only ? 1 : chain_.count(segment.type))) order.push_back(segment.type);
    }
    if (order.size() == path.size()) {
      offer(path);
    } else if (order != tried_) {
      if (auto segments = cut_for_lap(chain_, order)) offer(std::move(*segments));
      tried_ = std::move(order);
    }
    return best_seconds_;
  }

  double gap() const { return open_bound_ > 0 ? best_seconds_ / open_bound_ - 1 : kUnusable; }
  bool hopeless(double bound) const { return bound >= best_seconds_ * (1 - kRelativeSlack); }

  uint64_t key(uint32_t set, int type, int units) const {
    const auto t = static_cast<uint64_t>(type), u = static_cast<uint64_t>(units);
    return (set * static_cast<uint64_t>(chain_.types) + t) * static_cast<uint64_t>(chain_.units) + u;
  }

  // All segments of `type` after label `from` of those `seconds`, or at the beginning (kNone).
  void extend(uint32_t from, const Label& label, double arrived, int type) {
    const auto t = static_cast<size_t>(type);
    Label next = label;
    next.from = from;
    next.type = static_cast<int16_t>(type);
    if (chain_.later_count(type) > 0) {
      next.set += static_cast<uint32_t>(index_.stride[t]);
      next.counts += static_cast<uint32_t>(bound_.stride(type));
      next.free_price -= bound_.price(type);
    }
    const int units_min = from == LabelIndex::kNone ? chain_.first_units_min() : 1;
    for (int end = label.units + units_min; end <= chain_.reach_of(type, label.units); ++end) {
      next.seconds = arrived + chain_.seconds(type, label.units, end);
      next.units = static_cast<int16_t>(end);
      if (end == chain_.units) {
        next.seconds += chain_.finish[t];
        if (!hopeless(next.seconds)) offer(trace(next));
        continue;
      }
      const double bound = next.seconds + bound_.rest(next.counts, end, type) - next.free_price;
      if (hopeless(bound)) continue;
      uint32_t& known = by_state_.at(key(next.set, type, end));
      if (known != LabelIndex::kNone && labels_[known].seconds <= next.seconds) continue;
      known = static_cast<uint32_t>(labels_.size());
      labels_.push_back(next);
      open_.push({bound, known});
    }
  }

  // False: more than `budget` labels.
  bool search(size_t budget) {
    by_state_.clear();
    labels_.clear();
    open_ = {};
    Label start{0, 0, 0, LabelIndex::kNone, 0, -1, 0};
    for (int t = 0; t < chain_.types; ++t) start.free_price += chain_.later_count(t) * bound_.price(t);
    for (int t = 0; t < chain_.types; ++t) {
      const double entry = chain_.entry[static_cast<size_t>(t)];
      if (chain_.may_begin(t) && entry != kUnusable) extend(LabelIndex::kNone, start, entry, t);
    }
    bool done = true;
    while (!open_.empty()) {
      const Open top = open_.top();
      open_.pop();
      if (hopeless(top.bound)) break;
      open_bound_ = std::max(open_bound_, top.bound);
      done = labels_.size() <= budget;
      if (!done) break;
      const Label label = labels_[top.label];
      if (by_state_.at(key(label.set, label.type, label.units)) != top.label) continue;
      for (int t = 0; t < chain_.types; ++t) {
        if (!index_.has_room(label.set, t)) continue;
        const double arrived = label.seconds + chain_.hop_of(label.type, t);
        if (!hopeless(arrived + bound_.through(label.counts, label.units, t) - label.free_price))
          extend(top.label, label, arrived, t);
      }
    }
    made_ += labels_.size();
    return done;
  }

  std::vector<Segment> trace(const Label& last) const {
    std::vector<Segment> segments;
    for (const Label* label = &last;; label = &labels_[label->from]) {
      const bool first = label->from == LabelIndex::kNone;
      segments.push_back({label->type, first ? 0 : labels_[label->from].units, label->units});
      if (first) break;
    }
    std::reverse(segments.begin(), segments.end());
    return segments;
  }

  const Chain& chain_;
  const CountIndex index_;
  LapBound bound_;
  LabelIndex by_state_;
  std::vector<Label> labels_;
  std::priority_queue<Open> open_;
  std::vector<int> tried_;  // the last repaired order
  std::vector<Segment> best_;
  double best_seconds_ = kUnusable;
  double open_bound_ = 0;  // no solution is better than this
  const size_t labels_max_;
  size_t made_ = 0;  // labels of all searches
};

}  // namespace

LapResult solve_lap(const Chain& chain, const std::vector<Segment>& known, size_t labels_max,
                    size_t first_budget) {
  return LapSearch(chain, known, labels_max).run(first_budget);
}

}  // namespace shoal
