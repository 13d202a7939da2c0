// As the exact search does, the beam asks for a limit T whether all units can be covered with nothing busy
// longer, and halves the range of T: first by BusyBound alone, then by searches. A partial solution is (used
// devices S, last device k) with the furthest unit it covers. BusyBound prices what must still follow; if the
// free devices' prices are less, the partial solution leads nowhere. Those with equally many devices are
// extended together, and only the ones with the most to spare go on. A round that drops nothing and reaches
// no end proves that T is too small. Rounds widen until the best T is proven or the labels are spent.
//
// Furthest units do not decide where a device that can hold only some units would be a mere relay. If the
// order found cannot be cut for that reason, the search is done again with every end of every segment.
#include "planner/busiest_beam.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "planner/busy_bound.h"
#include "planner/busy_limits.h"
#include "planner/device_set.h"
#include "planner/label_index.h"
#include "planner/local_search.h"

namespace shoal {
namespace {

constexpr uint32_t kNone = LabelIndex::kNone;
constexpr int kImproveTypes = 64;  // more are too many for the local search
constexpr int kSteps = 100;        // of tuning the bound
constexpr size_t kWider = 4;       // each round of searches than the one before

template <size_t kWords>
class BusiestBeam {
 public:
  BusiestBeam(const Chain& chain, const BusiestLimits& options)
      : chain_(chain), options_(options), layout_(chain), limits_(chain), bound_(chain, limits_) {}

  BusiestResult run() {
    size_t width = std::max(options_.width_min, options_.width / static_cast<size_t>(chain_.types));
    Answer any = attempt(std::numeric_limits<double>::max(), width);
    if (any == Answer::kUnknown) any = attempt(std::numeric_limits<double>::max(), kNone);
    if (!best_) return {std::nullopt, 0, any == Answer::kNever};
    values_ = limits_.candidates();
    proven_ = limits_.first_plausible(values_), high_ = settle();
    raise_bound();
    narrow_down(width);
    if (proven_ < high_ && chain_.types <= kImproveTypes) {
      best_ = improve_order(chain_, std::move(*best_), Objective::kThroughput);
      high_ = settle();
    }
    while (proven_ < high_ && made_ < options_.labels) narrow_down(width *= kWider);
    BusiestResult result;
    result.segments = best_;
    result.proven = proven_ >= high_;
    if (!result.proven) result.gap = busiest_seconds(chain_, *best_) / values_[proven_] - 1;
    return result;
  }

 private:
  enum class Answer { kFound, kNever, kUnknown };
  using Set = DeviceSet<kWords>;
  struct Label {
    Set set;
    uint32_t from;
    int16_t type;
    int16_t covered;
    int free_price;  // of all devices not used
    int slack;       // what free_price has beyond the least price of the rest
  };

  // The first value that is not less than the best solution's.
  size_t settle() const {
    const double busiest = busiest_seconds(chain_, *best_);
    return static_cast<size_t>(std::lower_bound(values_.begin(), values_.end(), busiest) - values_.begin());
  }

  // Halves the range of T by the bound alone.
  void raise_bound() {
    for (size_t high = high_; proven_ < high;) {
      const size_t middle = proven_ + (high - proven_) / 2;
      if (ruled_out(values_[middle])) {
        proven_ = middle + 1;
      } else {
        high = middle;
      }
      high_ = std::min(high_, settle());
      high = std::min(high, high_);
    }
  }

  // Halves the range of T by searches.
  void narrow_down(size_t width) {
    for (size_t low = proven_; low < high_ && made_ < options_.labels;) {
      const size_t middle = low + (high_ - low) / 2;
      const Answer answer = attempt(values_[middle], width);
      if (answer == Answer::kFound) high_ = std::min(middle, settle());
      if (answer != Answer::kFound) low = middle + 1;
      if (answer == Answer::kNever) proven_ = middle + 1;
    }
  }

  // Leaves the limits at `limit` and the bound's tables tuned for it.
  bool ruled_out(double limit) {
    limits_.set(limit);
    return bound_.rules_out(bound_.affordable(kSteps), [&](const std::vector<int>& path) {
      offer_repaired(path);
      return best_ && busiest_seconds(chain_, *best_) <= limit;
    });
  }

  bool offer(const Chain& limited, const std::vector<int>& order) {
    auto segments = cut_for_busiest(limited, order);
    if (!segments) return false;
    if (!best_ || busiest_seconds(chain_, *segments) < busiest_seconds(chain_, *best_))
      best_ = std::move(segments);
    return true;
  }

  // The relaxed path without repetitions.
  void offer_repaired(const std::vector<int>& path) {
    std::vector<int> order;
    for (int type : path) {
      const auto uses = std::count(order.begin(), order.end(), type);
      if (uses < std::max(1, chain_.later_count(type))) order.push_back(type);
    }
    if (order == tried_) return;
    offer(chain_, order);
    tried_ = std::move(order);
  }

  Answer attempt(double limit, size_t width) {
    if (ruled_out(limit)) return Answer::kNever;
    if (best_ && busiest_seconds(chain_, *best_) <= limit) return Answer::kFound;
    const Chain limited = limit_busy(chain_, limit);
    for (bool every_end : {false, true}) {
      every_end_ = every_end;
      const bool complete = search(width);
      made_ += labels_.size();
      if (goal_ == kNone) return complete ? Answer::kNever : Answer::kUnknown;
      if (offer(limited, trace())) return Answer::kFound;
    }
    SHOAL_CHECK(false);  // where every end is kept, the order can be cut
    return Answer::kUnknown;
  }

  // False: dropped some labels.
  bool search(size_t width) {
    labels_.clear();
    by_state_.clear();
    goal_ = kNone;
    for (int t = 0; t < chain_.types; ++t)
      if (limits_.may_enter(t)) extend_ends({{}, kNone, -1, 0, bound_.budget(), 0}, kNone, t, 0);
    bool complete = true;
    std::vector<uint32_t> level;
    for (size_t done = 0; done < labels_.size() && goal_ == kNone;) {
      level.clear();
      for (; done < labels_.size(); ++done) level.push_back(static_cast<uint32_t>(done));
      if (level.size() > width) {
        std::nth_element(level.begin(), level.begin() + static_cast<std::ptrdiff_t>(width), level.end(),
                         [&](uint32_t a, uint32_t b) {
                           return labels_[a].slack != labels_[b].slack ? labels_[a].slack > labels_[b].slack
                                                                       : a < b;
                         });
        level.resize(width);
        complete = false;
      }
      by_state_.clear();
      for (uint32_t from : level) {
        if (goal_ != kNone) break;
        extend_all(from);
        if (labels_.size() > options_.labels) return false;
      }
    }
    return complete;
  }

  void extend_all(uint32_t from) {
    const Label label = labels_[from];
    const int unit = std::min<int>(label.covered, chain_.units - 1);
    for (int t = 0; t < chain_.types && goal_ == kNone; ++t) {
      if (!layout_.has_room(label.set, t) || !limits_.may_follow(label.type, t)) continue;
      const int start = limits_.start(t, unit);
      if (every_end_ ? start == label.covered : start >= chain_.first_units_min())
        extend_ends(label, from, t, start);
    }
  }

  // By segments of `type` that begin at `start`.
  void extend_ends(const Label& label, uint32_t from, int type, int start) {
    const int reach = limits_.reach(type, start);
    if (every_end_)
      for (int end = start + (start == 0 ? chain_.first_units_min() : 1); end < reach; ++end)
        extend(label, from, type, end);
    extend(label, from, type, reach);
  }

  void extend(Label label, uint32_t from, int type, int covered) {
    layout_.add(label.set, type);
    label.from = from;
    label.type = static_cast<int16_t>(type);
    label.covered = static_cast<int16_t>(covered);
    if (chain_.later_count(type) > 0) label.free_price -= bound_.price(type);
    label.slack = label.free_price - bound_.rest(covered, type);
    if (label.slack < 0) return;
    const auto state = static_cast<uint64_t>(type) << 16 | static_cast<uint64_t>(every_end_ ? covered : 0);
    const uint64_t hash = (label.set.hash() ^ state) * 0x9E3779B97F4A7C15ull;
    uint32_t& known = by_state_.at(hash, [&](uint32_t other) {
      const Label& label_there = labels_[other];
      return label_there.type == label.type && (!every_end_ || label_there.covered == label.covered) &&
             label_there.set == label.set;
    });
    if (known != kNone && labels_[known].covered >= label.covered) return;
    if (known == kNone) {
      known = static_cast<uint32_t>(labels_.size());
      labels_.push_back(label);
    } else {
      labels_[known] = label;
    }
    if (covered == chain_.units && limits_.may_finish(type)) goal_ = known;
  }

  std::vector<int> trace() const {
    std::vector<int> order;
    for (uint32_t label = goal_; label != kNone; label = labels_[label].from)
      order.push_back(labels_[label].type);
    std::reverse(order.begin(), order.end());
    return order;
  }

  const Chain& chain_;
  const BusiestLimits options_;
  const SetLayout layout_;
  BusyLimits limits_;
  BusyBound bound_;
  LabelIndex by_state_;  // of the labels with one device more than the level
  std::vector<Label> labels_;
  uint32_t goal_ = kNone;
  bool every_end_ = false;        // the search keeps all ends of a segment, not only the furthest
  std::vector<int> tried_;        // the last repaired order
  std::vector<double> values_;    // of T, ascending
  size_t proven_ = 0, high_ = 0;  // less than values_[proven_] is impossible; the best has values_[high_]
  size_t made_ = 0;               // labels of all attempts
  std::optional<std::vector<Segment>> best_;
};

}  // namespace

BusiestResult solve_busiest_wide(const Chain& chain, const BusiestLimits& limits) {
  const size_t words = SetLayout(chain).words();
  if (words <= 1) return BusiestBeam<1>(chain, limits).run();
  if (words <= 4) return BusiestBeam<4>(chain, limits).run();
  SHOAL_CHECK(words <= 32);  // kPlanDevicesMax devices, each a type
  return BusiestBeam<32>(chain, limits).run();
}

}  // namespace shoal
