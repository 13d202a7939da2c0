// A* over partial solutions (used devices S, last device k, units covered i), with a lower bound from a
// Lagrangian relaxation: let each device on the path take any of its feasible segments, wherever it lies, and
// pay a price per unit left uncovered or covered twice. What remains is a shortest path over sets, R[S][k],
// one Held-Karp table for all i at once:
//     cost of completing (S, k, i)  >=  R[S][k] + price of the units from i on.
// The price is tuned at the root by intersecting the two lines that bracket the maximum of the (concave)
// bound. The bound is consistent, so the first completed solution that is no worse than the best open bound
// is optimal. (Held and Karp 1962 for the table; Fisher 1981 for the relaxation.)
#include "planner/lap_solver.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <queue>

#include "base/check.h"

namespace shoal {
namespace {

constexpr int kTuneStepsMax = 10;
constexpr size_t kLanes = 8;              // types looked at together in the inner loop
constexpr double kSmallGap = 0.003;       // below it the search is shorter than more tuning
constexpr double kRelativeSlack = 1e-12;  // two laps nearer than this are the same

struct Priced {
  double value = kUnusable;  // seconds - price * covered
  double covered = 0;
};

class LapSearch {
 public:
  LapSearch(const Chain& chain, const std::vector<Segment>& known, size_t labels_max)
      : chain_(chain), index_(chain), labels_max_(labels_max) {
    SHOAL_CHECK(index_.fits);
    const auto types = static_cast<size_t>(chain.types);
    width_ = (types + kLanes - 1) / kLanes * kLanes;
    hop_to_.assign(types * width_, kUnusable);
    for (size_t to = 0; to < types; ++to)
      for (size_t from = 0; from < types; ++from) hop_to_[to * width_ + from] = chain.hop[from * types + to];
    if (!known.empty()) offer(known);
  }

  LapResult run() {
    LapResult result;
    if (tune()) result.proven = search();
    result.labels = labels_;
    if (!best_.empty()) result.solution = LapSolution{best_, best_seconds_, result.proven ? 0.0 : gap()};
    return result;
  }

 private:
  struct Label {
    double seconds = kUnusable;
    int16_t from_type = -1;  // the previous segment's type and end; -1: this is the first
    int16_t from_units = 0;
  };
  struct Open {
    double bound;
    double seconds;
    uint32_t node;
    int32_t units;
    bool operator<(const Open& other) const { return bound > other.bound; }  // least bound on top
  };
  struct RootBound {
    double value = kUnusable;  // the bound without the price of all units
    double covered = 0;
    std::vector<int> order;
  };

  size_t node(size_t set, int type) const { return set * width_ + static_cast<size_t>(type); }
  double weight(int begin, int end) const {
    return weight_[static_cast<size_t>(end)] - weight_[static_cast<size_t>(begin)];
  }
  // The set after `type` begins a solution, or nothing is left of it to be used again.
  size_t first_set(int type) const {
    return chain_.later_count(type) > 0 ? index_.stride[static_cast<size_t>(type)] : 0;
  }

  void offer(std::vector<Segment> segments) {
    const double seconds = lap_seconds(chain_, segments);
    if (seconds >= best_seconds_) return;
    best_seconds_ = seconds;
    best_ = std::move(segments);
  }

  double gap() const { return open_bound_ > 0 ? best_seconds_ / open_bound_ - 1 : kUnusable; }

  // A unit's weight is its mean time over the devices, or its memory; the two ends are not priced, for any
  // path has them once.
  void weigh_by_time() {
    weight_.assign(static_cast<size_t>(chain_.units) + 1, 0);
    for (int u = 1; u <= chain_.units; ++u) {
      double relative = 0;
      const bool end_unit = u == 1 || u == chain_.units;
      for (int t = 0; t < chain_.types && !end_unit; ++t) {
        const double all = chain_.seconds(t, 0, chain_.units);
        relative += all > 0 ? chain_.seconds(t, u - 1, u) / all : 0;
      }
      weight_[static_cast<size_t>(u)] = weight_[static_cast<size_t>(u) - 1] + std::max(relative, 1e-6);
    }
  }
  void weigh_by_memory() {
    for (size_t u = 1; u < weight_.size(); ++u)
      weight_[u] = weight_[u - 1] + std::max(chain_.unit_bytes[u - 1], 1e-3);
  }

  // Tunes with either weight, unless the first leaves next to no gap, and keeps the tables of the better one.
  // False: proven that there is no solution.
  bool tune() {
    weigh_by_time();
    if (!tune_price()) return false;
    if (best_seconds_ <= open_bound_ * (1 + kSmallGap)) return true;
    const double by_time = open_bound_, price = price_;
    const std::vector<double> weight = weight_;
    weigh_by_memory();
    if (!tune_price()) return false;
    if (open_bound_ >= by_time) return true;
    weight_ = weight;
    open_bound_ = by_time;
    fill_priced(price);
    fill_rest();
    return true;
  }

  // The least priced segment of each type: one that more devices follow, and one that ends the chain.
  void fill_priced(double price) {
    price_ = price;
    middle_.assign(static_cast<size_t>(chain_.types), {});
    final_ = middle_;
    for (int t = 0; t < chain_.types; ++t) {
      for (int begin = chain_.first_units_min(); begin < chain_.units; ++begin) {
        for (int end = begin + 1; end <= chain_.reach_of(t, begin); ++end) {
          const double covered = weight(begin, end);
          const double value = chain_.seconds(t, begin, end) - price * covered;
          Priced& slot = (end == chain_.units ? final_ : middle_)[static_cast<size_t>(t)];
          if (value < slot.value) slot = {value, covered};
        }
      }
      final_[static_cast<size_t>(t)].value += chain_.finish[static_cast<size_t>(t)];
    }
  }

  // R[S][k], larger sets first. Rows are padded to kLanes so that the inner loop has a fixed length.
  void fill_rest() {
    rest_.resize(index_.sets * width_);
    std::vector<double> least(width_);
    for (size_t set = index_.sets; set-- > 0;) {
      std::fill(least.begin(), least.end(), kUnusable);
      for (uint32_t room = index_.room[set]; room != 0; room &= room - 1) {
        const auto t = static_cast<size_t>(std::countr_zero(room));
        const double through =
            std::min(middle_[t].value + rest_[(set + index_.stride[t]) * width_ + t], final_[t].value);
        const double* hop = &hop_to_[t * width_];
        for (size_t k = 0; k < width_; k += kLanes) {
          for (size_t lane = 0; lane < kLanes; ++lane) {
            const double value = hop[k + lane] + through;
            least[k + lane] = value < least[k + lane] ? value : least[k + lane];
          }
        }
      }
      std::copy(least.begin(), least.end(), rest_.begin() + static_cast<std::ptrdiff_t>(set * width_));
    }
  }

  // The least priced way to finish when `type` comes next after `set`.
  double through_value(size_t set, int type) const {
    if (!index_.has_room(set, type)) return kUnusable;
    const auto t = static_cast<size_t>(type);
    return std::min(middle_[t].value + rest_[node(set + index_.stride[t], type)], final_[t].value);
  }

  // The least priced path, from the tables.
  RootBound root_bound() const {
    RootBound root;
    int first = -1;
    bool complete = false;
    for (int t = 0; t < chain_.types; ++t) {
      if (!chain_.may_begin(t)) continue;
      for (int end = chain_.first_units_min(); end <= chain_.reach_of(t, 0); ++end) {
        const bool whole = end == chain_.units;
        const double after = whole ? chain_.finish[static_cast<size_t>(t)] : rest_[node(first_set(t), t)];
        const double value = chain_.entry[static_cast<size_t>(t)] + chain_.seconds(t, 0, end) -
                             price_ * weight(0, end) + after;
        if (value >= root.value) continue;
        root.value = value;
        root.covered = weight(0, end);
        first = t;
        complete = whole;
      }
    }
    if (first < 0) return root;
    root.order.push_back(first);
    size_t set = first_set(first);
    for (int last = first; !complete;) {
      int next = -1;
      double least = kUnusable;
      for (int t = 0; t < chain_.types; ++t) {
        const double value = chain_.hop_of(last, t) + through_value(set, t);
        if (value < least) least = value, next = t;
      }
      const auto t = static_cast<size_t>(next);
      set += index_.stride[t];
      complete = final_[t].value <= middle_[t].value + rest_[node(set, next)];
      root.covered += complete ? final_[t].covered : middle_[t].covered;
      root.order.push_back(next);
      last = next;
    }
    return root;
  }

  RootBound bound_at(double price) {
    fill_priced(price);
    fill_rest();
    RootBound root = root_bound();
    if (root.order.empty()) return root;
    if (auto segments = cut_for_lap(chain_, root.order)) offer(std::move(*segments));
    return root;
  }

  // More than any solution can take, so a bound above it proves that there is none.
  double lap_ceiling() const {
    double ceiling = 0, longest_hop = 0, longest_end = 0;
    const auto finite = [](double seconds) { return seconds == kUnusable ? 0 : seconds; };
    for (double hop : chain_.hop) longest_hop = std::max(longest_hop, finite(hop));
    for (int t = 0; t < chain_.types; ++t) {
      const auto i = static_cast<size_t>(t);
      ceiling += chain_.count(t) * (chain_.seconds(t, 0, chain_.units) + longest_hop);
      longest_end = std::max(longest_end, finite(chain_.entry[i]) + finite(chain_.finish[i]));
    }
    return 2 * (ceiling + longest_end) + 1e-9;
  }

  // Leaves the tables at the best price found. False: proven that there is no solution.
  bool tune_price() {
    const double total = weight(0, chain_.units), ceiling = lap_ceiling();
    // Each line is value + price * slope, touching the bound at a price.
    double low_value = 0, low_slope = 0, high_value = 0, high_slope = 0;
    bool low = false, high = false;
    double best_bound = -kUnusable, best_price = 0;
    double price = best_seconds_ < kUnusable ? best_seconds_ / total : mean_price();
    for (int step = 0; step < kTuneStepsMax || !high; ++step) {
      const RootBound root = bound_at(price);
      if (root.order.empty()) return false;
      const double bound = root.value + price * total, slope = total - root.covered;
      if (bound > best_bound) best_bound = bound, best_price = price;
      if (bound > ceiling) return false;
      if (hopeless(bound)) break;
      if (slope > 0) {
        low = true, low_value = bound - price * slope, low_slope = slope;
      } else {
        high = true, high_value = bound - price * slope, high_slope = slope;
      }
      if (slope == 0) break;
      if (low && high) {
        const double crossing = (high_value - low_value) / (low_slope - high_slope);
        const double crossing_bound = low_value + crossing * low_slope;
        if (crossing_bound - best_bound <= 1e-6 * std::abs(crossing_bound)) break;
        price = crossing;
      } else {
        price = high ? price / 2 : price * 2;
      }
    }
    if (price_ != best_price) {
      fill_priced(best_price);
      fill_rest();
    }
    open_bound_ = best_bound;
    return true;
  }

  double mean_price() const {
    double sum = 0;
    for (int t = 0; t < chain_.types; ++t) sum += chain_.seconds(t, 0, chain_.units);
    return std::max(sum / chain_.types, 1e-12) / weight(0, chain_.units);
  }

  std::vector<Label>& block(size_t node_index) {
    int32_t& slot = block_of_[node_index];
    if (slot < 0) {
      slot = static_cast<int32_t>(blocks_.size());
      blocks_.emplace_back(static_cast<size_t>(chain_.units) + 1);
    }
    return blocks_[static_cast<size_t>(slot)];
  }

  bool hopeless(double bound) const { return bound >= best_seconds_ * (1 - kRelativeSlack); }

  // All segments of `type` from unit `begin` on, after `seconds`.
  void extend(size_t set, int type, int begin, int units_min, double seconds, Label from) {
    const auto t = static_cast<size_t>(type);
    const size_t to = node(set, type);
    const double rest = rest_[to];
    for (int end = begin + units_min; end <= chain_.reach_of(type, begin); ++end) {
      const double reached = seconds + chain_.seconds(type, begin, end);
      const bool done = end == chain_.units;
      const double bound = reached + (done ? chain_.finish[t] : rest + price_ * weight(end, chain_.units));
      if (hopeless(bound)) continue;
      Label& label = block(to)[static_cast<size_t>(end)];
      if (reached >= label.seconds) continue;
      label = from;
      label.seconds = reached;
      if (done) {
        offer(trace(set, type));
      } else {
        ++labels_;
        open_.push({bound, reached, static_cast<uint32_t>(to), end});
      }
    }
  }

  bool search() {
    block_of_.assign(index_.sets * width_, -1);
    for (int t = 0; t < chain_.types; ++t) {
      if (!chain_.may_begin(t) || chain_.entry[static_cast<size_t>(t)] == kUnusable) continue;
      extend(first_set(t), t, 0, chain_.first_units_min(), chain_.entry[static_cast<size_t>(t)], {});
    }
    while (!open_.empty()) {
      const Open top = open_.top();
      open_.pop();
      if (hopeless(top.bound)) return true;
      open_bound_ = std::max(open_bound_, top.bound);
      if (labels_ > labels_max_) return false;
      const size_t set = top.node / width_;
      const int last = static_cast<int>(top.node % width_);
      if (top.seconds > block(top.node)[static_cast<size_t>(top.units)].seconds) continue;
      const double price = price_ * weight(top.units, chain_.units);
      for (int t = 0; t < chain_.types; ++t) {
        if (!index_.has_room(set, t)) continue;
        const double arrived = top.seconds + chain_.hop_of(last, t);
        if (hopeless(arrived + through_value(set, t) + price)) continue;
        const Label from{0, static_cast<int16_t>(last), static_cast<int16_t>(top.units)};
        extend(set + index_.stride[static_cast<size_t>(t)], t, top.units, 1, arrived, from);
      }
    }
    return true;
  }

  std::vector<Segment> trace(size_t set, int type) {
    std::vector<Segment> segments;
    for (int end = chain_.units;;) {
      const Label label = block(node(set, type))[static_cast<size_t>(end)];
      segments.push_back({type, label.from_type < 0 ? 0 : label.from_units, end});
      if (label.from_type < 0) break;
      set -= index_.stride[static_cast<size_t>(type)];
      type = label.from_type;
      end = label.from_units;
    }
    std::reverse(segments.begin(), segments.end());
    return segments;
  }

  const Chain& chain_;
  const CountIndex index_;
  std::vector<double> weight_;          // [units + 1] weight of the units before u
  size_t width_ = 0;                    // types, padded
  std::vector<double> hop_to_;          // [to type][width_ from types]
  double price_ = 0;                    // of a unit of weight 1, in seconds
  std::vector<Priced> middle_, final_;  // [types]
  std::vector<double> rest_;            // [sets][width_]
  std::vector<int32_t> block_of_;       // [sets][width_] index into blocks_ or -1
  std::vector<std::vector<Label>> blocks_;
  std::priority_queue<Open> open_;
  std::vector<Segment> best_;
  double best_seconds_ = kUnusable;
  double open_bound_ = 0;  // no solution is better than this
  const size_t labels_max_;
  size_t labels_ = 0;
};

}  // namespace

LapResult solve_lap(const Chain& chain, const std::vector<Segment>& known, size_t labels_max) {
  return LapSearch(chain, known, labels_max).run();
}

}  // namespace shoal
