#include "node/recovery.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace shoal {

const char* to_string(ClusterEvent::Kind kind) {
  static constexpr const char* kNames[] = {"joined",    "lost",    "link lost", "failed",
                                           "replanned", "resumed", "down",      "drained",
                                           "refused",   "suspect", "cleared",   "fetched ahead"};
  return kNames[static_cast<size_t>(kind)];
}

namespace {

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

Recovery::Recovery(PlanInput known, uint64_t epoch) : known_(std::move(known)), epoch_(epoch) {
  here_.insert(name_of(known_.constraints.head));
}

void Recovery::begin_running(const Plan& plan, const std::set<std::string>& nodes) {
  here_.insert(nodes.begin(), nodes.end());
  for (const DeviceProfile& device : known_.devices) {  // nobody knows who came first: as they are listed
    if (nodes.contains(device.name)) came_[device.name] = ++comers_;
  }
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
  came_[device.name] = ++comers_;
  left_out_.came_anew(device.name);
  callers_.erase(device.name);
  lent_.clear();  // there may be a plan without them now
  tell(ClusterEvent::Kind::kJoined, now_s, device.name,
       fmt::format("node {} has joined{}", device.name,
                   draining_.contains(device.name)
                       ? "; it is drained and takes no layers until `shoal drain --undo " + device.name + "`"
                       : ""));
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
  leaving_.erase(node);
  lent_.erase(node);
  tell(ClusterEvent::Kind::kLost, now_s, node, fmt::format("node {} is lost: {}", node, why));
  if (in_plan(node)) {  // that explains them
    failures_ = 0;
    if (!left_out_.is_out(node, now_s)) explain_failures();  // of the last plan, and blamed: it explains none
  }
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
  const bool without_one = do_without_one(/*stall=*/error.code == Errc::kTimeout, now_s);
  if (!without_one) failures_ += kAnswersOfFailure;  // else the next plan is another
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
    restart(fault.text, now_s);  // not one of failures_: a node that does it again is suspect
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
    broken_links_[{fault.nodes[0], fault.nodes[1]}] = now_s + kBroken_s;
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

void Recovery::overflowed(double now_s) {
  if (state_ != State::kRunning) return;
  for (const std::string& node : here_) {
    if (in_plan(node) && suspects_.doubt(node, now_s)) actions_.push_back(Examine{node});
  }
}

void Recovery::examined(const std::string& node, const std::string& failure, double now_s) {
  if (suspects_.settle_doubt(node) && !failure.empty()) {
    Suspects::Fault fault;
    fault.nodes = {node};
    fault.where = node;
    fault.proven = true;
    fault.text = fmt::format("node {} computes known numbers wrongly: {}", node, failure);
    return faulted(fault, now_s);
  }
  if (!suspects_.out(node)) return;
  if (!suspects_.examined(node, failure.empty(), now_s)) {
    tell(ClusterEvent::Kind::kRefused, now_s, node,
         fmt::format("node {} computes known numbers wrongly and stays out: {}", node, failure));
    return;
  }
  tell(ClusterEvent::Kind::kCleared, now_s, node,
       fmt::format("node {} gives the known answers: it may take layers again", node));
  lent_.clear();
  improve_ = true;
  look_ahead_soon(now_s);
}

void Recovery::answered(double now_s) {
  elimination_.answered(now_s);
  failures_ = std::max(0, failures_ - 1);
}

// Where it failed again and again, and no loss has explained it.
void Recovery::give_up_what_fails() {
  if (failures_ <= kFailuresMax * kAnswersOfFailure) return;
  failures_ = 0;
  actions_.push_back(GiveUp{failure_});
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
      if (is_draining(node) && in_plan(node)) to_leave.push_back(node);
    }
    if (advice.has_error()) return void(lend_drained(advice.error().message, now_s));
    if (!advice->move) return;
    suspended_ = true;
    stopped_s_ = now_s;
    actions_.push_back(Suspend{to_leave.empty() ? "layers move to where they are computed sooner"
                                                : fmt::format("layers leave {}", fmt::join(to_leave, ", "))});
    return load(advice->plan, now_s);
  }
  if (state_ != State::kPlanning) return;
  if (advice.has_error() && improve_) return ask_for_plan(now_s);
  if (advice.has_error() && lend_drained(advice.error().message, now_s)) return ask_for_plan(now_s);
  if (advice.has_error() && let_in_left_out(now_s)) return ask_for_plan(now_s);
  if (advice.has_error()) {
    for (const std::string& node : suspects_.all_out()) suspects_.hurry(node, now_s);
    left_out_.shorten(now_s);
    const std::string head = name_of(known_.constraints.head);
    // What the planner advises without a head is not what helps.
    return go_down(suspects_.out(head) ? fmt::format("the head, {}, is suspect and takes no layers: {}", head,
                                                     suspects_.why(head))
                                       : advice.error().message + suspects_text(),
                   now_s);
  }
  load(advice->plan, now_s);
}

void Recovery::load(const Plan& plan, double now_s) {
  plan_ = plan;
  if (!was_laid_out_) improve_ = true;  // it was kept though there may have been a better one
  was_laid_out_ = true;
  ++epoch_;
  load_s_ = load_patience_s(asked_, plan, /*needed=*/state_ != State::kRunning);
  load_until_s_ = now_s + load_s_;
  state_ = State::kLoading;
  down_.reset();
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
      broken_links_[{node, unreachable}] = now_s + kBroken_s;
      failures_ = std::max(0, failures_ - kAnswersOfFailure);  // it explains one
      tell(ClusterEvent::Kind::kLinkLost, now_s, node,
           fmt::format("node {} cannot reach {}: {}", node, unreachable, failure));
    } else {
      left_out_.excuse(node, "could not take its layers (the log says why)", now_s);
      tell(ClusterEvent::Kind::kRefused, now_s, node,
           fmt::format("node {} cannot take its layers: {}", node, failure));
    }
    return restart(failure, now_s);
  }
  awaited_.erase(node);
  if (!awaited_.empty()) return;
  state_ = State::kRunning;
  suspended_ = closed_ = false;
  improve_at_s_ = now_s + kImproveEvery_s;
  look_ahead_soon(now_s);
  for (const std::string& node : draining_) {
    if (!in_plan(node) && leaving_.erase(node) > 0)
      tell(ClusterEvent::Kind::kDrained, now_s, node, fmt::format("node {} has no layers any more", node));
  }
  tell(ClusterEvent::Kind::kResumed, now_s, "",
       fmt::format("answers go on after {:.2f} s (plan {})", now_s - stopped_s_, epoch_), now_s - stopped_s_);
  actions_.push_back(Resume{epoch_});
}

// When something that was left out or broken may be tried again.
double Recovery::next_chance_s() const {
  double next = left_out_.next_end_s();
  for (const auto& [link, until] : broken_links_) next = std::min(next, until);
  return next;
}

void Recovery::go_down(const std::string& planner, double now_s) {
  // The planner does not know of those that it was not given.
  std::string why = planner, others;
  left_out_.each(now_s, [&](const std::string& node, const std::string& reason, double left_s) {
    if (!here_.contains(node)) return;
    const bool head = node == name_of(known_.constraints.head);
    const std::string text = fmt::format("{} {} {} and is tried again in {:.0f} s",
                                         head ? "the head" : "node", node, reason, left_s);
    if (head) why = text;  // what the planner advises without a head is not what helps
    if (!head) others += "; " + text;
  });
  why += others;
  state_ = State::kDown;
  const double chance_s = next_chance_s() - now_s;
  std::erase_if(callers_, [&](const auto& entry) { return entry.second < now_s - kCallerPatience_s; });
  if (!down_) down_at_s_ = now_s + (callers_.empty() || closed_ ? 0 : kCallerPatience_s);
  down_ = Down{why, chance_s > 0 && chance_s < kBroken_s ? chance_s : kRetryAfter_s};
  if (now_s < down_at_s_) {
    for (const auto& [node, called_s] : callers_)
      why += fmt::format("; node {} was kept out and calls: it is let in", node);
  }
  tell(ClusterEvent::Kind::kDown, now_s, "", fmt::format("no plan is possible: {}", why));
  wait_or_close(now_s);
}

void Recovery::wait_or_close(double now_s) {
  if (!down_ || now_s < down_at_s_) return;
  closed_ = true;
  actions_.push_back(*std::exchange(down_, std::nullopt));
}

void Recovery::calls(const std::string& node, double now_s) {
  if (!here_.contains(node)) callers_[node] = now_s;
}

void Recovery::tick(bool quiet, double now_s) {
  if (next_chance_s() <= now_s) {
    left_out_.end_times(now_s);
    std::erase_if(broken_links_, [&](const auto& entry) { return entry.second <= now_s; });
    lent_.clear();
    improve_ = true;
  }
  for (const std::string& node : suspects_.due(now_s)) {
    if (here_.contains(node)) actions_.push_back(Examine{node});
  }
  switch (state_) {
    case State::kSettling:
      if (now_s < plan_at_s_) break;
      give_up_what_fails();
      ask_for_plan(now_s);
      break;
    case State::kDown:
      if (improve_) {
        ask_for_plan(now_s);
      } else {
        wait_or_close(now_s);
      }
      break;
    case State::kLoading:
      if (now_s >= load_until_s_) give_up_load(now_s);
      break;
    case State::kRunning: {
      const bool leaving = std::any_of(draining_.begin(), draining_.end(), [&](const std::string& node) {
        return is_draining(node) && in_plan(node);
      });
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
