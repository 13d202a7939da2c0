// Nodes that keep everybody waiting and tell of no failure: a plan that answers no step, one that is not
// loaded in time.
#include <fmt/format.h>

#include <algorithm>

#include "node/recovery.h"

namespace shoal {
namespace {

constexpr const char* kSwallows = "is left out (no step was answered in a plan with it)";

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

// Whether the next plan is to be another.
bool Recovery::do_without_one(double now_s) {
  const Stalls::Verdict verdict = stalls_.judge(
      stages_by_coming(), [&](const std::string& node) { return left_out_.is_known(node, now_s); }, now_s);
  for (const std::string& node : verdict.acquitted) {
    left_out_.acquit(node);
    tell(ClusterEvent::Kind::kCleared, now_s, node,
         fmt::format("node {} did not make the pipeline stall: it stalls without it too", node));
  }
  for (const std::string& node : verdict.accused) {
    const double rest_s = left_out_.blame(node, kSwallows, now_s);
    tell(ClusterEvent::Kind::kRefused, now_s, node,
         fmt::format("node {} is left out for at most {:.0f} s: no step was answered in a plan with it", node,
                     rest_s));
  }
  return !verdict.accused.empty();
}

void Recovery::explain_stalls() {
  for (const std::string& node : stalls_.explained()) left_out_.acquit(node);
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
      left_out_.blame(node, why, now_s);
    tell(ClusterEvent::Kind::kRefused, now_s, node, fmt::format("node {} {}", node, why));
  }
  restart(fmt::format("loading took more than {:.0f} s", load_s_), now_s);
}

}  // namespace shoal
