// Proof that no solution keeps every device and link busy at most T, by state-space relaxation with prices on
// devices.
//
// A relaxed path covers all units within T, over usable links and within memory, but may use a type more
// often than it has devices, at a price per use. A true solution uses no type too often, so it pays at most
//     budget = sum over types of price x devices.
// If the cheapest relaxed path costs more for any prices >= 0, there is no true solution. Without sets of
// used devices that path is a shortest one over (units covered, last type). Prices begin in proportion to
// what a device can hold, where the proof is that all devices together cannot hold all units, and are tuned
// by subgradient steps. (The relaxation of lap_bound.h, for the question whether there is a solution at all.)
// Prices are small integers: sums are exact, and eight fit a vector register.
//
// Owned by one search, not shared between threads; the chain and the limits must outlive it.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "planner/busy_limits.h"
#include "planner/chain.h"

namespace shoal {

class BusyBound {
 public:
  // Is told the order of types of each tuning step's cheapest path, in which types may repeat; true: enough.
  using PathSeen = std::function<bool(const std::vector<int>&)>;

  BusyBound(const Chain& chain, const BusyLimits& limits);

  // True: no solution keeps within the limits as they are set now. Otherwise the tables are left at the
  // prices nearest to such a proof.
  bool rules_out(int steps, const PathSeen& seen);
  // Steps that take about as long as `steps` with 24 types and 80 layers.
  int affordable(int steps) const;

  int budget() const { return budget_; }
  int price(int type) const { return price_[static_cast<size_t>(type)]; }
  // The least price of what must follow a segment of `last` that ends at `covered` or before it.
  int rest(int covered, int last) const {
    return rest_[static_cast<size_t>(covered) * width_ + static_cast<size_t>(last)];
  }

 private:
  void fill_limits();
  void fill();
  void fill_row(int begin);
  int cheapest_first() const;
  std::vector<int> cheapest_path() const;
  int set_prices(const std::vector<double>& prices);

  const Chain& chain_;
  const BusyLimits& limits_;
  const size_t width_;                   // types, padded for the inner loops
  std::vector<int16_t> lengths_;         // [units][width_] of the longest segment that begins there; 0: none
  std::vector<int16_t> longest_;         // [units] the greatest of these
  std::vector<int16_t> barred_;          // [to type][width_ from types] 0: may follow, else kBarred
  std::vector<int16_t> rest_, through_;  // [units + 1][width_] after, and from, a segment there
  std::vector<int16_t> price_;           // [types]
  int budget_ = 0;
};

}  // namespace shoal
