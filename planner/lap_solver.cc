// A beam that widens until it drops nothing: partial solutions (used devices S, last device k, units covered
// i) are extended in the order of i, and at each i only the most promising go on. LapBound gives the lower
// bound of what is left, less the price of every device that is still free. What is dropped leaves its bound
// behind: the least of these proves the gap, and when none is below the best solution that one is optimal.
// The first beam is narrow, a guided greedy search; each later one is wider, with a bound that counts more
// types. (Zhang 1998, "Complete anytime beam search".)
#include "planner/lap_solver.h"

#include <algorithm>

#include "base/check.h"
#include "planner/busiest_solver.h"
#include "planner/device_set.h"
#include "planner/label_index.h"
#include "planner/lap_bound.h"

namespace shoal {
namespace {

constexpr int kFirstSteps = 120, kLaterSteps = 7;  // of tuning
// Each search is wider than the one before: less so while the bound can be made better, which is cheaper for
// all but large fleets.
constexpr size_t kWider = 4, kWiderCounted = 2;
constexpr int kTypesFew = 128;
constexpr double kRelativeSlack = 1e-12;  // two laps nearer than this are the same
constexpr uint32_t kNone = LabelIndex::kNone;

template <size_t kWords>
class LapSearch {
 public:
  LapSearch(const Chain& chain, const LapLimits& limits)
      : chain_(chain), layout_(chain), bound_(chain), limits_(limits) {}

  LapResult run(const std::vector<Segment>& known) {
    if (!known.empty()) offer(known);
    LapResult result;
    result.proven = prove();
    result.labels = made_;
    if (!best_.empty()) result.solution = LapSolution{best_, best_seconds_, result.proven ? 0.0 : gap()};
    return result;
  }

 private:
  using Set = DeviceSet<kWords>;
  struct Label {
    double seconds;
    double free_price;  // of all devices not used
    Set set;
    uint32_t from;    // label of the previous segment, or kNone
    uint32_t counts;  // of the bound's counted types
    int16_t type;
    int16_t units;
  };
  struct Open {
    double bound;
    uint32_t label;
    bool operator<(const Open& other) const { return bound < other.bound; }
  };

  // False: gave up.
  bool prove() {
    const auto seen = [this](const std::vector<Segment>& path) { return offer_repaired(path); };
    if (!bound_.tune(bound_.affordable(kFirstSteps), best_seconds_, seen)) return true;
    bool counted = false;
    const bool few = chain_.types <= kTypesFew;
    for (size_t width = limits_.first_width;; width *= counted && few ? kWiderCounted : kWider) {
      open_bound_ = std::max(open_bound_, bound_.root());
      if (hopeless(open_bound_)) return true;
      const double dropped = search(width);
      if (dropped == kUnusable) return true;
      open_bound_ = std::max(open_bound_, dropped);
      if (best_.empty() && search_fits(chain_)) {
        auto any = any_segments(chain_);
        if (!any) return true;
        offer(std::move(*any));
      }
      if (made_ >= limits_.labels) return false;
      counted = bound_.count_more();
      if (counted && !bound_.tune(bound_.affordable(kLaterSteps), best_seconds_, seen)) return true;
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
    if (order.size() == path.size() && !path.empty()) {
      offer(path);
    } else if (order != tried_) {
      if (auto segments = cut_for_lap(chain_, order)) offer(std::move(*segments));
      tried_ = std::move(order);
    }
    return best_seconds_;
  }

  double gap() const { return open_bound_ > 0 ? best_seconds_ / open_bound_ - 1 : kUnusable; }
  bool hopeless(double bound) const { return bound >= best_seconds_ * (1 - kRelativeSlack); }

  uint32_t& best_label(const Label& label) {
    const auto state = static_cast<uint64_t>(label.type) << 16 | static_cast<uint64_t>(label.units);
    const uint64_t hash = (label.set.hash() ^ state) * 0x9E3779B97F4A7C15ull;
    return by_state_.at(hash, [&](uint32_t other) {
      const Label& known = labels_[other];
      return known.type == label.type && known.units == label.units && known.set == label.set;
    });
  }

  struct Ends {
    int first, last;
  };
  // Where a segment of `type` after `label` may end in a best solution: nowhere that a unit beside the cut
  // between the two would be quicker on the other device and could move there.
  Ends ends_of(uint32_t from, const Label& label, int type) const {
    const int cut = label.units, reach = chain_.reach_of(type, cut);
    if (from == kNone) return {chain_.first_units_min(), reach};
    const bool first = label.from == kNone;
    const int begin = first ? 0 : labels_[label.from].units;
    Ends ends{cut + 1, reach};
    if (chain_.reach_of(label.type, begin) > cut &&
        chain_.seconds(label.type, cut, cut + 1) < chain_.seconds(type, cut, cut + 1))
      ends.last = std::min(reach, cut + 1);
    if (cut - 1 - begin >= (first ? chain_.first_units_min() : 1) &&
        chain_.seconds(type, cut - 1, cut) < chain_.seconds(label.type, cut - 1, cut))
      ends.first = std::max(cut + 1, chain_.reach_of(type, cut - 1) + 1);
    return ends;
  }

  // All segments of `type` after label `from`, or at the beginning (kNone).
  void extend(uint32_t from, const Label& label, double hop, int type) {
    Label next = label;
    next.from = from;
    next.type = static_cast<int16_t>(type);
    layout_.add(next.set, type);
    const double arrived = label.seconds + hop;
    if (hopeless(arrived + bound_.through(label.counts, label.units, type) - label.free_price)) return;
    if (chain_.later_count(type) > 0) next.free_price -= bound_.price(type);
    next.counts += static_cast<uint32_t>(bound_.stride(type));
    const Ends ends = ends_of(from, label, type);
    for (int end = ends.first; end <= ends.last; ++end) {
      next.seconds = arrived + chain_.seconds(type, label.units, end);
      next.units = static_cast<int16_t>(end);
      if (end == chain_.units) {
        next.seconds += chain_.finish[static_cast<size_t>(type)];
        if (!hopeless(next.seconds)) offer(trace(next));
        continue;
      }
      const double bound = next.seconds + bound_.rest(label.counts, end, type) - next.free_price;
      if (hopeless(bound)) continue;
      uint32_t& known = best_label(next);
      if (known != kNone && labels_[known].seconds <= next.seconds) continue;
      known = static_cast<uint32_t>(labels_.size());
      labels_.push_back(next);
      levels_[static_cast<size_t>(end)].push_back({bound, known});
    }
  }

  void begin() {
    by_state_.clear();
    labels_.clear();
    Label start{0, 0, {}, kNone, 0, -1, 0};
    for (int t = 0; t < chain_.types; ++t) start.free_price += chain_.later_count(t) * bound_.price(t);
    for (int t = 0; t < chain_.types; ++t) {
      const double entry = chain_.entry[static_cast<size_t>(t)];
      if (chain_.may_begin(t) && entry != kUnusable) extend(kNone, start, entry, t);
    }
  }

  void extend_all(const Open& open) {
    const Label label = labels_[open.label];
    if (hopeless(open.bound) || best_label(label) != open.label) return;
    for (int t = 0; t < chain_.types; ++t) {
      const double hop = chain_.hop_of(label.type, t);
      if (hop != kUnusable && layout_.has_room(label.set, t)) extend(open.label, label, hop, t);
    }
  }

  // Only the `width` most promising labels of each number of units go on. The least bound of the others, or
  // kUnusable: there are none that matter, so the best solution is proven.
  double search(size_t width) {
    levels_.assign(static_cast<size_t>(chain_.units), {});
    begin();
    double dropped = kUnusable;
    for (std::vector<Open>& level : levels_) {
      if (level.size() > width) {
        const auto end = level.begin() + static_cast<std::ptrdiff_t>(width);
        std::nth_element(level.begin(), end, level.end());
        dropped = std::min(dropped, std::min_element(end, level.end())->bound);
        level.resize(width);
      }
      for (const Open& open : level) extend_all(open);
      level = {};
    }
    made_ += labels_.size();
    return hopeless(dropped) ? kUnusable : dropped;
  }

  std::vector<Segment> trace(const Label& last) const {
    std::vector<Segment> segments;
    for (const Label* label = &last;; label = &labels_[label->from]) {
      const bool first = label->from == kNone;
      segments.push_back({label->type, first ? 0 : labels_[label->from].units, label->units});
      if (first) break;
    }
    std::reverse(segments.begin(), segments.end());
    return segments;
  }

  const Chain& chain_;
  const SetLayout layout_;
  LapBound bound_;
  LabelIndex by_state_;
  std::vector<Label> labels_;
  std::vector<std::vector<Open>> levels_;  // [units] labels to go on from
  std::vector<int> tried_;                 // the last repaired order
  std::vector<Segment> best_;
  double best_seconds_ = kUnusable;
  double open_bound_ = 0;  // no solution is better than this
  const LapLimits limits_;
  size_t made_ = 0;  // labels of all searches
};

}  // namespace

LapResult solve_lap(const Chain& chain, const std::vector<Segment>& known, const LapLimits& limits) {
  const size_t words = SetLayout(chain).words();
  if (words <= 1) return LapSearch<1>(chain, limits).run(known);
  if (words <= 4) return LapSearch<4>(chain, limits).run(known);
  SHOAL_CHECK(words <= 32);  // kPlanDevicesMax devices, each a type
  return LapSearch<32>(chain, limits).run(known);
}

}  // namespace shoal
