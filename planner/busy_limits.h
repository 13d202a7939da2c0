// What a limit T on the busiest device and link leaves of a chain: how far a segment of each type can reach,
// and which values T is worth trying. Owned by one search; the chain must outlive it.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/chain.h"

namespace shoal {

class BusyLimits {
 public:
  explicit BusyLimits(const Chain& chain) : chain_(chain) {}

  // Every value that the least busiest time can have, ascending.
  std::vector<double> candidates() const;
  // The first of `values` at which the devices can hold all units, if links and order are ignored. Leaves the
  // limit anywhere.
  size_t first_plausible(const std::vector<double>& values);
  void set(double limit);

  int longest(int type) const { return longest_[static_cast<size_t>(type)]; }
  // Furthest end of a segment of `type` that begins at `begin`; == begin: none.
  int reach(int type, int begin) const { return reach_[Chain::at(type, begin, chain_.units)]; }
  // The last unit at or before `unit` where a segment of `type` can begin; -1: none.
  int start(int type, int unit) const { return start_[Chain::at(type, unit, chain_.units)]; }
  bool may_enter(int type) const {
    return chain_.may_begin(type) && chain_.busy_entry[static_cast<size_t>(type)] <= limit_ &&
           reach(type, 0) >= chain_.first_units_min();
  }
  bool may_follow(int from, int to) const {
    return longest(to) > 0 && chain_.busy_hop_of(from, to) <= limit_;
  }
  bool may_finish(int type) const { return chain_.busy_finish[static_cast<size_t>(type)] <= limit_; }

 private:
  const Chain& chain_;
  double limit_ = 0;
  std::vector<int16_t> reach_, start_;  // [types][units]
  std::vector<int> longest_;            // [types] units of the longest segment
};

}  // namespace shoal
