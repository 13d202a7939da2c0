#include "planner/local_search.h"

#include <algorithm>
#include <utility>

namespace shoal {
namespace {

constexpr int kImprovementsMax = 60;
constexpr double kWorthwhile = 1 - 1e-9;  // an improvement by less only repeats rounding

class LocalSearch {
 public:
  LocalSearch(const Chain& chain, std::vector<Segment> start, Objective objective)
      : chain_(chain), latency_(objective == Objective::kLatency), best_(std::move(start)) {
    best_seconds_ = value(best_);
  }

  std::vector<Segment> run() {
    for (int i = 0; i < kImprovementsMax; ++i) {
      order_.clear();
      for (const Segment& segment : best_) order_.push_back(segment.type);
      if (!rearranged() && !substituted()) break;
    }
    return best_;
  }

 private:
  double value(const std::vector<Segment>& segments) const {
    return latency_ ? lap_seconds(chain_, segments) : busiest_seconds(chain_, segments);
  }
  size_t first_free() const { return chain_.head_first ? 1 : 0; }  // the head stays first

  bool better(const std::vector<int>& order) {
    auto segments = latency_ ? cut_for_lap(chain_, order) : cut_for_busiest(chain_, order);
    if (!segments) return false;
    const double seconds = value(*segments);
    if (seconds >= best_seconds_ * kWorthwhile) return false;
    best_seconds_ = seconds;
    best_ = std::move(*segments);
    return true;
  }

  bool rearranged() {
    for (size_t i = first_free(); i < order_.size() && order_.size() > 1; ++i) {
      for (size_t j = i + 1; j < order_.size(); ++j) {
        std::vector<int> swapped = order_;
        std::swap(swapped[i], swapped[j]);
        if (better(swapped)) return true;
      }
      std::vector<int> without = order_;
      without.erase(without.begin() + static_cast<std::ptrdiff_t>(i));
      if (better(without)) return true;
      for (size_t j = first_free(); j <= without.size(); ++j)
        if (j != i && better(with(without, j, order_[i]))) return true;
    }
    return false;
  }

  bool substituted() {
    for (int type = 0; type < chain_.types; ++type) {
      if (std::count(order_.begin(), order_.end(), type) >= chain_.later_count(type)) continue;
      for (size_t i = first_free(); i <= order_.size(); ++i) {
        if (better(with(order_, i, type))) return true;
        if (i == order_.size()) break;
        std::vector<int> replaced = order_;
        replaced[i] = type;
        if (better(replaced)) return true;
      }
    }
    return false;
  }

  static std::vector<int> with(std::vector<int> order, size_t place, int type) {
    order.insert(order.begin() + static_cast<std::ptrdiff_t>(place), type);
    return order;
  }

  const Chain& chain_;
  const bool latency_;
  std::vector<int> order_;  // of best_ when the round began
  std::vector<Segment> best_;
  double best_seconds_ = 0;
};

}  // namespace

std::vector<Segment> improve_order(const Chain& chain, std::vector<Segment> start, Objective objective) {
  return LocalSearch(chain, std::move(start), objective).run();
}

}  // namespace shoal
