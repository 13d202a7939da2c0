#include "planner/busy_limits.h"

#include <algorithm>
#include <iterator>

namespace shoal {

std::vector<double> BusyLimits::candidates() const {
  std::vector<double> values;
  const auto add = [&](const std::vector<double>& list) {
    std::copy_if(list.begin(), list.end(), std::back_inserter(values),
                 [](double v) { return v != kUnusable; });
  };
  add(chain_.busy_hop), add(chain_.busy_entry), add(chain_.busy_finish);
  for (int t = 0; t < chain_.types; ++t)
    for (int begin = 0; begin < chain_.units; ++begin)
      for (int end = begin + 1; end <= chain_.reach_of(t, begin); ++end)
        values.push_back(chain_.busy(t, begin, end));
  std::sort(values.begin(), values.end());
  // Of values that only rounding tells apart the greatest stands for all.
  std::vector<double> distinct;
  for (double value : values) {
    if (!distinct.empty() && value <= distinct.back() * (1 + 1e-12)) distinct.pop_back();
    distinct.push_back(value);
  }
  return distinct;
}

void BusyLimits::set(double limit) {
  const auto units = static_cast<size_t>(chain_.units), types = static_cast<size_t>(chain_.types);
  limit_ = limit;
  reach_.assign(types * units, 0);
  start_.assign(types * units, -1);
  longest_.assign(types, 0);
  for (int t = 0; t < chain_.types; ++t) {
    int end = 0, start = -1;
    for (int begin = 0; begin < chain_.units; ++begin) {
      end = std::max(end, begin);
      while (end < chain_.reach_of(t, begin) && chain_.busy(t, begin, end + 1) <= limit) ++end;
      if (end > begin) start = begin;
      const size_t i = Chain::at(t, begin, chain_.units);
      reach_[i] = static_cast<int16_t>(end);
      start_[i] = static_cast<int16_t>(start);
      longest_[static_cast<size_t>(t)] = std::max(longest_[static_cast<size_t>(t)], end - begin);
    }
  }
}

size_t BusyLimits::first_plausible(const std::vector<double>& values) {
  size_t low = 0, high = values.size();
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    set(values[middle]);
    int sum = 0;
    for (int t = 0; t < chain_.types; ++t)
      sum += longest_[static_cast<size_t>(t)] * std::max(chain_.later_count(t), chain_.may_begin(t) ? 1 : 0);
    if (sum >= chain_.units) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

}  // namespace shoal
