// Plans that do not work though all their nodes seem well: one that fails again and again or answers no step,
// one that is not loaded in time.
#include <fmt/format.h>

#include <algorithm>

#include "node/recovery.h"

namespace shoal {
namespace {

constexpr const char* kStalls = "no step was answered in a plan with it";
constexpr const char* kFails = "steps failed in plans with it";

}  // namespace

// The nodes of the plan that may be left out: all but the head, who came last at the end.
std::vector<std::string> Recovery::stages_by_coming() const {
  std::vector<std::string> nodes;
  for (const std::string& node : here_) {
    if (in_plan(node) && node != name_of(known_.constraints.head)) nodes.push_back(node);
  }
  std::sort(nodes.begin(), nodes.end(),
            [&](const std::string& a, const std::string& b) { return came_.at(a) < came_.at(b); });
  return nodes;
}

// Whether the next plan is to be another. A plan that stalls is worse than none, one that fails now and then
// is not.
bool Recovery::do_without_one(bool stall, double now_s) {
  const Elimination::Verdict verdict = elimination_.judge(
      stages_by_coming(), [&](const std::string& node) { return left_out_.is_known(node, now_s); }, stall,
      now_s);
  for (const std::string& node : verdict.acquitted) {
    left_out_.acquit(node);
    tell(ClusterEvent::Kind::kCleared, now_s, node,
         fmt::format("node {} did not make the pipeline fail: it fails without it too", node));
  }
  const char* const why = stall ? kStalls : kFails;
  for (const std::string& node : verdict.accused) {
    const double rest_s =
        left_out_.blame(node, fmt::format("is left out ({})", why), /*spared=*/!stall, now_s);
    tell(ClusterEvent::Kind::kRefused, now_s, node,
         fmt::format("node {} is left out for at most {:.0f} s: {}", node, rest_s, why));
  }
  // Then it is what runs: a step that no node can compute.
  if (verdict.none_of_them && !stall) failures_ = kFailuresMax * kAnswersOfFailure + 1;
  return !verdict.accused.empty();
}

// There is no plan without some that were left out. Whether there may be one with them.
bool Recovery::let_in_left_out(double now_s) {
  if (!left_out_.let_in_acquitted(now_s).empty()) return true;
  const std::vector<std::string> spared = left_out_.let_in_spared(now_s);
  if (spared.empty()) return false;
  for (const std::string& node : spared) {
    tell(ClusterEvent::Kind::kCleared, now_s, node,
         fmt::format("node {} may take layers all the same: there is no plan without it", node));
  }
  failures_ += kAnswersOfFailure;  // the next plan is no other
  give_up_what_fails();
  return true;
}

void Recovery::explain_failures() {
  for (const std::string& node : elimination_.explained()) left_out_.acquit(node);
}

// The others are loaded, or wait like everybody. The head has no spare: where it alone is late it is tried
// again soon.
void Recovery::give_up_load(double now_s) {
  const std::string why = fmt::format("did not load its layers within {:.0f} s", load_s_);
  const std::string head = name_of(known_.constraints.head);
  std::set<std::string> late = awaited_;
  if (late.size() > 1) late.erase(head);
  for (const std::string& node : late) {
    if (node == head)
      left_out_.excuse(node, why, now_s);
    else
      left_out_.blame(node, why, /*spared=*/false, now_s);
    tell(ClusterEvent::Kind::kRefused, now_s, node, fmt::format("node {} {}", node, why));
  }
  restart(fmt::format("loading took more than {:.0f} s", load_s_), now_s);
}

}  // namespace shoal
