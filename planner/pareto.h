// Plans worth choosing between, and the best of them for a service's targets.
//
// Candidates are the plans of every objective for every number of devices of each kind, when those are few
// (kCandidateSetsMax sets); beyond that the plans of all devices and, leaving out one device after another,
// of fewer. Of these, the front holds those that no other beats in everything. The front is exact in the
// objectives' own optima; between them it is what these candidates give. Pure; any thread.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "planner/service.h"
#include "planner/types.h"

namespace shoal {

inline constexpr int kCandidateSetsMax = 128;

struct PlanCandidate {
  Plan plan;
  ServicePrediction service;  // at the workload's concurrency
  int devices = 0;            // with a stage
};

struct PlanCandidates {
  std::vector<PlanCandidate> plans;  // no two with the same stages
  bool all_sets = true;              // every set of devices was tried
};

// Throws SetupError where not even all devices together hold a plan.
PlanCandidates candidate_plans(const PlanInput& input);

// Those not beaten in time per token alone, tokens/s of the service, and joules a token where watts are
// known; by time per token.
std::vector<PlanCandidate> pareto_front(const PlanCandidates& candidates);

std::string render_front(const PlanInput& input, const std::vector<PlanCandidate>& front, bool all_sets);
std::string front_csv(const std::vector<PlanCandidate>& front);
std::string front_svg(const PlanInput& input, const std::vector<PlanCandidate>& front);

// What a service must reach at the workload's concurrency; 0: not asked for.
struct Targets {
  double first_token_seconds = 0;
  double seconds_per_token = 0;
  double watts_max = 0;  // all devices with a stage busy at once
  bool any() const { return first_token_seconds > 0 || seconds_per_token > 0 || watts_max > 0; }
};

// "" if it meets them; else which it misses and by how much.
std::string missed_targets(const Targets& targets, const PlanCandidate& candidate);

struct TargetChoice {
  size_t offer = 0;  // which of the offered inputs
  PlanCandidate candidate;
  std::vector<std::string> rejected;  // one sentence for each offer before it
};

// `offers`: the same devices with one model each, the best quality first. The first offer with a candidate
// that meets the targets, and of its candidates the best for its objective. Throws SetupError naming what is
// missed by the nearest of each.
TargetChoice choose_for_targets(std::span<const PlanInput> offers, const Targets& targets);

}  // namespace shoal
