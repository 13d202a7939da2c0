// Rivals of the planner's own methods, for its table of times and results: an ant colony over device orders,
// and the two recurrences of EdgeShard (arXiv 2405.14371). Pure; any thread.
#pragma once

#include <vector>

#include "planner/chain.h"
#include "planner/types.h"

namespace shoal::rivals {

// Best value for `objective` that `ants` x `rounds` device orders reach, each cut exactly: transitions are
// drawn by pheromone, short hops and quick devices (Dorigo and Gambardella 1997). kUnusable: no plan found.
double ant_colony(const Chain& chain, Objective objective, int ants, int rounds, unsigned seed);

// EdgeShard's latency recurrence over (layer, device). Memory is checked for the run of layers at hand, as a
// state of (layer, device) allows, so a device that is left and entered again can hold more than fits.
struct RecurrencePlan {
  double seconds = kUnusable;
  bool overfull = false;  // some device is used twice
};
RecurrencePlan edgeshard_latency(const Chain& chain);

// EdgeShard's throughput recurrence g(layers, used devices, last device): units x 2^devices x devices states.
// kUnusable too where these are more than `states_max`.
double edgeshard_throughput(const Chain& chain, size_t states_max);

}  // namespace shoal::rivals
