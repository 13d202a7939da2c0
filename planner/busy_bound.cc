#include "planner/busy_bound.h"

#include <algorithm>
#include <cmath>

namespace shoal {
namespace {

constexpr int16_t kBarred = 16'000;   // and no price or sum of prices is more: two of them fit 16 bits
constexpr double kPathPrice = 8'000;  // about what the cheapest path costs
constexpr double kGoal = 0.01;        // of kPathPrice: how far beyond the budget a step aims
constexpr int kPatience = 5;          // steps without a better proof before they get shorter
constexpr double kFirstStep = 1.0, kShorter = 0.6, kStepMin = 0.02;

size_t padded(int types) {
  return (static_cast<size_t>(types) + kLanes - 1) / kLanes * kLanes;
}

}  // namespace

BusyBound::BusyBound(const Chain& chain, const BusyLimits& limits)
    : chain_(chain), limits_(limits), width_(padded(chain.types)) {
  const auto types = static_cast<size_t>(chain.types), units = static_cast<size_t>(chain.units);
  lengths_.resize(units * width_);
  longest_.resize(units);
  barred_.resize(types * width_);
  rest_.resize((units + 1) * width_);
  through_.resize((units + 1) * width_);
  price_.resize(types);
}

int BusyBound::affordable(int steps) const {
  constexpr double kUsual = 24.0 * 82 * (24 + 20);
  const double size = static_cast<double>(width_) * chain_.units * (chain_.types + 20);
  return std::clamp(static_cast<int>(steps * kUsual / size), 12, steps);
}

void BusyBound::fill_limits() {
  const int units = chain_.units;
  for (int begin = 0; begin < units; ++begin) {
    int16_t* length = &lengths_[static_cast<size_t>(begin) * width_];
    for (int t = 0; t < chain_.types; ++t) {
      const bool open = begin == 0 ? limits_.may_enter(t) : chain_.later_count(t) > 0;
      length[t] = static_cast<int16_t>(open ? limits_.reach(t, begin) - begin : 0);
    }
    longest_[static_cast<size_t>(begin)] = *std::max_element(length, length + width_);
  }
  for (int to = 0; to < chain_.types; ++to)
    for (int from = 0; from < chain_.types; ++from) {
      const bool alone = to == from && chain_.count(to) < 2;
      barred_[static_cast<size_t>(to) * width_ + static_cast<size_t>(from)] =
          alone || !limits_.may_follow(from, to) ? kBarred : int16_t{0};
    }
  int16_t* home = &rest_[static_cast<size_t>(units) * width_];
  std::fill_n(home, width_, kBarred);
  for (int t = 0; t < chain_.types; ++t)
    if (limits_.may_finish(t)) home[t] = 0;
}

// The cheapest continuation by a segment of each type that begins at `begin`.
void BusyBound::fill_row(int begin) {
  const auto row = static_cast<size_t>(begin) * width_;
  int16_t* through = &through_[row];
  const int16_t* lengths = &lengths_[row];
  std::fill_n(through, width_, kBarred);
  const int first = begin == 0 ? chain_.first_units_min() : 1;
  for (int16_t length = static_cast<int16_t>(first); length <= longest_[static_cast<size_t>(begin)];
       ++length) {
    const int16_t* rest = &rest_[row + static_cast<size_t>(length) * width_];
    for (size_t t = 0; t < width_; ++t) {
      const int16_t value = length <= lengths[t] ? rest[t] : kBarred;
      through[t] = value < through[t] ? value : through[t];
    }
  }
  for (size_t t = 0; t < price_.size(); ++t)
    through[t] = static_cast<int16_t>(std::min<int>(through[t] + price_[t], kBarred));
}

void BusyBound::fill() {
  for (int begin = chain_.units - 1; begin > 0; --begin) {
    fill_row(begin);
    const int16_t* through = &through_[static_cast<size_t>(begin) * width_];
    int16_t* rest = &rest_[static_cast<size_t>(begin) * width_];
    std::fill_n(rest, width_, kBarred);
    for (size_t t = 0; t < price_.size(); ++t) {
      if (through[t] >= kBarred) continue;
      const int16_t* barred = &barred_[t * width_];
      const int16_t whole = through[t];
      for (size_t k = 0; k < width_; ++k) {
        const int16_t value = barred[k] > whole ? barred[k] : whole;
        rest[k] = value < rest[k] ? value : rest[k];
      }
    }
  }
  fill_row(0);
}

int BusyBound::cheapest_first() const {
  return static_cast<int>(std::min_element(through_.begin(), through_.begin() + chain_.types) -
                          through_.begin());
}

// Of equally cheap continuations the one of the type used least so far.
std::vector<int> BusyBound::cheapest_path() const {
  std::vector<int> path{cheapest_first()}, uses(price_.size(), 0);
  for (int begin = 0;;) {
    const auto type = static_cast<size_t>(path.back());
    ++uses[type];
    const int reach = begin + lengths_[static_cast<size_t>(begin) * width_ + type];
    int end = reach;
    for (int e = reach; e >= begin + (begin == 0 ? chain_.first_units_min() : 1); --e)
      if (rest(e, path.back()) < rest(end, path.back())) end = e;
    if (end == chain_.units) return path;
    const int16_t* through = &through_[static_cast<size_t>(end) * width_];
    int next = -1;
    for (int t = 0; t < chain_.types; ++t) {
      if (std::max(through[t], barred_[static_cast<size_t>(t) * width_ + type]) != rest(end, path.back()))
        continue;
      if (next < 0 || uses[static_cast<size_t>(t)] < uses[static_cast<size_t>(next)]) next = t;
    }
    path.push_back(next);
    begin = end;
  }
}

// Rounded; returns what all devices together cost.
int BusyBound::set_prices(const std::vector<double>& prices) {
  budget_ = 0;
  for (size_t t = 0; t < price_.size(); ++t) {
    price_[t] = static_cast<int16_t>(std::lround(std::min<double>(prices[t], kBarred)));
    budget_ += price_[t] * chain_.later_count(static_cast<int>(t));
  }
  return budget_;
}

bool BusyBound::rules_out(int steps, const PathSeen& seen) {
  fill_limits();
  const size_t types = price_.size();
  std::vector<double> price(types, 0);
  for (size_t t = 0; t < types; ++t)
    if (chain_.later_count(static_cast<int>(t)) > 0)
      price[t] = kPathPrice * limits_.longest(static_cast<int>(t)) / chain_.units;
  std::vector<double> best_price = price;
  double best = -kUnusable, scale = kFirstStep;
  int stale = 0;
  for (int step = 0; step < steps && scale > kStepMin; ++step) {
    set_prices(price);
    fill();
    const int cost = through_[static_cast<size_t>(cheapest_first())];
    if (cost > budget_) return true;
    if (cost >= kBarred) {  // or more: too much to be counted
      for (double& p : price) p /= 2;
      continue;
    }
    const double value = cost - budget_;
    const std::vector<int> path = cheapest_path();
    if (seen(path)) return false;
    if (value > best) {
      best = value, best_price = price, stale = 0;
    } else if (++stale >= kPatience) {
      price = best_price, stale = 0, scale *= kShorter;
      continue;
    }
    std::vector<double> over(types, 0);
    for (int t : path) over[static_cast<size_t>(t)] += 1;
    double length = 0;
    for (size_t t = 0; t < types; ++t) {
      const int count = chain_.later_count(static_cast<int>(t));
      over[t] = count == 0 ? 0 : over[t] - count;
      if (over[t] < 0 && price[t] <= 0) over[t] = 0;
      length += over[t] * over[t];
    }
    if (length == 0) break;
    const double factor = scale * (kGoal * kPathPrice - value) / length;
    for (size_t t = 0; t < types; ++t) price[t] = std::max(0.0, price[t] + factor * over[t]);
    if (cost > 1.5 * kPathPrice)
      for (double& p : price) p *= kPathPrice / cost;
  }
  set_prices(best_price);
  fill();
  // A segment that ends earlier leaves no less to do.
  for (int covered = 2; covered <= chain_.units; ++covered)
    for (size_t t = 0; t < width_; ++t) {
      int16_t& rest = rest_[static_cast<size_t>(covered) * width_ + t];
      rest = std::min(rest, rest_[static_cast<size_t>(covered - 1) * width_ + t]);
    }
  return false;
}

}  // namespace shoal
