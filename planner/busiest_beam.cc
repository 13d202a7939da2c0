// As the exact search does, the beam asks for a limit T whether all units can be covered with nothing busy
// longer, and halves the range of T. A partial solution is (used devices S, last device k) with the furthest
// unit it covers; those with equally many devices are extended together, and only the most promising go on:
// the ones whose covered units, and those that their free devices could take at most, are the most. A round
// that drops nothing and reaches no end proves that T is too small.
#include "planner/busiest_beam.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "planner/busy_limits.h"
#include "planner/device_set.h"
#include "planner/label_index.h"
#include "planner/local_search.h"

namespace shoal {
namespace {

constexpr uint32_t kNone = LabelIndex::kNone;
constexpr int kImproveTypes = 64;  // more are too many for the local search
constexpr int kProofs = 5;         // attempts to raise the bound where the best value is not proven

template <size_t kWords>
class BusiestBeam {
 public:
  BusiestBeam(const Chain& chain, const BusiestLimits& options)
      : chain_(chain), options_(options), layout_(chain), limits_(chain) {}

  BusiestResult run() {
    BusiestResult result;
    const size_t narrow = std::max(options_.width_min, options_.width / static_cast<size_t>(chain_.types));
    const auto any = attempt(std::numeric_limits<double>::max(), narrow);
    if (!best_) {
      if (any != Answer::kNever) attempt(std::numeric_limits<double>::max(), kNone);
      if (!best_) return {std::nullopt, 0, any == Answer::kNever};
    }
    const std::vector<double> values = limits_.candidates();
    const auto settle = [&] {
      const double busiest = busiest_seconds(chain_, *best_);
      return static_cast<size_t>(std::lower_bound(values.begin(), values.end(), busiest) - values.begin());
    };
    size_t proven = limits_.first_plausible(values), high = settle();  // below `proven` there is nothing
    for (size_t low = proven; low < high;) {
      const size_t middle = low + (high - low) / 2;
      const Answer answer = attempt(values[middle], narrow);
      if (answer == Answer::kFound) high = std::min(middle, settle());
      if (answer != Answer::kFound) low = middle + 1;
      if (answer == Answer::kNever) proven = middle + 1;
    }
    if (chain_.types <= kImproveTypes) {
      best_ = improve_order(chain_, std::move(*best_), Objective::kThroughput);
      high = settle();
    }
    for (int i = 0; proven < high && i < kProofs; ++i) {
      const size_t middle = i == 0 ? high - 1 : proven + (high - proven) / 2;
      const Answer answer = attempt(values[middle], kNone);
      if (answer == Answer::kFound) high = std::min(middle, settle());
      if (answer == Answer::kNever) proven = middle + 1;
      if (answer == Answer::kUnknown && i > 0) break;
    }
    result.segments = best_;
    result.proven = proven >= high;
    if (!result.proven) result.gap = busiest_seconds(chain_, *best_) / values[proven] - 1;
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
    int potential;  // units covered, and those that free devices could take
  };

  Answer attempt(double limit, size_t width) {
    limits_.set(limit);
    labels_.clear();
    goal_ = kNone;
    int all = 0;
    for (int t = 0; t < chain_.types; ++t) all += limits_.longest(t) * chain_.later_count(t);
    std::vector<uint32_t> level;
    by_state_.clear();
    for (int t = 0; t < chain_.types; ++t)
      if (limits_.may_enter(t)) extend({{}, kNone, -1, 0, all}, kNone, t, limits_.reach(t, 0));
    bool complete = true;
    for (size_t done = 0; done < labels_.size() && goal_ == kNone;) {
      level.clear();
      for (; done < labels_.size(); ++done) level.push_back(static_cast<uint32_t>(done));
      if (level.size() > width) {
        std::nth_element(level.begin(), level.begin() + static_cast<std::ptrdiff_t>(width), level.end(),
                         [&](uint32_t a, uint32_t b) {
                           return labels_[a].potential != labels_[b].potential
                                      ? labels_[a].potential > labels_[b].potential
                                      : a < b;
                         });
        level.resize(width);
        complete = false;
      }
      by_state_.clear();
      for (uint32_t from : level) {
        if (goal_ != kNone) break;
        extend_all(from);
        if (labels_.size() > options_.labels) return Answer::kUnknown;
      }
    }
    if (goal_ == kNone) return complete ? Answer::kNever : Answer::kUnknown;
    // A device that can hold only some units may have been a mere relay; then the exact cuts do not exist.
    auto segments = cut_for_busiest(limit_busy(chain_, limit), trace());
    if (!segments) return Answer::kUnknown;
    if (!best_ || busiest_seconds(chain_, *segments) < busiest_seconds(chain_, *best_))
      best_ = std::move(segments);
    return Answer::kFound;
  }

  void extend_all(uint32_t from) {
    const Label label = labels_[from];
    const int unit = std::min<int>(label.covered, chain_.units - 1);
    for (int t = 0; t < chain_.types && goal_ == kNone; ++t) {
      if (!layout_.has_room(label.set, t) || !limits_.may_follow(label.type, t)) continue;
      const int start = limits_.start(t, unit);
      if (start >= chain_.first_units_min()) extend(label, from, t, limits_.reach(t, start));
    }
  }

  void extend(Label label, uint32_t from, int type, int covered) {
    const int before = label.covered;
    layout_.add(label.set, type);
    label.from = from;
    label.type = static_cast<int16_t>(type);
    label.covered = static_cast<int16_t>(covered);
    label.potential += covered - before;
    if (chain_.later_count(type) > 0) label.potential -= limits_.longest(type);
    if (label.potential < chain_.units) return;
    const uint64_t hash = (label.set.hash() ^ static_cast<uint64_t>(type)) * 0x9E3779B97F4A7C15ull;
    uint32_t& known = by_state_.at(hash, [&](uint32_t other) {
      return labels_[other].type == label.type && labels_[other].set == label.set;
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
  LabelIndex by_state_;  // of the labels with one device more than the level
  std::vector<Label> labels_;
  uint32_t goal_ = kNone;
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
