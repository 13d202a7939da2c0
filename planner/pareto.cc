#include "planner/pareto.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/units.h"
#include "planner/checks.h"
#include "planner/device_kinds.h"
#include "planner/planner.h"

namespace shoal {
namespace {

bool watts_known(const PlanInput& input) {
  for (int device = 0; device < static_cast<int>(input.devices.size()); ++device)
    if (may_take_stage(input, device) && input.devices[static_cast<size_t>(device)].busy_watts <= 0)
      return false;
  return true;
}

class Collector {
 public:
  explicit Collector(const PlanInput& input) : input_(input), energy_(watts_known(input)) {}

  // The plans of all objectives with these devices left out.
  void collect(const std::vector<int>& excluded) {
    for (const Objective objective : kObjectives) {
      // Energy chooses among sets of devices by itself: with all of them it is the best there is.
      if (objective == Objective::kEnergy && (!energy_ || !excluded.empty())) continue;
      PlanInput problem = input_;
      problem.objective = objective;
      problem.constraints.excluded.insert(problem.constraints.excluded.end(), excluded.begin(),
                                          excluded.end());
      try {
        add(make_plan(problem));
      } catch (const SetupError&) {
        if (excluded.empty() && objective == Objective::kLatency) throw;
      }
    }
  }

  std::vector<PlanCandidate> take() { return std::move(plans_); }

 private:
  void add(Plan plan) {
    for (const PlanCandidate& known : plans_)
      if (known.plan.stages == plan.stages) return;
    PlanCandidate candidate;
    candidate.service = predict_service(input_, plan.stages, input_.workload.concurrency);
    std::vector<int> used;
    for (const StageAssignment& stage : plan.stages)
      if (std::find(used.begin(), used.end(), stage.device) == used.end()) used.push_back(stage.device);
    candidate.devices = static_cast<int>(used.size());
    candidate.plan = std::move(plan);
    plans_.push_back(std::move(candidate));
  }

  const PlanInput& input_;
  bool energy_;
  std::vector<PlanCandidate> plans_;
};

bool beats(const PlanCandidate& a, const PlanCandidate& b) {
  const double ta = a.plan.predicted.seconds_per_token, tb = b.plan.predicted.seconds_per_token;
  const double ra = a.service.tokens_per_second, rb = b.service.tokens_per_second;
  const double ja = a.service.joules_per_token, jb = b.service.joules_per_token;
  const bool energy = ja > 0 && jb > 0;
  if (ta > tb || ra < rb || (energy && ja > jb)) return false;
  return ta < tb || ra > rb || (energy && ja < jb) || a.devices < b.devices;
}

double objective_value(const PlanInput& input, const PlanCandidate& candidate) {
  switch (input.objective) {
    case Objective::kThroughput:
      return -candidate.service.tokens_per_second;
    case Objective::kEnergy:
      return candidate.service.joules_per_token > 0 ? candidate.service.joules_per_token
                                                    : std::numeric_limits<double>::infinity();
    case Objective::kLatency:
      break;
  }
  return candidate.service.seconds_per_token;
}

// How far over its targets the worst of them is: 1 is met exactly.
double worst_ratio(const Targets& targets, const PlanCandidate& candidate) {
  double worst = 0;
  const ServicePrediction& service = candidate.service;
  if (targets.first_token_seconds > 0)
    worst = std::max(worst, service.first_token_seconds / targets.first_token_seconds);
  if (targets.seconds_per_token > 0)
    worst = std::max(worst, service.seconds_per_token / targets.seconds_per_token);
  if (targets.watts_max > 0)
    worst = std::max(worst, service.peak_watts > 0 ? service.peak_watts / targets.watts_max : 1e9);
  return worst;
}

std::string offer_name(const PlanInput& offer, size_t index) {
  return offer.model.name.empty() ? "model " + std::to_string(index + 1) : offer.model.name;
}

}  // namespace

PlanCandidates candidate_plans(const PlanInput& input) {
  check_input(input);
  PlanCandidates candidates;
  Collector collector(input);
  collector.collect({});
  if (!input.constraints.manual.empty()) {
    candidates.plans = collector.take();
    return candidates;
  }
  std::vector<std::vector<int>> kinds = device_kinds(input);
  const bool head_needed = input.constraints.keep_on_head.begins();
  std::erase_if(kinds, [&](const std::vector<int>& members) {
    return head_needed && members.front() == input.constraints.head;
  });
  double sets = 1;
  for (const std::vector<int>& members : kinds) sets *= static_cast<double>(members.size() + 1);
  candidates.all_sets = sets <= kCandidateSetsMax;
  if (candidates.all_sets) {
    std::vector<size_t> left_out(kinds.size(), 0);  // of each kind: an odometer over all sets
    for (size_t k = 0; k < kinds.size();) {
      if (++left_out[k] > kinds[k].size()) {
        left_out[k++] = 0;
        continue;
      }
      k = 0;
      std::vector<int> excluded;
      for (size_t kind = 0; kind < kinds.size(); ++kind)
        excluded.insert(excluded.end(), kinds[kind].begin(),
                        kinds[kind].begin() + static_cast<std::ptrdiff_t>(left_out[kind]));
      collector.collect(excluded);
    }
  } else {
    // The slowest devices first: each step leaves one more out.
    std::vector<int> order;
    for (const std::vector<int>& members : kinds) order.insert(order.end(), members.begin(), members.end());
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      const auto pace = [&](int d) {
        return input.devices[static_cast<size_t>(d)].decode_layer.front().seconds;
      };
      return pace(a) > pace(b);
    });
    const size_t stride = std::max<size_t>(1, order.size() / (kCandidateSetsMax / 4));
    for (size_t n = stride; n <= order.size(); n += stride)
      collector.collect(std::vector<int>(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(n)));
  }
  candidates.plans = collector.take();
  return candidates;
}

std::vector<PlanCandidate> pareto_front(const PlanCandidates& candidates) {
  std::vector<PlanCandidate> front;
  for (const PlanCandidate& candidate : candidates.plans) {
    const bool beaten = std::any_of(candidates.plans.begin(), candidates.plans.end(),
                                    [&](const PlanCandidate& other) { return beats(other, candidate); });
    if (!beaten) front.push_back(candidate);
  }
  std::stable_sort(front.begin(), front.end(), [](const PlanCandidate& a, const PlanCandidate& b) {
    return a.plan.predicted.seconds_per_token < b.plan.predicted.seconds_per_token;
  });
  // Plans of the same figures (the same kinds in another order): one is enough.
  const auto same = [](const PlanCandidate& a, const PlanCandidate& b) {
    return !beats(a, b) && !beats(b, a) &&
           a.plan.predicted.seconds_per_token == b.plan.predicted.seconds_per_token &&
           a.service.tokens_per_second == b.service.tokens_per_second;
  };
  front.erase(std::unique(front.begin(), front.end(), same), front.end());
  return front;
}

std::string missed_targets(const Targets& targets, const PlanCandidate& candidate) {
  const ServicePrediction& service = candidate.service;
  std::string text;
  const auto miss = [&](const std::string& what) { text += (text.empty() ? "" : ", ") + what; };
  if (targets.first_token_seconds > 0 && service.first_token_seconds > targets.first_token_seconds)
    miss("first token " + format_seconds(service.first_token_seconds) + " instead of " +
         format_seconds(targets.first_token_seconds));
  if (targets.seconds_per_token > 0 && service.seconds_per_token > targets.seconds_per_token)
    miss("a token " + format_seconds(service.seconds_per_token) + " instead of " +
         format_seconds(targets.seconds_per_token));
  if (targets.watts_max > 0 && service.peak_watts <= 0) {
    miss("the watts of its nodes are not known (idle-watts, busy-watts)");
  } else if (targets.watts_max > 0 && service.peak_watts > targets.watts_max) {
    miss(std::to_string(std::lround(service.peak_watts)) + " W instead of " +
         std::to_string(std::lround(targets.watts_max)) + " W");
  }
  return text;
}

TargetChoice choose_for_targets(std::span<const PlanInput> offers, const Targets& targets) {
  TargetChoice choice;
  for (size_t i = 0; i < offers.size(); ++i) {
    const PlanInput& offer = offers[i];
    PlanCandidates candidates;
    try {
      candidates = candidate_plans(offer);
    } catch (const SetupError& error) {
      choice.rejected.push_back(offer_name(offer, i) + ": " + error.what());
      continue;
    }
    const PlanCandidate* best = nullptr;
    const PlanCandidate* nearest = nullptr;
    for (const PlanCandidate& candidate : candidates.plans) {
      if (!nearest || worst_ratio(targets, candidate) < worst_ratio(targets, *nearest)) nearest = &candidate;
      if (!missed_targets(targets, candidate).empty()) continue;
      if (!best || objective_value(offer, candidate) < objective_value(offer, *best)) best = &candidate;
    }
    if (best) {
      choice.offer = i;
      choice.candidate = *best;
      choice.candidate.plan.for_targets = true;
      for (DeviceReason& reason : choice.candidate.plan.reasons) {
        // The candidate may come from a search without the device, whose reason would be that it was
        // excluded.
        if (!reason.used && may_take_stage(offer, reason.device))
          reason.text = "left out: of the plans tried that meet the targets, the best for " +
                        std::string(to_string(offer.objective)) + " does without it";
      }
      return choice;
    }
    choice.rejected.push_back(offer_name(offer, i) + ": the nearest of " +
                              std::to_string(candidates.plans.size()) +
                              " plans misses: " + missed_targets(targets, *nearest));
  }
  std::string text = "plan: none of the plans that were compared meets the targets at " +
                     std::to_string(offers.front().workload.concurrency) + " sequences";
  for (const std::string& reason : choice.rejected) text += "; " + reason;
  throw SetupError(text);
}

}  // namespace shoal
