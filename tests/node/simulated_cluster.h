// A head, its nodes, the network between them and their clock in one thread and a few milliseconds, from a
// seed. What decides is the program's own code: Coordinator with Scheduler, CacheSlots and Sampler,
// Membership, Recovery, the planner, layouts as they cross the wire. What is simulated is time, computing,
// connections as TCP makes them (in order, reliable until they end, silent while a link is cut) and faults:
// processes killed, stopped and slowed, links cut both ways and one way, messages of an epoch that is over,
// numbers that are not finite and frames that are damaged, nodes that swallow steps.
//
// A "model" whose next token depends on every token before it stands for the real one, so that an answer that
// lost, repeated or mixed up anything is another answer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shoal::test {

struct SimulatedFaults {
  int kills = 0, stops = 0, cuts = 0, one_way_cuts = 0, slowdowns = 0, drains = 0;
  bool flapping = false;                  // one node is killed again and again
  int glitches = 0, damages = 0;          // once: a step not finite, a frame damaged
  bool broken = false, bad_wire = false;  // for seconds: all that one node computes, all between two
  int swallowers = 0;  // from a moment on, for good: no step that comes to them is answered
};

struct SimulatedClusterRun {
  std::vector<std::string> wrong;  // what must not be, in words; empty: all was well
  std::vector<std::string> log;    // what the cluster told, with times
  int answered = 0, refused = 0, cancelled = 0;
  int lost = 0, resumed = 0, stale = 0;
  int faults = 0, suspects = 0, cleared = 0;
  uint64_t replayed = 0;
  double slowest_notice_s = 0;  // of a node that stopped or was cut off
  double healthy_after_s = 0;   // after the last fault was over: until a request was answered
};

SimulatedFaults faults_of(uint64_t seed);
SimulatedClusterRun simulate_cluster(uint64_t seed, const SimulatedFaults& faults);

}  // namespace shoal::test
