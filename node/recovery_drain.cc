// Nodes that are to have no layers: when that is asked for, when it is too late, and when it ends.
#include <fmt/format.h>

#include "node/recovery.h"

namespace shoal {

Result<void> Recovery::drain(const std::string& node, double now_s) {
  if (!here_.contains(node)) {
    return Error{Errc::kInvalidInput,
                 index_of(node) < 0
                     ? fmt::format("there is no node {}", node)
                     : fmt::format("node {} is not there (lost, or not come yet): it has no layers", node)};
  }
  if (node == name_of(known_.constraints.head))
    return Error{Errc::kInvalidInput, fmt::format("node {} is the head: it cannot be drained", node)};
  draining_.insert(node);
  lent_.erase(node);
  if (!in_plan(node) || state_ == State::kDown) {  // the last plan is remembered, and not loaded
    tell(ClusterEvent::Kind::kDrained, now_s, node, fmt::format("node {} has no layers", node));
    return {};
  }
  leaving_.insert(node);
  if (state_ == State::kLoading || state_ == State::kPlanning)
    restart(fmt::format("layers leave {}", node), now_s);
  else
    improve_at_s_ = now_s;
  return {};
}

Result<void> Recovery::undrain(const std::string& node, double now_s) {
  if (draining_.erase(node) == 0)
    return Error{Errc::kInvalidInput, fmt::format("node {} is not drained", node)};
  leaving_.erase(node);
  lent_.clear();  // there may be a plan without the others now
  tell(ClusterEvent::Kind::kCleared, now_s, node, fmt::format("node {} may take layers again", node));
  improve_ = true;
  look_ahead_soon(now_s);
  return {};
}

// Better with those that are drained than not at all. Who waits for it is refused; what was carried out once
// stands, and is again as soon as there is a plan for it. False where there is none to take back.
bool Recovery::lend_drained(const std::string& why, double now_s) {
  const bool running = state_ == State::kRunning;  // by a plan that some of them were to leave
  bool any = false;
  for (const std::string& node : std::set<std::string>(leaving_)) {
    if (running && !in_plan(node)) continue;
    any = true;
    leaving_.erase(node);
    draining_.erase(node);
    tell(ClusterEvent::Kind::kRefused, now_s, node, fmt::format("node {} keeps its layers: {}", node, why));
  }
  if (any && !running) return true;  // that may be enough
  for (const std::string& node : draining_) {
    if (!is_draining(node) || !here_.contains(node) || (running && !in_plan(node))) continue;
    any = true;
    lent_.insert(node);
    tell(ClusterEvent::Kind::kRefused, now_s, node,
         fmt::format("node {} is drained and may take layers all the same: {}", node, why));
  }
  improve_ = improve_ || any;  // what was looked for was a plan without them
  return any;
}

}  // namespace shoal
