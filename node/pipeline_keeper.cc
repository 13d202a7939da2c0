#include "node/pipeline_keeper.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <set>
#include <utility>

#include "node/names_file.h"
#include "node/pipeline_setup.h"
#include "node/signed_plan.h"

namespace shoal {
namespace {

constexpr double kComePatience_s = 5;  // for the nodes of the cluster file, where none is there yet
constexpr int kTicksOfLook = 2;        // from one look at who was revoked to the next
constexpr double kStepsOfStall = 8;    // a stage slowed four times is slow, not stuck
constexpr size_t kDrainedMax = 1024;

// That this device has been asleep, in all: time in which the monotonic clock stands still.
double slept_s() {
  timespec all{}, awake{};
  clock_gettime(CLOCK_BOOTTIME, &all);
  clock_gettime(CLOCK_MONOTONIC, &awake);
  return static_cast<double>(all.tv_sec - awake.tv_sec) +
         static_cast<double>(all.tv_nsec - awake.tv_nsec) * 1e-9;
}

template <class... Bodies>
struct Overloaded : Bodies... {
  using Bodies::operator()...;
};
template <class... Bodies>
Overloaded(Bodies...) -> Overloaded<Bodies...>;

// Its sender is the node of the last stage: nobody else's answers are taken.
Suspects::Fault bad_answer(const PipelineLayout& layout, const std::string& text) {
  const LayerRange& layers = layout.shard_of_stage.back().layers;
  Suspects::Fault fault;
  fault.nodes = {layout.node_of_stage.back()};
  fault.layer_begin = layers.begin, fault.layer_end = layers.end;
  fault.where = fault.nodes.front();
  fault.text = text;
  return fault;
}

}  // namespace

PipelineKeeper::PipelineKeeper(Node& node, Coordinator& coordinator, Settings settings,
                               const std::optional<Plan>& plan, OnLaidOut on_laid_out)
    : node_(node),
      coordinator_(coordinator),
      settings_(std::move(settings)),
      head_(settings_.base.head),
      on_laid_out_(std::move(on_laid_out)),
      endpoints_(settings_.endpoints),
      recovery_(settings_.known, plan ? kFirstEpoch : 0),
      revoked_(settings_.revoked_file),
      ticks_(node.io().executor()) {
  for (const DeviceProfile& device : settings_.known.devices) memory_[device.name] = device.memory_bytes;
  if (!settings_.drained_file.empty()) {
    NamesInFile drained = read_node_names(settings_.drained_file, kDrainedMax);
    if (!drained.fault.empty()) spdlog::warn("{}: passed over", drained.fault);
    kept_drained_ = std::move(drained.names);
  }
  node_.io().call([&] {
    std::set<std::string> names;
    for (const DeviceProfile& device : settings_.known.devices) names.insert(device.name);
    if (plan) {
      layout_ = lay_out(settings_.base, *plan, endpoints_, settings_.config.stall_timeout_s);
      for (const std::string& name : names) {
        if (name != head_) membership_.joined(name, now());
      }
      recovery_.begin_running(*plan, names);
    } else {
      names.erase(head_);
      coordinator_.suspend();
      recovery_.begin_down(names, names.empty() ? 0 : kComePatience_s, now());
    }
    if (!settings_.revoked_file.empty()) node_.shut_out(revoked_.names());
    slept_s_ = slept_s();
    recovery_.remember_drained(kept_drained_);
    node_.set_events(node_events());
    coordinator_.set_keeper({[this](const Error& error) {
                               if (error.code == Errc::kBadFrame)
                                 return accuse(bad_answer(layout_, error.message));
                               recovery_.failed(error, now());
                               act();
                             },
                             [this] { recovery_.answered(now()); },
                             [this] {
                               recovery_.overflowed(now());
                               act();
                             }});
    if (const std::optional<Error> lost = node_.lost_before()) {
      recovery_.failed(*lost, now());
      act();
    }
    arm_tick();
    return 0;
  });
}

PipelineKeeper::~PipelineKeeper() {
  node_.io().call([this] {
    alive_.reset();
    ticks_.cancel();
    node_.set_events({});
    coordinator_.set_keeper({});
    ++looks_ahead_;
    return 0;
  });
  planner_.join();
  foresight_.join();
}

NodeEvents PipelineKeeper::node_events() {
  NodeEvents events;
  events.heard = [this](const std::string& node) { membership_.heard(node, now()); };
  events.beat = [this](const std::string& node, const Heartbeat& beat) {
    membership_.heartbeat(node, beat.progress, beat.working, now());
  };
  events.lost = [this](const std::string& node, const std::string& why) {
    note_sleep();
    membership_.left(node, now());
    on_lost(node, why);
  };
  events.ended = [this](const std::string& node, const std::string& why) {
    membership_.left(node, now(), /*in_order=*/true);
    on_lost(node, why);
  };
  events.ready = [this](const std::string& node, const Ready& ready) {
    recovery_.ready(node, ready.epoch, ready.failure, ready.info, now());
    act();
  };
  events.measured = [this](const std::string& node, const Measured& measured) {
    on_measured(node, measured);
  };
  events.examined = [this](const std::string& node, const Examined& examined) {
    recovery_.examined(node, examined.failure, now());
    act();
  };
  events.fetched_ahead = [this](const std::string& node, const FetchedAhead& fetched) {
    on_fetched_ahead(node, fetched);
  };
  events.faulted = [this](const Suspects::Fault& fault) { accuse(fault); };
  events.may_join = [this](const std::string& node) {
    const Membership::Verdict verdict =
        membership_.may_join(node, now(), recovery_.state() == Recovery::State::kDown);
    if (!verdict.admitted && membership_.quarantined_s(node, now()) > 0) recovery_.calls(node, now());
    return verdict;
  };
  events.joined = [this](const std::string& node, const Join& join) { on_joined(node, join); };
  return events;
}

void PipelineKeeper::arm_tick() {
  const double left_s = std::clamp(membership_.next_loss_s() - now(), 0.0, Membership::kTick_s);
  ticks_.expires_after(std::chrono::microseconds(static_cast<int64_t>(left_s * 1e6) + 1));
  ticks_.async_wait([this, alive = std::weak_ptr<int>(alive_)](const boost::system::error_code& stopped) {
    if (stopped || alive.expired()) return;
    tick();
    arm_tick();
  });
}

// A device that was asleep finds its connections ended by the others. The clock that all goes by stood still.
void PipelineKeeper::note_sleep() {
  const double before_s = std::exchange(slept_s_, slept_s());
  if (slept_s_ - before_s > Membership::kStoodStill_s) membership_.slept(now());
}

void PipelineKeeper::tick() {
  note_sleep();
  if (--ticks_to_look_ < 0) {
    ticks_to_look_ = kTicksOfLook;
    if (revoked_.look()) node_.shut_out(revoked_.names());
    shut_out_revoked();
  }
  for (const Membership::Loss& loss : membership_.tick(now())) {
    node_.forget(loss.node);
    on_lost(loss.node, loss.why);
  }
  std::vector<std::string> late;
  for (const auto& [node, joining] : joining_) {
    if (now() > joining.deadline_s) late.push_back(node);
  }
  for (const std::string& node : late) ask_next(node);
  recovery_.tick(coordinator_.idle(), now());
  act();
  look_ahead();
}

void PipelineKeeper::shut_out_revoked() {
  for (const std::string& node : revoked_.names()) {
    if (!membership_.is_here(node) && !recovery_.is_here(node)) continue;
    membership_.left(node, now());
    on_lost(node, "it was shut out of the cluster (shoal revoke)");
  }
}

void PipelineKeeper::on_lost(const std::string& node, const std::string& why) {
  ahead_.erase(node);
  if (joining_.erase(node) > 0)
    warn_of(node, fmt::format("node {} went before it had joined: {}", node, why));
  std::vector<std::string> waiting;
  for (const auto& [name, joining] : joining_) {
    if (joining.asked == node) waiting.push_back(name);
  }
  for (const std::string& name : waiting) ask_next(name);
  recovery_.lost(node, why, now());
  act();
}

// Actions may lead to others: a step that cannot be sent fails at once.
void PipelineKeeper::act() {
  if (acting_) return;
  acting_ = true;
  for (std::vector<Recovery::Action> actions = recovery_.take_actions(); !actions.empty();
       actions = recovery_.take_actions()) {
    for (const Recovery::Action& action : actions) carry(action);
  }
  acting_ = false;
  keep_drained();
}

void PipelineKeeper::keep_drained() {
  if (settings_.drained_file.empty() || recovery_.drained() == kept_drained_) return;
  kept_drained_ = recovery_.drained();
  try {
    write_node_names(settings_.drained_file, kept_drained_);
  } catch (const SetupError& error) {
    spdlog::warn("who is drained is forgotten when the head is started again: {}", error.what());
  }
}

void PipelineKeeper::carry(const Recovery::Action& action) {
  std::visit(
      Overloaded{
          [&](const Recovery::Suspend&) {
            coordinator_.suspend();
            node_.drop_pipeline();
          },
          [&](const Recovery::MakePlan& order) { plan(order); },
          [&](const Recovery::Load& order) { load(order); },
          [&](const Recovery::Resume& order) { resume(order.epoch); },
          [&](const Recovery::Down& down) {
            coordinator_.close({Errc::kPeerLost, "no plan is possible: " + down.why}, down.retry_after_s);
          },
          [&](const Recovery::Examine& order) { examine(order.node); },
          [&](const Recovery::GiveUp& up) { coordinator_.end_all(up.error, Recovery::kRetryAfter_s); },
          [&](const ClusterEvent& event) { happened(event); }},
      action);
}

void PipelineKeeper::plan(const Recovery::MakePlan& order) {
  boost::asio::post(planner_, [this, order, alive = std::weak_ptr<int>(alive_)] {
    auto advice = std::make_shared<Result<ReplanAdvice>>(carry_out(order));
    node_.io().post([this, ticket = order.ticket, advice, alive] {
      if (alive.expired()) return;
      recovery_.planned(ticket, *advice, now());
      act();
    });
  });
}

// All that are there follow, also those without a stage: what they held before is of no use any more.
void PipelineKeeper::load(const Recovery::Load& order) {
  loaded_ = order;
  std::map<std::string, Endpoint> endpoints;
  for (const std::string& node : recovery_.here()) endpoints[node] = endpoints_.at(node);
  layout_ = lay_out(settings_.base, order.plan, endpoints, settings_.config.stall_timeout_s);
  for (const StageAssignment& stage : order.plan.stages) {
    const std::string& node = order.plan.devices[static_cast<size_t>(stage.device)];
    Membership::Limits limits;
    limits.stall_s = std::max(Membership::kStallLeast_s, kStepsOfStall * longest_step_s(order.live, stage));
    if (settings_.config.stall_timeout_s > 0) {
      limits.stall_s = settings_.config.stall_timeout_s;
      limits.silence_s = std::min(limits.silence_s, settings_.config.stall_timeout_s);
    }
    membership_.set_limits(node, limits);
  }
  const LoadPlan statement = signed_plan(node_.identity(), layout_, order.epoch);
  for (const std::string& node : recovery_.here()) {
    if (node != head_) (void)node_.tell(node, statement);
  }
  auto follow = [](PipelineKeeper* self, PipelineLayout layout, uint64_t epoch,
                   std::weak_ptr<int> alive) -> boost::asio::awaitable<void> {
    std::string unreachable;
    const Result<void> followed = co_await self->node_.follow(std::move(layout), epoch, unreachable);
    if (alive.expired() || (followed.has_error() && followed.error().code == Errc::kCancelled)) co_return;
    self->recovery_.ready(self->head_, epoch, followed ? "" : followed.error().message, unreachable,
                          self->now());
    self->act();
  };
  boost::asio::co_spawn(node_.io().executor(), follow(this, layout_, order.epoch, alive_),
                        boost::asio::detached);
}

void PipelineKeeper::resume(uint64_t epoch) {
  if (!loaded_ || loaded_->epoch != epoch) return;
  if (on_laid_out_) on_laid_out_(loaded_->live, loaded_->plan, layout_);
  coordinator_.resume(epoch, layout_, scheduler_limits(layout_),
                      pipeline_model(loaded_->live, loaded_->plan, settings_.config.sequences));
}

void PipelineKeeper::examine(const std::string& node) {
  if (node != head_) return void(node_.tell(node, Examine{}));
  auto look = [](PipelineKeeper* self, std::weak_ptr<int> alive) -> boost::asio::awaitable<void> {
    const std::string failure = co_await self->node_.examine();
    if (alive.expired()) co_return;
    self->recovery_.examined(self->head_, failure, self->now());
    self->act();
  };
  boost::asio::co_spawn(node_.io().executor(), look(this, alive_), boost::asio::detached);
}

void PipelineKeeper::happened(const ClusterEvent& event) {
  using Kind = ClusterEvent::Kind;
  const bool bad = event.kind == Kind::kLost || event.kind == Kind::kLinkLost ||
                   event.kind == Kind::kFailed || event.kind == Kind::kDown || event.kind == Kind::kRefused ||
                   event.kind == Kind::kSuspect;
  // What happens to a node it can bring about itself, as often as it likes while there is no plan without it.
  const std::optional<std::string> line =
      event.node.empty() ? event.text : lines_.line(event.node, event.text, now());
  if (line) spdlog::log(bad ? spdlog::level::warn : spdlog::level::info, "{}", *line);
  counters_.joined += event.kind == Kind::kJoined;
  counters_.lost += event.kind == Kind::kLost;
  if (event.kind == Kind::kFailed) ++counters_.failed[event.node];
  counters_.suspected += event.kind == Kind::kSuspect;
  counters_.resumed += event.kind == Kind::kResumed;
  counters_.stood_still_s += event.seconds;
  events_.push_back(event);
  if (events_.size() > kEventsMax) events_.pop_front();
  if (on_event_) on_event_(event);
}

void PipelineKeeper::set_on_event(OnEvent on_event) {
  node_.io().call([&] {
    on_event_ = std::move(on_event);
    return 0;
  });
}

PipelineKeeper::Counters PipelineKeeper::counters() const {
  Counters counters = counters_;
  counters.stale = recovery_.stale() + node_.refused_results();
  return counters;
}

Result<void> PipelineKeeper::drain(const std::string& node, bool undo) {
  const Result<void> drained = undo ? recovery_.undrain(node, now()) : recovery_.drain(node, now());
  act();
  return drained;
}

void PipelineKeeper::accuse(const Suspects::Fault& fault) {
  recovery_.faulted(fault, now());
  act();
}

std::string PipelineKeeper::state_of(const std::string& node) const {
  if (node == head_) return "head";
  if (joining_.contains(node)) return "joining";
  if (!recovery_.is_here(node)) return membership_.quarantined_s(node, now()) > 0 ? "quarantined" : "lost";
  if (recovery_.is_suspect(node)) return "suspect";
  // The last plan is remembered while none is possible; nothing is computed by it then.
  const bool used = recovery_.in_plan(node) && recovery_.state() != Recovery::State::kDown;
  if (recovery_.is_draining(node)) return used || recovery_.is_leaving(node) ? "draining" : "drained";
  return used ? "in use" : "spare";
}

std::vector<PipelineKeeper::Member> PipelineKeeper::members() const {
  std::vector<Member> members;
  for (const auto& [name, memory] : memory_) {
    const auto ahead = ahead_.find(name);
    Member member{name,
                  "",
                  memory,
                  ahead == ahead_.end() ? FetchedAhead{} : ahead->second,
                  membership_.silent_s(name, now()),
                  membership_.quarantined_s(name, now())};
    member.state = state_of(name);
    members.push_back(std::move(member));
  }
  return members;
}

}  // namespace shoal
