#include "node/left_out.h"

#include <algorithm>

namespace shoal {

void LeftOut::excuse(const std::string& node, const std::string& why, double now_s) {
  Record& record = records_[node];
  record.out = record.excused = true;
  record.acquitted = record.spared = false;
  record.until_s = now_s + kRest_s;
  record.why = why;
}

double LeftOut::blame(const std::string& node, const std::string& why, bool spared, double now_s) {
  const double before_s = is_known(node, now_s) ? records_[node].rest_s : 0;
  Record& record = records_[node];
  record.out = true;
  record.excused = record.acquitted = false;
  record.spared = spared;
  record.rest_s = std::clamp(2 * before_s, kRest_s, kRestMax_s);
  record.until_s = now_s + record.rest_s;
  record.why = why;
  return record.rest_s;
}

void LeftOut::acquit(const std::string& node) {
  const auto found = records_.find(node);
  if (found == records_.end()) return;
  found->second.rest_s = 0;
  found->second.acquitted = true;
}

std::vector<std::string> LeftOut::let_in(bool Record::*such, double now_s) {
  std::vector<std::string> nodes;
  for (auto& [node, record] : records_) {
    if (!(record.*such) || !is_out(node, now_s)) continue;
    record.out = false;
    record.rest_s = std::min(record.rest_s, kRest_s);  // it was not out: that is not held against it
    nodes.push_back(node);
  }
  return nodes;
}

std::vector<std::string> LeftOut::let_in_acquitted(double now_s) {
  return let_in(&Record::acquitted, now_s);
}

std::vector<std::string> LeftOut::let_in_spared(double now_s) {
  return let_in(&Record::spared, now_s);
}

void LeftOut::shorten(double now_s) {
  for (auto& [node, record] : records_) record.until_s = std::min(record.until_s, now_s + kRest_s);
}

void LeftOut::came_anew(const std::string& node) {
  const auto found = records_.find(node);
  if (found != records_.end() && found->second.excused) found->second.out = false;
}

bool LeftOut::is_out(const std::string& node, double now_s) const {
  const auto found = records_.find(node);
  return found != records_.end() && found->second.out && now_s < found->second.until_s;
}

bool LeftOut::is_known(const std::string& node, double now_s) const {
  const auto found = records_.find(node);
  return found != records_.end() && found->second.rest_s > 0 && now_s < found->second.until_s + kForgotten_s;
}

void LeftOut::each(double now_s, const Visitor& visit) const {
  for (const auto& [node, record] : records_) {
    if (is_out(node, now_s)) visit(node, record.why, record.until_s - now_s);
  }
}

double LeftOut::next_end_s() const {
  double next_s = 1e300;
  for (const auto& [node, record] : records_) {
    if (record.out) next_s = std::min(next_s, record.until_s);
  }
  return next_s;
}

void LeftOut::end_times(double now_s) {
  for (auto& [node, record] : records_) record.out = is_out(node, now_s);
}

}  // namespace shoal
