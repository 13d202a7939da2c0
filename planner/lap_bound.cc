#include "planner/lap_bound.h"

#include <algorithm>
#include <cmath>

namespace shoal {
namespace {

constexpr size_t kLanes = 4;        // types looked at together in the inner loop
constexpr size_t kCountsMax = 512;  // tables of one relaxation
constexpr int kPatience = 6;        // steps without a better bound before they get shorter
constexpr double kFirstStep = 1.2;  // of the step that would close the gap if the bound were linear
constexpr double kLaterStep = 0.4;  // the same once types are counted: the prices are nearly right
constexpr double kShorter = 0.6;
constexpr double kStepMin = 1e-3;
constexpr double kGuessedGap = 0.1;  // while no lap is known
constexpr int kCountedAtOnce = 2;

}  // namespace

LapBound::LapBound(const Chain& chain) : chain_(chain) {
  const auto types = static_cast<size_t>(chain.types);
  width_ = (types + kLanes - 1) / kLanes * kLanes;
  hop_to_.assign(types * width_, kUnusable);
  for (size_t to = 0; to < types; ++to)
    for (size_t from = 0; from < types; ++from)
      if (to != from || chain.count(static_cast<int>(to)) > 1)
        hop_to_[to * width_ + from] = chain.hop[from * types + to];
  price_.assign(types, 0);
  stride_.assign(types, 0);
  radix_.assign(types, 1);
  excess_.assign(types, 0);
  fill_usable();
}

int LapBound::affordable(int steps) const {
  constexpr double kUsual = 16.0 * 34 * 34;
  const double units = chain_.units, size = units * units * chain_.types * static_cast<double>(counts_);
  return std::clamp(static_cast<int>(steps * kUsual / size), 12, steps);
}

bool LapBound::may_use(size_t counts, int type) const {
  return usable_[counts] >> type & 1;
}

// Which types each combination of counts leaves devices of.
void LapBound::fill_usable() {
  usable_.assign(counts_, 0);
  for (size_t counts = 0; counts < counts_; ++counts)
    for (size_t t = 0; t < radix_.size(); ++t) {
      const bool left = radix_[t] == 1 || counts / stride_[t] % radix_[t] + 1 < radix_[t];
      if (left && chain_.later_count(static_cast<int>(t)) > 0) usable_[counts] |= uint32_t{1} << t;
    }
}

// What follows a segment of `type` that ends at `end`, when `counts` has the segment.
double LapBound::after(size_t counts, int end, int type) const {
  return end == chain_.units ? chain_.finish[static_cast<size_t>(type)] : rest(counts, end, type);
}

// The tables for segments beginning at unit `begin`; those of later units and of larger counts are filled.
void LapBound::fill_row(size_t counts, int begin) {
  const auto types = static_cast<size_t>(chain_.types);
  double* through = &through_[row(counts, begin)];
  std::fill(through, through + width_, kUnusable);
  const int units_min = begin == 0 ? chain_.first_units_min() : 1;
  for (int type = 0; type < chain_.types; ++type) {
    const auto t = static_cast<size_t>(type);
    const bool first_only = begin == 0 && chain_.head_first && type == chain_.head_type;
    if (begin == 0 ? !chain_.may_begin(type) : !may_use(counts, type)) continue;
    if (!first_only && !may_use(counts, type)) continue;
    const size_t with = counts + stride_[t];
    // Seconds of the units before `begin` are taken off once, after the loop.
    const double* before = &chain_.compute[Chain::at(type, 0, chain_.units + 1)];
    const double* rest = &rest_[row(with, 0) + t];
    const int reach = chain_.reach_of(type, begin), last = std::min(reach, chain_.units - 1);
    double least = reach == chain_.units ? before[reach] + chain_.finish[t] : kUnusable;
    for (int end = begin + units_min; end <= last; ++end)
      least = std::min(least, before[end] + rest[static_cast<size_t>(end) * width_]);
    least -= before[begin];
    through[t] = least + price_[t];
  }
  if (begin == 0) return;
  double* rest = &rest_[row(counts, begin)];
  std::fill(rest, rest + width_, kUnusable);
  for (size_t t = 0; t < types; ++t) {
    if (through[t] == kUnusable) continue;
    const double* hop = &hop_to_[t * width_];
    for (size_t k = 0; k < width_; k += kLanes)
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const double value = hop[k + lane] + through[t];
        rest[k + lane] = value < rest[k + lane] ? value : rest[k + lane];
      }
  }
}

void LapBound::fill() {
  const size_t size = row(counts_, 0);
  if (rest_.size() != size) {
    rest_.assign(size, kUnusable);
    through_.assign(size, kUnusable);
  }
  for (size_t counts = counts_; counts-- > 0;)
    for (int begin = chain_.units - 1; begin > 0; --begin) fill_row(counts, begin);
  fill_row(0, 0);
}

double LapBound::least_first(int& type) const {
  double least = kUnusable;
  type = -1;
  for (int t = 0; t < chain_.types; ++t) {
    const double value = chain_.entry[static_cast<size_t>(t)] + through(0, 0, t);
    if (value < least) least = value, type = t;
  }
  return least;
}

std::vector<Segment> LapBound::least_path() const {
  std::vector<Segment> path;
  int type = -1;
  least_first(type);
  size_t counts = 0;
  for (int begin = 0; type >= 0;) {
    counts += stride_[static_cast<size_t>(type)];
    int end = -1;
    double least = kUnusable;
    for (int e = begin + (begin == 0 ? chain_.first_units_min() : 1); e <= chain_.reach_of(type, begin);
         ++e) {
      const double value = chain_.seconds(type, begin, e) + after(counts, e, type);
      if (value < least) least = value, end = e;
    }
    path.push_back({type, begin, end});
    if (end == chain_.units) break;
    int next = -1;
    least = kUnusable;
    for (int t = 0; t < chain_.types; ++t) {
      const double value =
          hop_to_[static_cast<size_t>(t) * width_ + static_cast<size_t>(type)] + through(counts, end, t);
      if (value < least) least = value, next = t;
    }
    type = next;
    begin = end;
  }
  return path;
}

bool LapBound::tune(int steps, double upper, const PathSeen& seen) {
  const auto types = static_cast<size_t>(chain_.types);
  std::vector<double> best_price = price_;
  std::fill(excess_.begin(), excess_.end(), 0);
  double best = -kUnusable, scale = counts_ > 1 ? kLaterStep : kFirstStep;
  int stale = 0;
  bool at_best = false;
  for (int step = 0; step < steps && scale > kStepMin; ++step) {
    fill();
    int first = -1;
    double bound = least_first(first);
    if (first < 0) return false;
    for (size_t t = 0; t < types; ++t) bound -= price_[t] * chain_.later_count(static_cast<int>(t));
    const std::vector<Segment> path = least_path();
    upper = seen(path);
    at_best = bound > best;
    if (at_best) {
      best = bound, best_price = price_, stale = 0;
    } else if (++stale >= kPatience) {
      price_ = best_price, stale = 0, scale *= kShorter;
    }
    if (best >= upper * (1 - 1e-12)) break;
    std::vector<int> over(types, 0);
    for (const Segment& segment : path) ++over[static_cast<size_t>(segment.type)];
    double length = 0;
    for (size_t t = 0; t < types; ++t) {
      const int limit = chain_.later_count(static_cast<int>(t));
      over[t] = limit == 0 ? 0 : over[t] - limit;
      excess_[t] += std::max(0, over[t]);
      if (over[t] < 0 && price_[t] <= 0) over[t] = 0;
      length += over[t] * over[t];
    }
    if (length == 0) break;  // the path is a solution and its bound is exact
    const double target = upper < kUnusable ? upper : best + kGuessedGap * std::abs(best);
    const double factor = scale * (target - bound) / length;
    for (size_t t = 0; t < types; ++t) price_[t] = std::max(0.0, price_[t] + factor * over[t]);
    at_best = false;
  }
  if (!at_best) {
    price_ = best_price;
    fill();
  }
  root_ = best;
  return true;
}

bool LapBound::count_more() {
  bool more = false;
  for (int i = 0; i < kCountedAtOnce; ++i) {
    int most = -1;
    for (int t = 0; t < chain_.types; ++t) {
      const auto index = static_cast<size_t>(t);
      const size_t radix = static_cast<size_t>(chain_.later_count(t)) + 1;
      if (radix_[index] > 1 || excess_[index] == 0 || counts_ * radix > kCountsMax) continue;
      if (most < 0 || excess_[index] > excess_[static_cast<size_t>(most)]) most = t;
    }
    if (most < 0) break;
    const auto index = static_cast<size_t>(most);
    stride_[index] = counts_;
    radix_[index] = static_cast<size_t>(chain_.later_count(most)) + 1;
    counts_ *= radix_[index];
    more = true;
  }
  if (more) fill_usable();
  return more;
}

}  // namespace shoal
