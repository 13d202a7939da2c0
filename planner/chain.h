// The planning problem as the solvers see it: a chain of units 0..units-1 to be cut into contiguous segments,
// each given to another device. Devices that are alike (same profile, interchangeable links) are one *type*
// with a count, so that a set of used devices is a vector of counts, numbered in mixed radix.
//
// Unit 0 is the embedding, unit i + 1 is layer i, the last unit is the output head; where KeepOnHead::ends()
// the output head and the last layers that stay with it are not in the chain: they are the head device's, and
// their cost is part of `finish`.
//
// Feasible segments are hereditary: what lies inside a feasible segment is feasible. The solvers depend on
// that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "planner/cost_model.h"

namespace shoal {

// Types that the solvers look at together in their inner loops, in registers.
inline constexpr size_t kLanes = 8;

// A segment of a solution: units [begin, end) on one device of `type`.
struct Segment {
  int type;
  int begin;
  int end;
};

struct Chain {
  int units = 0;
  int types = 0;
  bool head_first = false;                // the first segment is the head's
  int head_units = 1;                     // and has at least so many units
  int head_type = -1;                     // -1: the head takes no stage
  std::vector<std::vector<int>> members;  // [types] device indices

  // Lap costs (seconds) and what limits the full pipeline (seconds a step keeps the device or link busy).
  std::vector<double> compute;        // [types][units + 1] seconds of units before u
  std::vector<double> hop;            // [from type][to type] hidden between two devices
  std::vector<double> entry, finish;  // [types] before the first segment, after the last
  std::vector<double> busy_extra;     // [types] busy besides the segment (the end that is on the head)
  std::vector<double> busy_hop, busy_entry, busy_finish;
  std::vector<double> unit_bytes;  // [units] memory of a layer with its KV cache; 0 for the two ends
  std::vector<int> reach;          // [types][units] furthest end of a segment beginning there; == begin: none

  int count(int type) const { return static_cast<int>(members[static_cast<size_t>(type)].size()); }
  double seconds(int type, int begin, int end) const {
    return compute[at(type, end, units + 1)] - compute[at(type, begin, units + 1)];
  }
  double busy(int type, int begin, int end) const {
    return seconds(type, begin, end) + busy_extra[static_cast<size_t>(type)];
  }
  int reach_of(int type, int begin) const { return reach[at(type, begin, units)]; }
  double hop_of(int from, int to) const { return hop[at(from, to, types)]; }
  double busy_hop_of(int from, int to) const { return busy_hop[at(from, to, types)]; }
  int first_units_min() const { return head_units; }
  bool may_begin(int type) const { return !head_first || type == head_type; }
  // Devices of a type that may follow the first: the head never does when it must be first.
  int later_count(int type) const { return head_first && type == head_type ? 0 : count(type); }

  static size_t at(int row, int column, int columns) {
    return static_cast<size_t>(row) * static_cast<size_t>(columns) + static_cast<size_t>(column);
  }
};

// What the head has as a last stage where KeepOnHead::ends(), and its memory beside the head's first stage.
UnitRange end_on_head(const PlanInput& input);
uint64_t end_on_head_bytes(const PlanInput& input, const CostModel& cost);

// The chain for `input` with steps of `rows` rows.
Chain make_chain(const PlanInput& input, const CostModel& cost, int rows);

// The same chain, without whatever would keep a device or link busy longer than `seconds`.
Chain limit_busy(Chain chain, double seconds);

double lap_seconds(const Chain& chain, const std::vector<Segment>& segments);
double busiest_seconds(const Chain& chain, const std::vector<Segment>& segments);

// The best cuts for a given order of types, by exact dynamic programming over the units; nullopt: none is
// feasible.
std::optional<std::vector<Segment>> cut_for_lap(const Chain& chain, const std::vector<int>& order);
std::optional<std::vector<Segment>> cut_for_busiest(const Chain& chain, const std::vector<int>& order);

// Sets x types beyond which a search would not end in reasonable time and memory.
inline constexpr size_t kSearchStatesMax = size_t{1} << 25;

bool search_fits(const Chain& chain);

// Numbers sets of used devices: `stride[t]` is what one more device of type t adds. `fits` is false, and
// nothing is numbered, if sets x types exceed kSearchStatesMax; otherwise types fit a 32-bit mask.
struct CountIndex {
  explicit CountIndex(const Chain& chain);
  bool has_room(size_t set, int type) const { return room[set] >> type & 1; }
  bool contains(size_t set, int type) const { return used[set] >> type & 1; }
  std::vector<size_t> stride, radix;
  std::vector<uint32_t> room;  // [sets] bit t: another device of type t is free
  std::vector<uint32_t> used;  // [sets] bit t: one is in the set
  size_t sets = 1;
  bool fits = true;
};

}  // namespace shoal
