#include "node/recovery.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/check.h"
#include "planner/planner.h"

namespace shoal {

const char* to_string(ClusterEvent::Kind kind) {
  static constexpr const char* kNames[] = {"joined",    "lost",    "link lost", "failed",
                                           "replanned", "resumed", "down",      "drained",
                                           "refused",   "suspect", "cleared",   "fetched ahead"};
  return kNames[static_cast<size_t>(kind)];
}

namespace {

// So many answers make up for a failure: a pipeline that answers a little and fails again, and again, is no
// better than one that fails at once. A step is a prompt's chunk or a token of each answer.
constexpr int kAnswersOfFailure = 64;

// Whether steps go from one node to the other.
bool is_hop(const Plan& plan, const std::string& from, const std::string& to) {
  std::string sends = plan.devices[static_cast<size_t>(plan.head)];
  for (const StageAssignment& stage : plan.stages) {
    const std::string& takes = plan.devices[static_cast<size_t>(stage.device)];
    if (sends == from && takes == to && from != to) return true;
    sends = takes;
  }
  return false;
}

}  // namespace

Plan reindexed(const Plan& plan, const PlanInput& live) {
  Plan moved = plan;
  moved.devices.clear();
  for (const DeviceProfile& device : live.devices) moved.devices.push_back(device.name);
  moved.head = live.constraints.head;
  for (StageAssignment& stage : moved.stages) {
    const std::string& name = plan.devices[static_cast<size_t>(stage.device)];
    const auto found = std::find(moved.devices.begin(), moved.devices.end(), name);
    SHOAL_CHECK(found != moved.devices.end());
    stage.device = static_cast<int>(found - moved.devices.begin());
  }
  moved.predicted = evaluate(live, moved.stages);
  moved.reasons.clear();
  return moved;
}

Result<ReplanAdvice> carry_out(const Recovery::MakePlan& order) {
  try {
    ReplanAdvice advice;
    if (order.running) {
      advice = advise_replan(order.live, *order.running);
      // But layers that the cluster file divides by hand are divided so.
      if (order.held && advice.old_runs && order.live.constraints.manual.empty()) advice.move = false;
      if (!advice.move) advice.plan = reindexed(*order.running, order.live);
    } else {
      advice.plan = make_plan(order.live);
      advice.move = true;
    }
    return advice;
  } catch (const SetupError& error) {
    return Error{Errc::kRefused, error.what()};
  }
}

Recovery::Recovery(PlanInput known, uint64_t epoch) : known_(std::move(known)), epoch_(epoch) {
  here_.insert(name_of(known_.constraints.head));
}

void Recovery::begin_running(const Plan& plan, const std::set<std::string>& nodes) {
  here_.insert(nodes.begin(), nodes.end());
  plan_ = plan;
  state_ = State::kRunning;
  suspended_ = false;
}

void Recovery::begin_down(const std::set<std::string>& expected, double patience_s, double now_s) {
  stopped_s_ = now_s;
  expected_ = expected;
  state_ = State::kSettling;
  plan_at_s_ = now_s + patience_s;
}

void Recovery::remember(const std::optional<Plan>& plan, uint64_t epoch) {
  epoch_ = std::max(epoch_, epoch);
  const bool later = held_epoch_ > 0 && epoch > held_epoch_ && !was_laid_out_;
  if (!plan || (plan_ && !later)) return;
  plan_ = plan;
  held_epoch_ = epoch;
}

int Recovery::index_of(const std::string& node) const {
  for (size_t i = 0; i < known_.devices.size(); ++i)
    if (known_.devices[i].name == node) return static_cast<int>(i);
  return -1;
}

bool Recovery::in_plan(const std::string& node) const {
  if (!plan_) return false;
  return std::any_of(plan_->stages.begin(), plan_->stages.end(), [&](const StageAssignment& stage) {
    return plan_->devices[static_cast<size_t>(stage.device)] == node;
  });
}

bool Recovery::fit(int device, double now_s) const {
  const std::string name = name_of(device);
  const auto unfit = unfit_.find(name);
  return here_.contains(name) && !draining_.contains(name) && !suspects_.out(name) &&
         (unfit == unfit_.end() || unfit->second <= now_s);
}

// Those that are there and may take layers; the head in any case, since tokens come from it.
PlanInput Recovery::live_input(double now_s, const std::string& without) const {
  std::vector<int> kept;
  for (int i = 0; i < static_cast<int>(known_.devices.size()); ++i) {
    if ((fit(i, now_s) && name_of(i) != without) || i == known_.constraints.head) kept.push_back(i);
  }
  PlanInput live = known_;
  live.devices.clear();
  live.links = LinkTable(static_cast<int>(kept.size()), LinkProfile{});
  const auto place = [&](int known) {
    const auto found = std::find(kept.begin(), kept.end(), known);
    return found == kept.end() ? -1 : static_cast<int>(found - kept.begin());
  };
  for (size_t a = 0; a < kept.size(); ++a) {
    live.devices.push_back(known_.devices[static_cast<size_t>(kept[a])]);
    if (!fit(kept[a], now_s)) live.devices.back().allowed = false;
    for (size_t b = 0; b < kept.size(); ++b) {
      if (a == b) continue;
      const auto broken = broken_links_.find({name_of(kept[a]), name_of(kept[b])});
      const bool usable = broken == broken_links_.end() || broken->second <= now_s;
      live.links.set(static_cast<int>(a), static_cast<int>(b),
                     usable ? known_.links.at(kept[a], kept[b]) : LinkProfile{});
    }
  }
  live.constraints.head = place(known_.constraints.head);
  live.constraints.excluded.clear();
  for (const int device : known_.constraints.excluded) {
    if (place(device) >= 0) live.constraints.excluded.push_back(place(device));
  }
  // Layers that were divided by hand are, where all hands are there.
  for (ManualRange& range : live.constraints.manual) range.device = place(range.device);
  if (std::any_of(live.constraints.manual.begin(), live.constraints.manual.end(),
                  [](const ManualRange& range) { return range.device < 0; }))
    live.constraints.manual.clear();
  return live;
}

void Recovery::tell(ClusterEvent::Kind kind, double now_s, const std::string& node, std::string text,
                    double seconds) {
  actions_.push_back(ClusterEvent{kind, now_s, node, std::move(text), seconds});
}

void Recovery::joined(const DeviceProfile& device, const std::vector<MeasuredLink>& links, double now_s) {
  int index = index_of(device.name);
  if (index < 0) {
    const LinkTable before = known_.links;
    index = static_cast<int>(known_.devices.size());
    known_.devices.push_back(device);
    known_.links = LinkTable(index + 1, LinkProfile{});
    for (int a = 0; a < index; ++a) {
      for (int b = 0; b < index; ++b) {
        if (a != b) known_.links.set(a, b, before.at(a, b));
      }
    }
  } else {
    known_.devices[static_cast<size_t>(index)] = device;
  }
  for (const MeasuredLink& link : links) {
    const int from = index_of(link.from), to = index_of(link.to);
    if (from < 0 || to < 0 || from == to) continue;
    known_.links.set(from, to, link.link);
    broken_links_.erase({link.from, link.to});
  }
  here_.insert(device.name);
  draining_.erase(device.name);
  unfit_.erase(device.name);
  tell(ClusterEvent::Kind::kJoined, now_s, device.name, fmt::format("node {} has joined", device.name));
  improve_ = true;
  look_ahead_soon(now_s);
  expected_.erase(device.name);
  if (state_ == State::kSettling && !was_laid_out_ && expected_.empty()) ask_for_plan(now_s);  // all came
}

void Recovery::look_ahead_soon(double now_s) {
  look_ahead_ = true;
  look_ahead_at_s_ = now_s + kLookAheadAfter_s;
}

void Recovery::lost(const std::string& node, const std::string& why, double now_s) {
  if (here_.erase(node) == 0) return;
  look_ahead_soon(now_s);
  draining_.erase(node);
  tell(ClusterEvent::Kind::kLost, now_s, node, fmt::format("node {} is lost: {}", node, why));
  if (in_plan(node)) failures_ = 0;  // that explains them
  const bool matters = in_plan(node) && (state_ == State::kRunning || state_ == State::kLoading);
  // A plan that is being made counts on it.
  const bool counted_on = state_ == State::kPlanning;
  if (matters || counted_on) restart(fmt::format("node {} is lost", node), now_s);
  if (state_ == State::kRunning) {  // a better plan that was asked for may count on it
    ++ticket_;
    improve_ = true;
  }
}

void Recovery::failed(const Error& error, double now_s) {
  if (state_ != State::kRunning) return;
  tell(ClusterEvent::Kind::kFailed, now_s, "", error.message);
  failure_ = error;
  failures_ += kAnswersOfFailure;
  restart(error.message, now_s);
}

void Recovery::faulted(const Suspects::Fault& fault, double now_s) {
  // One that a comparison found comes late, whatever has become of its plan.
  const bool late = fault.epoch > 0;
  const bool stands =
      late || state_ == State::kRunning || state_ == State::kSettling || state_ == State::kPlanning;
  const bool first = faulted_epoch_ < (late ? fault.epoch : epoch_);
  if (!stands || !(first || (fault.proven && !suspects_.out(fault.nodes.front())))) return;
  faulted_epoch_ = epoch_;
  const Suspects::Verdict verdict = suspects_.judge(fault, now_s);
  tell(ClusterEvent::Kind::kFailed, now_s, fault.where, fault.text);
  const bool without = do_without_suspect(fault, verdict, now_s);
  // Tokens have been drawn from what was wrong, or it is the model's own.
  if (fault.answered || verdict == Suspects::Verdict::kModel)
    actions_.push_back(GiveUp{{Errc::kBadFrame, fault.text}});
  if (without) {
    failures_ = 0;
    if (state_ != State::kDown) restart(fault.text, now_s);
  } else if (state_ == State::kRunning) {
    failure_ = {Errc::kBadFrame, fault.text};
    failures_ += kAnswersOfFailure;
    restart(fault.text, now_s);
  }
}

// Whether the next plan is to be another.
bool Recovery::do_without_suspect(const Suspects::Fault& fault, Suspects::Verdict verdict, double now_s) {
  using Verdict = Suspects::Verdict;
  if (verdict == Verdict::kAgain) return false;
  if (verdict == Verdict::kNode) {
    const std::string& node = suspects_.accused();
    tell(ClusterEvent::Kind::kSuspect, now_s, node,
         fmt::format("node {} is suspect and takes no layers: {}", node, fault.text));
  } else if (verdict == Verdict::kLink) {
    broken_links_[{fault.nodes[0], fault.nodes[1]}] = now_s + kUnfit_s;
    tell(ClusterEvent::Kind::kLinkLost, now_s, fault.nodes[0],
         fmt::format("the link from {} to {} is left out: {}", fault.nodes[0], fault.nodes[1], fault.text));
  }
  return true;
}

// Those without which there is no plan, for people.
std::string Recovery::suspects_text() const {
  std::string text;
  for (const std::string& node : suspects_.all_out())
    text += fmt::format("; without node {}, which is suspect: {}", node, suspects_.why(node));
  return text;
}

void Recovery::examined(const std::string& node, const std::string& failure, double now_s) {
  if (!suspects_.out(node)) return;
  if (!suspects_.examined(node, failure.empty(), now_s)) {
    tell(ClusterEvent::Kind::kRefused, now_s, node,
         fmt::format("node {} computes known numbers wrongly and stays out: {}", node, failure));
    return;
  }
  tell(ClusterEvent::Kind::kCleared, now_s, node,
       fmt::format("node {} gives the known answers: it may take layers again", node));
  improve_ = true;
  look_ahead_soon(now_s);
}

void Recovery::answered() {
  failures_ = std::max(0, failures_ - 1);
}

void Recovery::restart(const std::string& why, double now_s) {
  if (!suspended_) {
    suspended_ = true;
    stopped_s_ = now_s;
    actions_.push_back(Suspend{why});
  }
  ++ticket_;
  awaited_.clear();
  state_ = State::kSettling;
  plan_at_s_ = now_s + kSettle_s;
}

void Recovery::ask_for_plan(double now_s) {
  state_ = State::kPlanning;
  improve_ = false;
  asked_ = live_input(now_s);
  actions_.push_back(MakePlan{++ticket_, asked_, plan_, plan_ && !was_laid_out_});
}

void Recovery::planned(uint64_t ticket, const Result<ReplanAdvice>& advice, double now_s) {
  if (ticket != ticket_) return;
  if (state_ == State::kRunning) {  // a better one was looked for
    std::vector<std::string> to_leave;
    for (const std::string& node : draining_) {
      if (in_plan(node)) to_leave.push_back(node);
    }
    if (advice.has_error()) {
      for (const std::string& node : to_leave) {
        draining_.erase(node);
        tell(ClusterEvent::Kind::kRefused, now_s, node,
             fmt::format("node {} keeps its layers: {}", node, advice.error().message));
      }
      return;
    }
    if (!advice->move) return;
    suspended_ = true;
    stopped_s_ = now_s;
    actions_.push_back(Suspend{to_leave.empty() ? "layers move to where they are computed sooner"
                                                : fmt::format("layers leave {}", fmt::join(to_leave, ", "))});
    return load(advice->plan, now_s);
  }
  if (state_ != State::kPlanning) return;
  if (advice.has_error() && improve_) return ask_for_plan(now_s);
  if (advice.has_error() && !draining_.empty()) {  // better with it than not at all
    for (const std::string& node : draining_) {
      tell(ClusterEvent::Kind::kRefused, now_s, node,
           fmt::format("node {} keeps its layers: {}", node, advice.error().message));
    }
    draining_.clear();
    return ask_for_plan(now_s);
  }
  if (advice.has_error()) {
    for (const std::string& node : suspects_.all_out()) suspects_.hurry(node, now_s);
    return go_down(advice.error().message + suspects_text(), now_s);
  }
  load(advice->plan, now_s);
}

void Recovery::load(const Plan& plan, double now_s) {
  plan_ = plan;
  if (!was_laid_out_) improve_ = true;  // it was kept though there may have been a better one
  was_laid_out_ = true;
  ++epoch_;
  state_ = State::kLoading;
  load_until_s_ = now_s + kLoadPatience_s;
  awaited_.clear();
  std::string parts;
  for (const StageAssignment& stage : plan.stages) {
    const std::string& node = plan.devices[static_cast<size_t>(stage.device)];
    awaited_.insert(node);
    if (!parts.empty()) parts += ", ";
    parts += stage.layers() == 0
                 ? node + " " + (stage.output ? "output head" : "embedding")
                 : fmt::format("{} layers {}-{}", node, stage.layer_begin, stage.layer_end - 1);
  }
  tell(ClusterEvent::Kind::kReplanned, now_s, "", fmt::format("plan {}: {}", epoch_, parts));
  actions_.push_back(Load{epoch_, asked_, plan});
}

void Recovery::ready(const std::string& node, uint64_t epoch, const std::string& failure,
                     const std::string& unreachable, double now_s) {
  if (epoch != epoch_ || state_ != State::kLoading || !awaited_.contains(node)) {
    ++stale_;
    return;
  }
  if (!failure.empty()) {
    if (plan_ && is_hop(*plan_, node, unreachable)) {
      broken_links_[{node, unreachable}] = now_s + kUnfit_s;
      failures_ = std::max(0, failures_ - kAnswersOfFailure);  // it explains one
      tell(ClusterEvent::Kind::kLinkLost, now_s, node,
           fmt::format("node {} cannot reach {}: {}", node, unreachable, failure));
    } else {
      unfit_[node] = now_s + kUnfit_s;
      tell(ClusterEvent::Kind::kRefused, now_s, node,
           fmt::format("node {} cannot take its layers: {}", node, failure));
    }
    return restart(failure, now_s);
  }
  awaited_.erase(node);
  if (!awaited_.empty()) return;
  state_ = State::kRunning;
  suspended_ = false;
  improve_at_s_ = now_s + kImproveEvery_s;
  look_ahead_soon(now_s);
  for (const std::string& leaving : draining_) {
    if (!in_plan(leaving))
      tell(ClusterEvent::Kind::kDrained, now_s, leaving,
           fmt::format("node {} has no layers any more", leaving));
  }
  tell(ClusterEvent::Kind::kResumed, now_s, "",
       fmt::format("answers go on after {:.2f} s (plan {})", now_s - stopped_s_, epoch_), now_s - stopped_s_);
  actions_.push_back(Resume{epoch_});
}

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
  if (!in_plan(node))
    tell(ClusterEvent::Kind::kDrained, now_s, node, fmt::format("node {} has no layers", node));
  else if (state_ == State::kLoading || state_ == State::kPlanning)
    restart(fmt::format("layers leave {}", node), now_s);
  else
    improve_at_s_ = now_s;
  return {};
}

// When something that was unfit or broken may be tried again.
double Recovery::next_chance_s() const {
  double next = 1e300;
  for (const auto& [node, until] : unfit_) next = std::min(next, until);
  for (const auto& [link, until] : broken_links_) next = std::min(next, until);
  return next;
}

void Recovery::go_down(const std::string& planner, double now_s) {
  // The planner does not know of those that it was not given.
  std::string why = planner, others;
  for (const auto& [node, until] : unfit_) {
    if (!here_.contains(node) || until <= now_s) continue;
    const bool head = node == name_of(known_.constraints.head);
    const std::string text =
        fmt::format("{} {} could not take its layers (the log says why) and is tried again in {:.0f} s",
                    head ? "the head" : "node", node, until - now_s);
    if (head) why = text;  // what the planner advises without a head is not what helps
    if (!head) others += "; " + text;
  }
  why += others;
  state_ = State::kDown;
  const double chance_s = next_chance_s() - now_s;
  tell(ClusterEvent::Kind::kDown, now_s, "", fmt::format("no plan is possible: {}", why));
  actions_.push_back(Down{why, chance_s > 0 && chance_s < kUnfit_s ? chance_s : kRetryAfter_s});
}

void Recovery::tick(bool quiet, double now_s) {
  if (next_chance_s() <= now_s) {
    std::erase_if(unfit_, [&](const auto& entry) { return entry.second <= now_s; });
    std::erase_if(broken_links_, [&](const auto& entry) { return entry.second <= now_s; });
    improve_ = true;
  }
  for (const std::string& node : suspects_.due(now_s)) {
    if (here_.contains(node)) actions_.push_back(Examine{node});
  }
  switch (state_) {
    case State::kSettling:
      if (now_s < plan_at_s_) break;
      if (failures_ > kFailuresMax * kAnswersOfFailure) {  // and no loss has explained it
        failures_ = 0;
        actions_.push_back(GiveUp{failure_});
      }
      ask_for_plan(now_s);
      break;
    case State::kDown:
      if (improve_) ask_for_plan(now_s);
      break;
    case State::kLoading:
      if (now_s < load_until_s_) break;
      for (const std::string& node : awaited_) unfit_[node] = now_s + kUnfit_s;
      restart("loading took too long", now_s);
      break;
    case State::kRunning: {
      const bool leaving = std::any_of(draining_.begin(), draining_.end(),
                                       [&](const std::string& node) { return in_plan(node); });
      if (now_s < improve_at_s_ || !(leaving || (improve_ && quiet))) break;
      improve_ = false;
      improve_at_s_ = now_s + kImproveEvery_s;
      asked_ = live_input(now_s);
      actions_.push_back(MakePlan{++ticket_, asked_, plan_});
      break;
    }
    case State::kPlanning:
      break;
  }
}

}  // namespace shoal
