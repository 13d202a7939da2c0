// The head of a simulated cluster (simulated_cluster.h): what node/pipeline_keeper.cc does around Membership
// and Recovery, and the host that the coordinator runs on, in simulated time.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "node/coordinator.h"
#include "node/pipeline_setup.h"
#include "node/recovery.h"
#include "planner/planner.h"
#include "tests/node/simulated_cluster.h"
#include "tests/node/simulated_node.h"

namespace shoal::test {

inline const std::vector<std::string> kSimulatedNodes = {"head", "a", "b", "c", "d"};
inline constexpr int kSimulatedContext = 256;

// The head's process: what node/pipeline_keeper.cc does, in simulated time.
class SimHead : public PipelineHost {
 public:
  SimHead(SimWorld& world, const PlanInput& known, SimulatedClusterRun& run)
      : world_(world), run_(run), self_(*world.nodes.at("head")), recovery_(known, 0) {
    base_.head = "head";
    base_.rows_max = 32;
    base_.n_embd = 64;
    base_.n_vocab = kSimulatedVocabulary;
    base_.context = kSimulatedContext;
    base_.slots = 3;
    base_.steps_in_flight_max = 1;
    for (const DeviceProfile& device : known.devices) profiles_[device.name] = device;
    coordinator_.emplace(*this, base_, scheduler_limits(base_), pipeline_model({}, {}, base_.slots), nullptr);
    coordinator_->suspend();
    coordinator_->set_keeper({[this](const Error& error) { recovery_.failed(error, now_s()), act(); },
                              [this] { recovery_.answered(now_s()); },
                              [this] { recovery_.overflowed(now_s()), act(); }});
    self_.start_as_head([this](const SimMessage& message) { from_node("head", message); });
    world_.head = "head";
    world_.head_incarnation = self_.incarnation();
    world_.on_hello = [this](const std::string& node, const LinkPtr& link) { greet(node, link); };
    recovery_.begin_down({"a", "b", "c", "d"}, 5, now_s());
    tick();
    beat();
  }
  ~SimHead() override { over_ = true; }

  Coordinator& coordinator() { return *coordinator_; }
  Recovery& recovery() { return recovery_; }
  std::string a_worker_in_use() {
    for (const std::string& node : layout_.node_of_stage)
      if (node != "head") return node;
    return "";
  }
  bool went_down() const { return went_down_; }
  void noticed_when_lost(const std::string& node, double since_s) {
    if (recovery_.is_here(node)) faulty_since_[node] = since_s;
  }
  // The fault is over, by its own end or another's: it had so long to be noticed.
  void healed(const std::string& node) {
    const auto faulty = faulty_since_.find(node);
    if (faulty == faulty_since_.end()) return;
    if (recovery_.is_here(node))
      run_.slowest_notice_s = std::max(run_.slowest_notice_s, now_s() - faulty->second);
    faulty_since_.erase(faulty);
  }

  double now_s() const override { return world_.network.now(); }
  void post(std::function<void()> work) override { world_.network.after(0, std::move(work)); }
  void call(std::function<void()> work) override { work(); }
  void set_timer(Timer timer, double time_s, std::function<void()> work) override {
    const uint64_t generation = ++timers_[timer];
    if (time_s == kNever) return;
    world_.network.at(std::max(time_s, now_s()), [this, timer, generation, work = std::move(work)] {
      if (!over_ && timers_[timer] == generation) work();
    });
  }
  void send_step(std::unique_ptr<StepJob> job) override {
    self_.submit(std::shared_ptr<StepJob>(std::move(job)));
  }
  StepBuffer take_buffer() override { return std::make_shared<AlignedBuffer>(); }
  void set_on_outcome(std::function<void(StepOutcome)> on_outcome) override {
    on_outcome_ = std::move(on_outcome);
  }
  void ask_clocks() override {}
  std::optional<double> clock_ahead_s(const std::string&) const override { return std::nullopt; }

 private:
  void greet(const std::string& node, const LinkPtr& link) {
    link->set_far_end([this, node, weak = std::weak_ptr<Link>(link)](
                          const SimMessage& message) { hear(node, weak.lock(), message); },
                      [this, node, weak = std::weak_ptr<Link>(link)] { ended(node, weak.lock()); });
  }
  void hear(const std::string& node, const LinkPtr& link, const SimMessage& message) {
    if (message.kind == SimMessage::Kind::kHello) {
      const Membership::Verdict verdict =
          membership_.may_join(node, now_s(), recovery_.state() == Recovery::State::kDown);
      if (!verdict.admitted) {
        if (membership_.quarantined_s(node, now_s()) > 0) recovery_.calls(node, now_s());
        SimMessage refused;
        refused.kind = SimMessage::Kind::kRefused;
        link->send(1, refused);
        return;
      }
      membership_.joined(node, now_s());
      faulty_since_.erase(node);
      controls_[node] = link;
      if (!message.text.empty()) {
        const Result<PipelineLayout> layout = layout_from_json(message.text);
        if (layout) recovery_.remember(plan_of(*layout), message.epoch);
      }
      // Measuring its links takes a while.
      world_.network.after(world_.network.uniform(0.05, 0.5), [this, node, link] {
        if (!has(node, link)) return;
        std::vector<Recovery::MeasuredLink> links;
        for (const std::string& other : kSimulatedNodes) {
          links.push_back({node, other, {1e-3, 1e8}});
          links.push_back({other, node, {1e-3, 1e8}});
        }
        recovery_.joined(profiles_.at(node), links, now_s());
        act();
      });
      return;
    }
    if (!has(node, link)) return;
    membership_.heard(node, now_s());
    if (message.kind == SimMessage::Kind::kBeat)
      membership_.heartbeat(node, message.progress, message.working, now_s());
    else
      from_node(node, message);
    if (message.kind == SimMessage::Kind::kReady &&
        world_.network.chance(0.1)) {  // and once more, much too late
      world_.network.after(world_.network.uniform(0.5, 5), [this, node, message] {
        if (over_ || message.epoch == recovery_.epoch()) return;
        from_node(node, message);
      });
    }
  }
  bool has(const std::string& node, const LinkPtr& link) const {
    const auto found = controls_.find(node);
    return found != controls_.end() && found->second == link;
  }
  void ended(const std::string& node, const LinkPtr& link) {
    if (!has(node, link)) return;
    controls_.erase(node);
    membership_.left(node, now_s());
    lost(node, "its connection ended");
  }
  void lost(const std::string& node, const std::string& why) {
    const auto faulty = faulty_since_.find(node);
    if (faulty != faulty_since_.end() && recovery_.is_here(node)) {
      run_.slowest_notice_s = std::max(run_.slowest_notice_s, now_s() - faulty->second);
      faulty_since_.erase(faulty);
    }
    recovery_.lost(node, why, now_s());
    act();
  }
  void from_node(const std::string& node, const SimMessage& message) {
    if (message.kind == SimMessage::Kind::kReady) {
      recovery_.ready(node, message.epoch, message.text, message.unreachable, now_s());
      return act();
    }
    if (message.kind == SimMessage::Kind::kExamined) {
      recovery_.examined(node, message.text, now_s());
      return act();
    }
    if (message.fault != StepFault::kNone && message.epoch == self_.epoch()) {
      recovery_.faulted(blamed(message), now_s());
      act();
    }
    if (message.epoch != self_.epoch() || recovery_.suspended()) return;
    StepOutcome outcome;
    if (!message.job) {
      outcome.failed = true;
      outcome.error = {Errc::kPeerLost, message.text};
    } else {
      outcome.step_id = message.job->step_id;
      outcome.rows = message.job->outputs;
      outcome.stage_times = message.job->times;
    }
    on_outcome_(std::move(outcome));
  }
  // As node/node.cc tells it.
  Suspects::Fault blamed(const SimMessage& message) const {
    const auto at = static_cast<size_t>(message.stage);
    const std::string& to = layout_.node_of_stage[at];
    const std::string from = at > 0 ? layout_.node_of_stage[at - 1] : "head";
    Suspects::Fault fault;
    fault.computed = message.fault == StepFault::kOutput;
    fault.layer_begin = layout_.shard_of_stage[at].layers.begin;
    fault.layer_end = layout_.shard_of_stage[at].layers.end;
    fault.where = fault.computed ? to : from + " > " + to;
    fault.text = message.text;
    if (!fault.computed && from != "head") fault.nodes.push_back(from);
    fault.nodes.push_back(to);
    return fault;
  }
  void tick() {
    if (over_) return;
    for (const Membership::Loss& loss : membership_.tick(now_s())) {
      const LinkPtr link = controls_.at(loss.node);
      controls_.erase(loss.node);
      link->close(1);
      lost(loss.node, loss.why);
    }
    recovery_.tick(coordinator_->idle(), now_s());
    act();
    world_.network.after(Membership::kTick_s, [this] { tick(); });
  }
  void beat() {
    if (over_) return;
    for (const auto& [node, link] : controls_) link->send(1, SimMessage());
    world_.network.after(0.2, [this] { beat(); });
  }

  void act() {
    if (acting_) return;
    acting_ = true;
    for (auto actions = recovery_.take_actions(); !actions.empty(); actions = recovery_.take_actions())
      for (const Recovery::Action& action : actions) carry(action);
    acting_ = false;
  }
  void carry(const Recovery::Action& action) {
    if (std::holds_alternative<Recovery::Suspend>(action)) {
      coordinator_->suspend();
      self_.drop_pipeline();
    } else if (const auto* order = std::get_if<Recovery::MakePlan>(&action)) {
      const Result<ReplanAdvice> advice = carry_out(*order);
      world_.network.after(world_.network.uniform(0.002, 0.2), [this, ticket = order->ticket, advice] {
        if (over_) return;
        recovery_.planned(ticket, advice, now_s());
        act();
      });
    } else if (const auto* load = std::get_if<Recovery::Load>(&action)) {
      spread(*load);
    } else if (const auto* resume = std::get_if<Recovery::Resume>(&action)) {
      if (resume->epoch != loaded_->epoch) world_.wrong.push_back("another epoch resumes than was loaded");
      ++run_.resumed;
      coordinator_->resume(resume->epoch, layout_, scheduler_limits(layout_),
                           pipeline_model(loaded_->live, loaded_->plan, base_.slots));
    } else if (const auto* down = std::get_if<Recovery::Down>(&action)) {
      went_down_ = true;
      coordinator_->close({Errc::kPeerLost, down->why}, down->retry_after_s);
    } else if (const auto* up = std::get_if<Recovery::GiveUp>(&action)) {
      coordinator_->end_all(up->error, 1);
    } else if (const auto* exam = std::get_if<Recovery::Examine>(&action)) {
      SimMessage message;
      message.kind = SimMessage::Kind::kExamine;
      if (exam->node != "head" && controls_.contains(exam->node)) controls_.at(exam->node)->send(1, message);
      if (exam->node == "head") recovery_.examined("head", "", now_s());
    } else if (const auto* event = std::get_if<ClusterEvent>(&action)) {
      run_.faults += event->kind == ClusterEvent::Kind::kFailed && !event->node.empty();
      run_.suspects += event->kind == ClusterEvent::Kind::kSuspect;
      run_.cleared += event->kind == ClusterEvent::Kind::kCleared;
      run_.lost += event->kind == ClusterEvent::Kind::kLost;
      run_.log.push_back(fmt::format("{:8.3f} {}", event->time_s, event->text));
    }
  }
  void spread(const Recovery::Load& order) {
    if (loaded_ && order.epoch <= loaded_->epoch) world_.wrong.push_back("an epoch that is not higher");
    loaded_ = order;
    std::map<std::string, Endpoint> endpoints;
    for (const std::string& node : recovery_.here()) endpoints[node] = {"10.0.0.1", 1};
    layout_ = lay_out(base_, order.plan, endpoints, 0);
    SimMessage message;
    message.kind = SimMessage::Kind::kLoadPlan;
    message.epoch = order.epoch;
    message.text = layout_to_json(layout_);
    for (const auto& [node, link] : controls_)
      if (recovery_.is_here(node)) link->send(1, message);
    self_.follow(order.epoch, layout_);
  }

  SimWorld& world_;
  SimulatedClusterRun& run_;
  SimNode& self_;
  Membership membership_;
  Recovery recovery_;
  PipelineLayout base_, layout_;
  std::map<std::string, DeviceProfile> profiles_;
  std::map<std::string, LinkPtr> controls_;
  std::map<std::string, double> faulty_since_;
  std::optional<Recovery::Load> loaded_;
  std::map<Timer, uint64_t> timers_;
  std::function<void(StepOutcome)> on_outcome_;
  bool acting_ = false, went_down_ = false, over_ = false;
  std::optional<Coordinator> coordinator_;
};

}  // namespace shoal::test
