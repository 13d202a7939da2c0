#include "planner/lap_bound.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace shoal {
namespace {

constexpr size_t kCountsMax = 512;  // tables of one relaxation
constexpr int kPatience = 6;        // steps without a better bound before they get shorter
constexpr double kFirstStep = 1.2;  // of the step that would close the gap if the bound were linear
constexpr double kLaterStep = 0.4;  // the same once types are counted: the prices are nearly right
constexpr double kShorter = 0.6;
constexpr double kStepMin = 1e-3;
constexpr double kGuessedGap = 0.1;  // while no lap is known
constexpr int kCountedAtOnce = 3;

// kLanes numbers in registers of two, by the compiler's vector extension: of plain loops over an array it
// makes scalar code here. Every operation is that of plain doubles.
typedef double Pair __attribute__((vector_size(16)));
constexpr size_t kPairs = kLanes / 2;
using Lanes = std::array<Pair, kPairs>;

inline Pair load(const double* from) {
  Pair pair;
  std::memcpy(&pair, from, sizeof pair);
  return pair;
}

inline void store(const Lanes& lanes, double* to) {
  for (size_t p = 0; p < kPairs; ++p) std::memcpy(to + 2 * p, &lanes[p], sizeof(Pair));
}

inline void take_less(Pair& least, Pair value) {
  least = value < least ? value : least;
}

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
  fill_segments();
  fill_usable();
}

int LapBound::affordable(int steps) const {
  constexpr double kUsual = 16.0 * 82 * (82 + 16);
  const double size = static_cast<double>(width_) * chain_.units * (longest_ + chain_.types);
  return std::clamp(static_cast<int>(steps * kUsual / size), 5, steps);
}

void LapBound::fill_segments() {
  const auto types = static_cast<size_t>(chain_.types);
  longest_of_.assign(types, 0);
  for (size_t t = 0; t < types; ++t)
    for (int begin = 0; begin < chain_.units; ++begin)
      longest_of_[t] = std::max(longest_of_[t], chain_.reach_of(static_cast<int>(t), begin) - begin);
  for (int longest : longest_of_) longest_ = std::max(longest_, longest);
  segments_.assign(static_cast<size_t>(chain_.units * longest_) * width_, kUnusable);
  last_.assign(static_cast<size_t>(chain_.units) * width_, kUnusable);
  for (int begin = 0; begin < chain_.units; ++begin) {
    const int units_min = begin == 0 ? chain_.first_units_min() : 1;
    for (size_t t = 0; t < types; ++t) {
      const int type = static_cast<int>(t), reach = chain_.reach_of(type, begin);
      if (begin == 0 ? !chain_.may_begin(type) : chain_.later_count(type) == 0) continue;
      for (int end = begin + units_min; end <= std::min(reach, chain_.units - 1); ++end)
        segments_[static_cast<size_t>(begin * longest_ + end - begin - 1) * width_ + t] =
            chain_.seconds(type, begin, end);
      if (reach == chain_.units && reach - begin >= units_min)
        last_[static_cast<size_t>(begin) * width_ + t] =
            chain_.seconds(type, begin, reach) + chain_.finish[t];
    }
  }
}

// What each combination of counts leaves.
void LapBound::fill_usable() {
  closed_.assign(counts_ * width_, 0);
  free_units_.assign(counts_, 0);
  used_units_.assign(counts_, 0);
  for (size_t counts = 0; counts < counts_; ++counts)
    for (size_t t = 0; t < radix_.size(); ++t) {
      const int type = static_cast<int>(t),
                all = std::max(chain_.later_count(type), chain_.may_begin(type) ? 1 : 0);
      const int used = counted(t) ? static_cast<int>(counts / stride_[t] % radix_[t]) : 0;
      if (counted(t) && used + 1 == static_cast<int>(radix_[t])) closed_[counts * width_ + t] = kUnusable;
      free_units_[counts] += (all - used) * longest_of_[t];
      used_units_[counts] += (counted(t) ? used : all) * longest_of_[t];
    }
}

// `rest` [width_ last types]: what follows when segments from `begin` on may begin with `counts`. Each type's
// is kept with the counts before its own segment, where fill_row looks for it.
void LapBound::store_rest(size_t counts, int begin, const double* rest) {
  for (size_t t = 0; t < radix_.size(); ++t)
    if (!counted(t) || counts / stride_[t] % radix_[t] > 0)
      rest_[row(counts - stride_[t], begin) + t] = rest[t];
}

// The tables for segments beginning at unit `begin`; those of later units and of larger counts are filled.
void LapBound::fill_row(size_t counts, int begin) {
  double* through = through_.data() + row(counts, begin);
  const double* last = last_.data() + static_cast<size_t>(begin) * width_;
  const double* segment = segments_.data() + static_cast<size_t>(begin * longest_) * width_;
  const double* rest = rest_.data() + row(counts, begin + 1);
  const size_t ends = static_cast<size_t>(std::min(longest_, chain_.units - 1 - begin)) * width_;
  for (size_t first = 0; first < width_; first += kLanes) {
    Lanes least;
    for (size_t p = 0; p < kPairs; ++p) least[p] = load(last + first + 2 * p);
    for (size_t i = first; i < ends; i += width_)
      for (size_t p = 0; p < kPairs; ++p)
        take_less(least[p], load(segment + i + 2 * p) + load(rest + i + 2 * p));
    store(least, through + first);
  }
  const double* closed = &closed_[counts * width_];
  for (size_t t = 0; t < radix_.size(); ++t) through[t] += closed[t] + price_[t];
}

void LapBound::fill() {
  const size_t size = row(counts_, 0);
  if (rest_.size() != size) through_.assign(size, kUnusable);
  rest_.assign(size, kUnusable);
  std::vector<double> rest(width_);
  for (size_t counts = counts_; counts-- > 0;) {
    for (int begin = chain_.units - 1; begin > 0; --begin) {
      if (free_units_[counts] < chain_.units - begin || used_units_[counts] < begin) continue;
      fill_row(counts, begin);
      const double* through = through_.data() + row(counts, begin);
      for (size_t first = 0; first < width_; first += kLanes) {
        Lanes least;
        least.fill(Pair{kUnusable, kUnusable});
        for (size_t t = 0; t < radix_.size(); ++t) {
          const double* hop = &hop_to_[t * width_ + first];
          const Pair whole = {through[t], through[t]};
          for (size_t p = 0; p < kPairs; ++p) take_less(least[p], load(hop + 2 * p) + whole);
        }
        store(least, &rest[first]);
      }
      store_rest(counts, begin, rest.data());
    }
  }
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
    int end = -1;
    double least = kUnusable;
    for (int e = begin + (begin == 0 ? chain_.first_units_min() : 1); e <= chain_.reach_of(type, begin);
         ++e) {
      const double after =
          e == chain_.units ? chain_.finish[static_cast<size_t>(type)] : rest(counts, e, type);
      const double value = chain_.seconds(type, begin, e) + after;
      if (value < least) least = value, end = e;
    }
    path.push_back({type, begin, end});
    if (end == chain_.units) break;
    counts += stride_[static_cast<size_t>(type)];
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
