// Lower bounds for the lap search, by state-space relaxation with prices on devices.
//
// A relaxed path is a solution that may use a type more often than it has devices, at a price per use:
//     seconds of the path + sum over types of price x (uses - devices)
// is for prices >= 0 at most the seconds of any true solution. Without sets of used devices the least relaxed
// path is a shortest path over (units covered, last type), thousands of times smaller than the problem;
// memory, links and cuts stay exact in it. Prices are tuned by subgradient steps. Where prices do not
// suffice, types become *counted*: the relaxation then keeps how many of them were used and never uses too
// many, at the cost of a table per combination of counts. (Christofides, Mingozzi and Toth 1981 for the
// relaxation, Held and Karp 1971 for the prices, Righini and Salani 2008 for counting only what needs it.)
//
// Owned by one search, not shared between threads; the chain must outlive it.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "planner/chain.h"

namespace shoal {

class LapBound {
 public:
  // Is told the relaxed path of each tuning step, in which types may repeat; returns the best lap known.
  using PathSeen = std::function<double(const std::vector<Segment>&)>;

  explicit LapBound(const Chain& chain);

  // Tunes the prices in at most `steps` steps and leaves the tables at the best ones. `upper`: the best lap
  // known. False: there is no relaxed path, so no solution.
  bool tune(int steps, double upper, const PathSeen& seen);
  // Counts the types that the last tuning overused most. False: none was, or the tables would be too large.
  bool count_more();

  double root() const { return root_; }  // no lap is shorter
  // Steps of tuning that take about as long as `steps` at 16 types and 32 layers.
  int affordable(int steps) const;

  double price(int type) const { return price_[static_cast<size_t>(type)]; }
  // What one more use of `type` adds to the number of the counts.
  size_t stride(int type) const { return stride_[static_cast<size_t>(type)]; }
  // Least seconds and prices to cover the units from `units` on, after a segment of `last` ends there before
  // which the counts were `counts`.
  double rest(size_t counts, int units, int last) const {
    return rest_[row(counts, units) + static_cast<size_t>(last)];
  }
  // The same when a segment of `type` begins there, without the hop to it.
  double through(size_t counts, int units, int type) const {
    return through_[row(counts, units) + static_cast<size_t>(type)];
  }

 private:
  size_t row(size_t counts, int units) const {
    return (counts * (static_cast<size_t>(chain_.units) + 1) + static_cast<size_t>(units)) * width_;
  }
  bool counted(size_t type) const { return radix_[type] > 1; }
  void fill_segments();
  void fill_usable();
  void fill();
  void fill_row(size_t counts, int begin);
  void store_rest(size_t counts, int begin, const double* rest);
  double least_first(int& type) const;
  std::vector<Segment> least_path() const;

  const Chain& chain_;
  size_t width_ = 0;                    // types, padded for the inner loops
  std::vector<double> segments_;        // seconds of [begin][end - begin - 1][width_], longest_ ends each
  std::vector<double> last_;            // [units][width_] seconds of a last segment, with finish
  std::vector<double> hop_to_;          // [to type][width_ from types]; unusable where a type repeats alone
  int longest_ = 0;                     // units of the longest segment
  std::vector<int> longest_of_;         // [types]
  std::vector<double> price_;           // [types] seconds per use
  std::vector<size_t> stride_, radix_;  // [types] stride 0 and radix 1: not counted
  std::vector<double> rest_, through_;  // [counts][units + 1][width_]
  std::vector<double> closed_;          // [counts][width_] 0, or kUnusable: no device of the type is free
  std::vector<int> free_units_, used_units_;  // [counts] that free devices, or used ones, can hold
  std::vector<int> excess_;                   // [types] uses beyond the devices during the last tuning
  size_t counts_ = 1;
  double root_ = 0;
};

}  // namespace shoal
