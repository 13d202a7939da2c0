#include "planner/energy.h"

#include <algorithm>
#include <queue>

#include "base/error.h"
#include "base/units.h"
#include "planner/device_kinds.h"
#include "planner/planner.h"
#include "planner/reasons.h"

namespace shoal {
namespace {

constexpr double kSame = 1 - 1e-12;

// Every plan that uses at least `low` and at most `high` devices of each kind.
struct Branch {
  std::vector<int> low, high;
  std::vector<int> used;  // of each kind, by the plan that gave the bound
  double bound = 0;       // joules: no plan of the branch takes less
};

struct HigherBound {
  bool operator()(const Branch& a, const Branch& b) const { return a.bound > b.bound; }
};

class EnergySearch {
 public:
  EnergySearch(const PlanInput& input, int branches_max)
      : input_(input), kinds_(device_kinds(input)), branches_left_(branches_max) {}

  Plan run() {
    PlanInput fastest = input_;
    fastest.objective = Objective::kLatency;
    const Plan start = make_plan(fastest);
    shortest_lap_ = start.predicted.seconds_per_token / (1 + start.gap);
    keep_if_better(start);
    Branch root;
    for (const std::vector<int>& members : kinds_) {
      const bool needed =
          input_.constraints.keep_on_head.begins() && members.front() == input_.constraints.head;
      root.low.push_back(needed ? 1 : 0);
      root.high.push_back(static_cast<int>(members.size()));
    }
    visit(std::move(root));
    while (!open_.empty() && branches_left_ > 0) {
      const Branch branch = open_.top();
      if (branch.bound >= joules_ * kSame) break;
      open_.pop();
      split(branch);
    }
    double bound = std::min(joules_, closed_bound_);
    if (!open_.empty()) bound = std::min(bound, open_.top().bound);
    best_.gap = bound < joules_ * kSame ? joules_ / bound - 1 : 0;
    return std::move(best_);
  }

 private:
  double idle_of(size_t kind) const {
    return input_.devices[static_cast<size_t>(kinds_[kind].front())].idle_watts;
  }

  void keep_if_better(const Plan& plan) {
    std::vector<StageAssignment> stages = plan.stages;
    const double joules = evaluate(input_, stages).joules_per_token;
    if (joules < joules_) joules_ = joules, best_ = plan;
  }

  // The latency problem whose value is the least joules of a plan that idles at `idle` watts at least: the
  // counted devices idle all the lap, and each other one that the plan enters for the shortest lap there is,
  // at least. (The head is entered on the way home too, so nothing is charged there.)
  PlanInput weighted(const Branch& branch, double idle) const {
    PlanInput problem = input_;
    problem.objective = Objective::kLatency;
    std::vector<double> entering(input_.devices.size(), 0);
    for (size_t k = 0; k < kinds_.size(); ++k) {
      for (size_t i = static_cast<size_t>(branch.low[k]); i < kinds_[k].size(); ++i) {
        if (kinds_[k][i] != input_.constraints.head)
          entering[static_cast<size_t>(kinds_[k][i])] = idle_of(k) * shortest_lap_;
      }
    }
    for (size_t k = 0; k < kinds_.size(); ++k)
      for (size_t i = static_cast<size_t>(branch.high[k]); i < kinds_[k].size(); ++i)
        problem.constraints.excluded.push_back(kinds_[k][i]);
    for (DeviceProfile& device : problem.devices) {
      const double watts = idle + device.busy_watts - device.idle_watts;
      for (RowSeconds& point : device.decode_layer) point.seconds *= watts;
      for (RowSeconds& point : device.output_head) point.seconds *= watts;
      device.embedding_row_seconds *= watts;
    }
    for (int a = 0; a < problem.links.devices(); ++a) {
      for (int b = 0; b < problem.links.devices(); ++b) {
        LinkProfile link = problem.links.at(a, b);
        if (a == b || link.bytes_per_s <= 0) continue;
        link.latency_s *= idle;
        link.latency_s += entering[static_cast<size_t>(b)];
        link.bytes_per_s = idle > 0 ? std::min(1e300, link.bytes_per_s / idle) : 1e300;
        problem.links.set(a, b, link);
      }
    }
    return problem;
  }

  std::vector<int> used_of(const std::vector<StageAssignment>& stages) const {
    std::vector<int> used;
    for (const std::vector<int>& members : kinds_) {
      used.push_back(static_cast<int>(std::count_if(members.begin(), members.end(), [&](int device) {
        return std::any_of(stages.begin(), stages.end(),
                           [&](const StageAssignment& stage) { return stage.device == device; });
      })));
    }
    return used;
  }

  // Bounds the branch, keeps its plan if it is the best so far, and the branch if it may hold a better one.
  void visit(Branch branch) {
    --branches_left_;
    double idle = 0;
    for (size_t k = 0; k < kinds_.size(); ++k) idle += branch.low[k] * idle_of(k);
    Plan found;
    try {
      found = make_plan(weighted(branch, idle));
    } catch (const SetupError&) {
      return;  // nothing fits into so few devices
    }
    branch.bound = found.predicted.seconds_per_token / (1 + found.gap);
    const bool proven = found.gap == 0;
    branch.used = used_of(found.stages);
    keep_if_better(found);
    if (branch.bound >= joules_ * kSame) return;
    if (widest_choice(branch).second > 0) {
      open_.push(std::move(branch));
    } else if (!proven) {
      // Only devices that the bound counts: splitting would not raise it, the solver itself left it open.
      closed_bound_ = std::min(closed_bound_, branch.bound);
    }
  }

  // The kind of which the plan idles most beyond what the bound counts, and how many watts.
  std::pair<size_t, double> widest_choice(const Branch& branch) const {
    std::pair<size_t, double> widest{0, 0};
    for (size_t k = 0; k < kinds_.size(); ++k) {
      const double watts = (branch.used[k] - branch.low[k]) * idle_of(k);
      if (watts > widest.second) widest = {k, watts};
    }
    return widest;
  }

  void split(const Branch& branch) {
    const size_t kind = widest_choice(branch).first;
    const int middle = branch.low[kind] + (branch.used[kind] - branch.low[kind] + 1) / 2;
    Branch fewer = branch, more = branch;
    fewer.high[kind] = middle - 1;
    more.low[kind] = middle;
    visit(std::move(fewer));
    visit(std::move(more));
  }

  const PlanInput& input_;
  std::vector<std::vector<int>> kinds_;
  int branches_left_;
  double shortest_lap_ = 0;
  std::priority_queue<Branch, std::vector<Branch>, HigherBound> open_;
  Plan best_;
  double joules_ = 1e300;
  double closed_bound_ = 1e300;
};

void check_watts(const PlanInput& input) {
  for (int device = 0; device < static_cast<int>(input.devices.size()); ++device) {
    const DeviceProfile& profile = input.devices[static_cast<size_t>(device)];
    if (may_take_stage(input, device) && profile.busy_watts <= 0)
      throw SetupError(
          "plan: objective energy: node " + profile.name +
          " has no busy-watts; give idle-watts and busy-watts for each node of the cluster file");
  }
}

}  // namespace

Plan least_energy_plan(const PlanInput& input, int branches_max) {
  check_watts(input);
  Plan plan = EnergySearch(input, branches_max).run();
  plan.objective = Objective::kEnergy;
  plan.predicted = evaluate(input, plan.stages);
  plan.reasons = energy_reasons(input, plan.stages);
  return plan;
}

}  // namespace shoal
