#include "node/membership.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace shoal {
namespace {

constexpr double kNothingToDo = 1e300;  // for a time at which something was last done

}  // namespace

// What was lost meanwhile may be heard before the first tick.
void Membership::note_standstill(double now_s) {
  if (ticked_s_ >= 0 && now_s - ticked_s_ >= kStoodStill_s) awake_s_ = now_s;
}

Membership::Verdict Membership::may_join(const std::string& node, double now_s, bool needed) {
  Member& member = members_[node];
  if (member.here)
    return {
        false, kSilence_s,
        fmt::format("a node called {} is here already: choose another name (--name), or wait until its loss "
                    "was noticed",
                    node),
        /*name_taken=*/true};
  if (needed) return {true, 0, ""};
  if (now_s < member.free_s) {
    return {
        false, member.free_s - now_s,
        fmt::format("{} came and went too often: it may come back in {:.0f} s", node, member.free_s - now_s)};
  }
  while (!member.joins_s.empty() && member.joins_s.front() <= now_s - kJoinWindow_s)
    member.joins_s.pop_front();
  if (static_cast<int>(member.joins_s.size()) < kJoinsMax) return {true, 0, ""};
  member.quarantine_s = std::clamp(2 * member.quarantine_s, kJoinWindow_s, kQuarantineMax_s);
  member.free_s = now_s + member.quarantine_s;
  member.joins_s.clear();
  return {false, member.quarantine_s,
          fmt::format("{} came and went {} times within {:.0f} s: it may come back in {:.0f} s", node,
                      kJoinsMax, kJoinWindow_s, member.quarantine_s)};
}

void Membership::joined(const std::string& node, double now_s, bool beats) {
  Member& member = members_[node];
  member.here = true;
  member.joined_s = member.heard_s = now_s;
  member.moved_s = kNothingToDo;
  member.beats = beats;
  member.progress = 0;
  member.joins_s.push_back(now_s);
}

void Membership::left(const std::string& node, double now_s, bool in_order) {
  const auto found = members_.find(node);
  if (found == members_.end() || !found->second.here) return;
  Member& member = found->second;
  member.here = false;
  note_standstill(now_s);
  // It will be back: that join counts in place of the one that ends here.
  if ((in_order || now_s - awake_s_ < kAfterwards_s) && !member.joins_s.empty()) member.joins_s.pop_back();
  if (now_s - member.joined_s > kForgiven_s) {
    member.quarantine_s = 0;
    member.joins_s.clear();
  }
}

void Membership::set_limits(const std::string& node, const Limits& limits) {
  members_[node].limits = limits;
}

void Membership::heard(const std::string& node, double now_s) {
  const auto found = members_.find(node);
  if (found != members_.end()) found->second.heard_s = now_s;
}

void Membership::heartbeat(const std::string& node, uint64_t progress, bool working, double now_s) {
  const auto found = members_.find(node);
  if (found == members_.end()) return;
  Member& member = found->second;
  member.heard_s = now_s;
  member.beats = true;
  if (!working) {
    member.moved_s = kNothingToDo;
  } else if (progress != member.progress || member.moved_s == kNothingToDo) {
    member.moved_s = now_s;
  }
  member.progress = progress;
}

std::vector<Membership::Loss> Membership::tick(double now_s) {
  // A caller that was stopped itself finds all of them silent, and their messages waiting.
  const double asleep_s = ticked_s_ < 0 ? 0 : std::max(0.0, now_s - ticked_s_ - 5 * kTick_s);
  note_standstill(now_s);
  ticked_s_ = now_s;
  std::vector<Loss> losses;
  for (auto& [name, member] : members_) {
    if (!member.here) continue;
    if (asleep_s > 0) {
      member.heard_s = std::min(now_s, member.heard_s + asleep_s);
      if (member.moved_s != kNothingToDo) member.moved_s = std::min(now_s, member.moved_s + asleep_s);
    }
    if (!member.beats) continue;
    if (now_s >= member.silent_at_s()) {
      losses.push_back({name,
                        fmt::format("gave no sign of life for {:.1f} s (stopped, hanging or cut off)",
                                    now_s - member.heard_s),
                        true});
    } else if (now_s >= member.still_at_s()) {
      losses.push_back({name,
                        fmt::format("has had work for {:.1f} s and got nothing done", now_s - member.moved_s),
                        true});
    }
  }
  for (const Loss& loss : losses) left(loss.node, now_s);
  return losses;
}

double Membership::next_loss_s() const {
  double next_s = std::numeric_limits<double>::infinity();
  for (const auto& [name, member] : members_) {
    if (member.here && member.beats) next_s = std::min({next_s, member.silent_at_s(), member.still_at_s()});
  }
  return next_s;
}

bool Membership::is_here(const std::string& node) const {
  const auto found = members_.find(node);
  return found != members_.end() && found->second.here;
}

std::vector<std::string> Membership::here() const {
  std::vector<std::string> names;
  for (const auto& [name, member] : members_) {
    if (member.here) names.push_back(name);
  }
  return names;
}

double Membership::silent_s(const std::string& node, double now_s) const {
  const auto found = members_.find(node);
  return found == members_.end() || !found->second.here ? 0 : now_s - found->second.heard_s;
}

double Membership::quarantined_s(const std::string& node, double now_s) const {
  const auto found = members_.find(node);
  return found == members_.end() ? 0 : std::max(0.0, found->second.free_s - now_s);
}

}  // namespace shoal
