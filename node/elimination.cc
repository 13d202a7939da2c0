#include "node/elimination.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace shoal {
namespace {

bool contains(const std::vector<std::string>& nodes, const std::string& node) {
  return std::find(nodes.begin(), nodes.end(), node) != nodes.end();
}

}  // namespace

Elimination::Verdict Elimination::judge(const std::vector<std::string>& nodes,
                                        const std::function<bool(const std::string& node)>& known, bool stall,
                                        double now_s) {
  const bool over = worked_s_ >= makes_up_s_ || now_s >= failed_s_ + kForgotten_s;
  failed_s_ = answered_s_ = now_s;
  makes_up_s_ = stall ? kStallMadeUp_s : kFailureMadeUp_s;
  worked_s_ = 0;
  std::vector<std::string> still;
  for (const std::string& node : nodes) {
    if (contains(suspects_, node)) still.push_back(node);
  }
  // None is left where it is nobody's doing, or that of more than one: then nobody is acquitted.
  const bool first = over || still.empty();
  const bool none_left = !over && !suspects_.empty() && still.empty();
  if (first) accused_.clear();
  suspects_ = first ? nodes : still;
  Verdict verdict;
  verdict.none_of_them = none_left;
  for (const std::string& node : accused_) {
    if (!contains(suspects_, node)) verdict.acquitted.push_back(node);
  }
  std::copy_if(suspects_.begin(), suspects_.end(), std::back_inserter(verdict.accused), known);
  if (verdict.accused.empty() && !first) verdict.accused.push_back(suspects_.back());
  accused_ = verdict.accused;
  return verdict;
}

void Elimination::answered(double now_s) {
  worked_s_ += std::min(now_s - std::exchange(answered_s_, now_s), kStepMost_s);
}

std::vector<std::string> Elimination::explained() {
  suspects_.clear();
  std::vector<std::string> accused = std::exchange(accused_, {});
  if (worked_s_ > 0) accused.clear();
  return accused;
}

}  // namespace shoal
