#include "node/suspects.h"

#include <algorithm>
#include <utility>

namespace shoal {

// Faults of the last kAgain_s.
size_t Suspects::count(const std::string& node, double now_s) {
  std::deque<double>& faults = records_[node].faults_s;
  while (!faults.empty() && faults.front() < now_s - kAgain_s) faults.pop_front();
  return faults.size();
}

Suspects::Verdict Suspects::take_out(const std::string& node, const Fault& fault, double now_s) {
  Record& record = records_[node];
  record.out = true;
  record.last = fault;
  record.rest_s = std::clamp(2 * record.rest_s, kRest_s, kRestMax_s);
  record.exam_s = now_s + record.rest_s;
  accused_ = node;
  return Verdict::kNode;
}

// Another was taken out for what this one does now too: those are acquitted.
bool Suspects::same_layers_elsewhere(const Fault& fault, double now_s) {
  bool found = false;
  for (auto& [node, record] : records_) {
    const Fault& last = record.last;
    if (!record.out || !last.computed || count(node, now_s) == 0) continue;
    if (std::max(last.layer_begin, fault.layer_begin) >= std::min(last.layer_end, fault.layer_end)) continue;
    record.faults_s.clear();
    record.rest_s = 0;
    record.exam_s = now_s;
    found = true;
  }
  return found;
}

Suspects::Verdict Suspects::judge(const Fault& fault, double now_s) {
  for (const std::string& node : fault.nodes) {
    if (out(node)) return Verdict::kAgain;  // of a plan that is over: it is out already
  }
  if (fault.computed && same_layers_elsewhere(fault, now_s)) {
    records_[fault.nodes.front()].faults_s.clear();
    return Verdict::kModel;
  }
  size_t most = 0;
  for (const std::string& node : fault.nodes) {
    records_[node].faults_s.push_back(now_s);
    most = std::max(most, count(node, now_s));
  }
  if (most < 2 && !fault.proven) return Verdict::kAgain;
  std::vector<std::string> worst;
  for (const std::string& node : fault.nodes)
    if (count(node, now_s) == most) worst.push_back(node);
  if (worst.size() > 1) return Verdict::kLink;
  return take_out(worst.front(), fault, now_s);
}

bool Suspects::out(const std::string& node) const {
  const auto found = records_.find(node);
  return found != records_.end() && found->second.out;
}

std::vector<std::string> Suspects::all_out() const {
  std::vector<std::string> nodes;
  for (const auto& [node, record] : records_)
    if (record.out) nodes.push_back(node);
  return nodes;
}

std::string Suspects::why(const std::string& node) const {
  const auto found = records_.find(node);
  return found == records_.end() ? "" : found->second.last.text;
}

void Suspects::hurry(const std::string& node, double now_s) {
  records_[node].exam_s = now_s;
}

std::vector<std::string> Suspects::due(double now_s) {
  std::vector<std::string> nodes;
  for (auto& [node, record] : records_) {
    if (!record.out || now_s < record.exam_s) continue;
    record.exam_s = now_s + kExamPatience_s;
    nodes.push_back(node);
  }
  return nodes;
}

bool Suspects::doubt(const std::string& node, double now_s) {
  Record& record = records_[node];
  if (record.out || now_s < record.doubt_again_s) return false;
  record.doubt_again_s = now_s + kDoubtEvery_s;
  return record.doubted = true;
}

bool Suspects::settle_doubt(const std::string& node) {
  const auto found = records_.find(node);
  return found != records_.end() && std::exchange(found->second.doubted, false);
}

bool Suspects::examined(const std::string& node, bool passed, double now_s) {
  const auto found = records_.find(node);
  if (found == records_.end() || !found->second.out) return false;
  Record& record = found->second;
  if (passed) {
    record.out = false;
  } else {
    record.rest_s = std::clamp(2 * record.rest_s, kRest_s, kRestMax_s);
    record.exam_s = now_s + record.rest_s;
  }
  return passed;
}

}  // namespace shoal
