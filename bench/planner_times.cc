// Prints how long the planner takes: distinct random devices and links, median and worst of 20 seeds. The
// times are the process's CPU time, which other load on the machine changes little; the planner is one thread
// and does no I/O.
//   planner_times            every size
//   planner_times 16 32      16 devices, 32 layers
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "planner/planner.h"
#include "planner/random_input.h"

namespace shoal {
namespace {

struct Times {
  double median_ms = 0, worst_ms = 0;
  int impossible = 0, unproven = 0;
};

double cpu_ms() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

Times measure(const sample::InputShape& shape, Objective objective, KeepOnHead keep) {
  constexpr int kSeeds = 20;
  std::vector<double> ms;
  Times times;
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    PlanInput input = sample::random_input(shape, 1000 + seed);
    input.objective = objective;
    input.constraints.keep_on_head = keep;
    const double start = cpu_ms();
    try {
      times.unproven += make_plan(input).gap > 0;
    } catch (const SetupError&) {
      ++times.impossible;
    }
    ms.push_back(cpu_ms() - start);
  }
  std::sort(ms.begin(), ms.end());
  times.median_ms = (ms[kSeeds / 2 - 1] + ms[kSeeds / 2]) / 2;
  times.worst_ms = ms.back();
  return times;
}

void print_row(int devices, int layers, Objective objective, KeepOnHead keep, bool tight, bool equal,
               double mbps) {
  sample::InputShape shape;
  shape.devices = devices;
  shape.layers = layers;
  shape.tightness = tight ? 1.4 : 2.5;
  shape.equal_layers = equal;
  shape.mbps_max = mbps;
  const Times times = measure(shape, objective, keep);
  std::printf("| %2d | %2d | %-10s | %-11s | %-6s | %-7s | %4.0f | %8.1f | %8.1f | %2d | %2d |\n", devices,
              layers, to_string(objective).data(), to_string(keep).data(), tight ? "tight" : "ample",
              equal ? "equal" : "unequal", mbps, times.median_ms, times.worst_ms, times.impossible,
              times.unproven);
  std::fflush(stdout);
}

}  // namespace
}  // namespace shoal

int main(int count, char** arguments) {
  using namespace shoal;
  std::printf(
      "| M  | N  | objective  | keep        | memory | layers  | Mbps | median ms | worst ms | no plan | "
      "unproven |\n");
  std::printf(
      "|----|----|------------|-------------|--------|---------|------|----------|----------|----|----|\n");
  std::vector<int> all_layers{32, 80}, all_devices{4, 8, 12, 16};
  if (count > 1) all_devices = {std::clamp(std::atoi(arguments[1]), 1, 20)};
  if (count > 2) all_layers = {std::clamp(std::atoi(arguments[2]), 1, 1024)};
  for (int layers : all_layers)
    for (int devices : all_devices)
      for (Objective objective : {Objective::kLatency, Objective::kThroughput})
        for (KeepOnHead keep : {KeepOnHead::kNone, KeepOnHead::kFirstLayer, KeepOnHead::kEnds})
          for (bool tight : {false, true})
            for (bool equal : {true, false})
              print_row(devices, layers, objective, keep, tight, equal, tight ? 1000 : 50);
}
