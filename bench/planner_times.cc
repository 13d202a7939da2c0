// Prints the planner's times and gaps beside its rivals', one row for each kind of input. Times are the
// process's CPU time, which other load on the machine changes little; the planner is one thread and does no
// I/O.
//   planner_times            every row, 5 seeds each
//   planner_times 20         20 seeds each
//   planner_times 20 16      the rows of 16 devices alone
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "bench/planner_rivals.h"
#include "planner/planner.h"
#include "planner/random_input.h"

namespace shoal {
namespace {

constexpr size_t kRecurrenceStates = 25'000'000;
constexpr int kAnts = 20, kRounds = 50;

double cpu_ms() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

// One quantity over the seeds.
class Samples {
 public:
  void add(double value) { values_.push_back(value); }
  bool empty() const { return values_.empty(); }
  double worst() const { return *std::max_element(values_.begin(), values_.end()); }
  double median() const {
    std::vector<double> sorted = values_;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }

 private:
  std::vector<double> values_;
};

std::string text(const Samples& samples, const char* format, bool median = true) {
  if (samples.empty()) return "-";
  char line[64];
  if (median) {
    std::snprintf(line, sizeof line, format, samples.median(), samples.worst());
  } else {
    std::snprintf(line, sizeof line, format, samples.worst());
  }
  return line;
}

struct Row {
  int devices, layers, types;
  bool tight;
  Objective objective;
};

struct Tally {
  Samples ms, gap, ant_ms, ant_excess, recurrence_ms, recurrence_excess;
  int impossible = 0, unproven = 0, overfull = 0;
};

void add_rivals(const PlanInput& input, double ours, unsigned seed, Tally& tally) {
  const bool latency = input.objective == Objective::kLatency;
  const Chain chain = make_chain(input, CostModel(input), latency ? 1 : input.workload.concurrency);
  double start = cpu_ms();
  const double ants = rivals::ant_colony(chain, input.objective, kAnts, kRounds, seed);
  tally.ant_ms.add(cpu_ms() - start);
  tally.ant_excess.add(100 * (ants / ours - 1));
  if (chain.types < static_cast<int>(input.devices.size())) return;  // it knows no types
  start = cpu_ms();
  double recurrence = kUnusable;
  if (latency) {
    const rivals::RecurrencePlan plan = rivals::edgeshard_latency(chain);
    recurrence = plan.seconds;
    tally.overfull += plan.overfull;
  } else {
    recurrence = rivals::edgeshard_throughput(chain, kRecurrenceStates);
  }
  if (recurrence == kUnusable) return;
  tally.recurrence_ms.add(cpu_ms() - start);
  tally.recurrence_excess.add(100 * (recurrence / ours - 1));
}

void print_row(const Row& row, unsigned seeds) {
  sample::InputShape shape;
  shape.devices = row.devices;
  shape.layers = row.layers;
  shape.types = row.types;
  // Large fleets are not of ever smaller devices: beyond 16 the offered memory grows with their number.
  shape.tightness = (row.tight ? 1.4 : 2.5) * std::max(1.0, row.devices / 16.0);
  shape.mbps_max = row.tight ? 1000 : 50;
  Tally tally;
  for (unsigned seed = 0; seed < seeds; ++seed) {
    shape.equal_layers = seed % 2 == 0;
    PlanInput input = sample::random_input(shape, 1000 + seed);
    input.objective = row.objective;
    input.constraints.keep_on_head = KeepOnHead::kFirstLayer;
    const double start = cpu_ms();
    try {
      const Plan plan = make_plan(input);
      tally.ms.add(cpu_ms() - start);
      tally.unproven += plan.gap > 0;
      tally.gap.add(100 * plan.gap);
      const bool latency = row.objective == Objective::kLatency;
      add_rivals(input, latency ? plan.predicted.seconds_per_token : plan.predicted.bottleneck.seconds, seed,
                 tally);
    } catch (const SetupError&) {
      ++tally.impossible;
    }
  }
  const std::string types = row.types ? std::to_string(row.types) : "all";
  std::printf("| %d | %d | %s | %s | %s | %s | %d | %d | %s | %s | %s | %s | %s | %d |\n", row.devices,
              row.layers, types.c_str(), row.tight ? "tight" : "ample", to_string(row.objective).data(),
              text(tally.ms, "%.0f / %.0f").c_str(), tally.impossible, tally.unproven,
              text(tally.gap, "%.1f", false).c_str(), text(tally.ant_ms, "%.0f / %.0f").c_str(),
              text(tally.ant_excess, "%+.1f / %+.1f").c_str(),
              text(tally.recurrence_ms, "%.1f / %.1f").c_str(),
              text(tally.recurrence_excess, "%+.1f / %+.1f").c_str(), tally.overfull);
  std::fflush(stdout);
}

}  // namespace
}  // namespace shoal

int main(int count, char** arguments) {
  using namespace shoal;
  const auto seeds = static_cast<unsigned>(count > 1 ? std::clamp(std::atoi(arguments[1]), 1, 1000) : 5);
  const int only = count > 2 ? std::atoi(arguments[2]) : 0;
  std::printf(
      "| devices | layers | types | memory | objective | ms | no plan | unproven | worst gap %% | ants ms | "
      "ants %% over ours | recurrence ms | recurrence %% over ours | of these over-filled |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
  struct Size {
    int devices, types;
  };
  for (const Size& size : {Size{8, 0}, Size{12, 0}, Size{16, 0}, Size{24, 0}, Size{32, 0}, Size{64, 0},
                           Size{128, 0}, Size{256, 0}, Size{64, 3}})
    for (int layers : {32, 80})
      for (Objective objective : {Objective::kLatency, Objective::kThroughput})
        for (bool tight : {false, true})
          if (only == 0 || only == size.devices)
            print_row({size.devices, layers, size.types, tight, objective}, seeds);
}
