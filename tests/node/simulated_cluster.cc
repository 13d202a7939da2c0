#include "tests/node/simulated_cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "node/coordinator.h"
#include "node/pipeline_setup.h"
#include "node/recovery.h"
#include "planner/planner.h"
#include "tests/node/simulated_node.h"

namespace shoal::test {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr double kFaultsBegin_s = 2, kFaultsEnd_s = 22, kPatience_s = 900;
constexpr int kContext = 256;

const std::vector<std::string> kNames = {"head", "a", "b", "c", "d"};

PlanInput known_devices(Network& network) {
  PlanInput input;
  input.model.n_layer = kSimulatedLayers;
  input.model.n_embd = 64;
  input.model.layer_bytes.assign(kSimulatedLayers, 10 * kMiB);
  input.model.layer_kv_bytes.assign(kSimulatedLayers, kMiB);
  input.model.embedding_bytes = input.model.output_bytes = kMiB;
  input.model.hidden_bytes_per_row = 256;
  for (const std::string& name : kNames) {
    DeviceProfile device;
    device.name = name;
    device.memory_bytes = static_cast<uint64_t>(network.whole(40, 60)) * kMiB;
    device.decode_layer = {{1, 1e-3}};
    device.output_head = {{1, 1e-3}};
    device.prefill_layer_row_seconds = 4e-4;
    input.devices.push_back(device);
  }
  input.links = LinkTable(static_cast<int>(kNames.size()), {1e-3, 1e8});
  return input;
}

struct Asked {
  std::vector<int32_t> prompt;
  int max_tokens = 0;
  SamplerOptions sampling;
  double asked_s = 0;
  uint64_t id = 0;
  std::vector<int32_t> tokens;
  int ends = 0;
  FinishReason reason = FinishReason::kStop;
  Error error;
  bool cancelled = false;
};

// What one process that is never disturbed answers.
std::vector<int32_t> undisturbed(const Asked& asked) {
  Sampler sampler(asked.sampling);
  uint64_t state = 0;
  std::vector<int32_t> answer;
  for (const int32_t token : asked.prompt) sampler.accept(token), state = next_state(state, token);
  while (static_cast<int>(answer.size()) < asked.max_tokens) {
    const int32_t token = sampler.sample(candidates_of(state));
    sampler.accept(token);
    answer.push_back(token);
    state = next_state(state, token);
  }
  return answer;
}

// The head's process: what node/pipeline_keeper.cc does, in simulated time.
class SimHead : public PipelineHost {
 public:
  SimHead(SimWorld& world, const PlanInput& known, SimulatedClusterRun& run)
      : world_(world), run_(run), self_(*world.nodes.at("head")), recovery_(known, 0) {
    base_.head = "head";
    base_.rows_max = 32;
    base_.n_embd = 64;
    base_.n_vocab = kSimulatedVocabulary;
    base_.context = kContext;
    base_.slots = 3;
    base_.steps_in_flight_max = 1;
    for (const DeviceProfile& device : known.devices) profiles_[device.name] = device;
    coordinator_.emplace(*this, base_, scheduler_limits(base_), pipeline_model({}, {}, base_.slots), nullptr);
    coordinator_->suspend();
    coordinator_->set_keeper({[this](const Error& error) { recovery_.failed(error, now_s()), act(); },
                              [this] { recovery_.answered(); }});
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
  bool went_down() const { return went_down_; }
  void noticed_when_lost(const std::string& node, double since_s) { faulty_since_[node] = since_s; }

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
      const Membership::Verdict verdict = membership_.may_join(node, now_s());
      if (!verdict.admitted) {
        SimMessage refused;
        refused.kind = SimMessage::Kind::kRefused;
        link->send(1, refused);
        return;
      }
      membership_.joined(node, now_s());
      controls_[node] = link;
      if (!message.text.empty()) {
        const Result<PipelineLayout> layout = layout_from_json(message.text);
        if (layout) recovery_.remember(plan_of(*layout), message.epoch);
      }
      // Measuring its links takes a while.
      world_.network.after(world_.network.uniform(0.05, 0.5), [this, node, link] {
        if (!has(node, link)) return;
        std::vector<Recovery::MeasuredLink> links;
        for (const std::string& other : kNames) {
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
    } else if (const auto* event = std::get_if<ClusterEvent>(&action)) {
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

class Simulation {
 public:
  Simulation(uint64_t seed, const SimulatedFaults& faults) : world_(seed), faults_(faults) {
    for (const std::string& name : kNames) {
      nodes_[name] = std::make_unique<SimNode>(world_, name);
      nodes_[name]->load_seconds = net().uniform(0.05, 1.5);
      world_.nodes[name] = nodes_[name].get();
    }
    head_.emplace(world_, known_devices(net()), run_);
    for (const std::string& name : kNames)
      if (name != "head") nodes_[name]->start();
  }

  SimulatedClusterRun run() {
    for (int i = net().whole(6, 12); i > 0; --i) ask_at(net().uniform(0.5, kFaultsEnd_s));
    plan_faults();
    const double over_s = std::max(kFaultsEnd_s, calm_s_);
    while (net().step()) {
      if (net().now() > over_s && !last_) {
        last_ = requests_.size();
        ask_at(net().now());
      }
      if (last_ && all_over()) {
        const Asked& last = *requests_.back();
        if (last.error.message.empty()) break;
        if (net().now() > over_s + kPatience_s) break;
        ask_at(net().now() + 1);  // refused: asked again, as a client would
      }
      if (net().now() > over_s + 2 * kPatience_s) break;
    }
    run_.healthy_after_s = net().now() - over_s;
    judge();
    run_.replayed = head_->coordinator().replayed();
    run_.stale = static_cast<int>(head_->recovery().stale());
    run_.wrong.insert(run_.wrong.end(), world_.wrong.begin(), world_.wrong.end());
    return std::move(run_);
  }

 private:
  Network& net() { return world_.network; }
  std::string any_worker() { return kNames[static_cast<size_t>(net().whole(1, 4))]; }
  std::string any_other(const std::string& than) {
    std::string name = than;
    while (name == than) name = kNames[static_cast<size_t>(net().whole(0, 4))];
    return name;
  }
  double moment() { return net().uniform(kFaultsBegin_s, kFaultsEnd_s); }
  double until(double time_s) { return calm_s_ = std::max(calm_s_, time_s), time_s; }

  void ask_at(double time_s) {
    auto asked = std::make_shared<Asked>();
    asked->asked_s = time_s;
    for (int i = net().whole(1, 60); i > 0; --i)
      asked->prompt.push_back(net().whole(0, kSimulatedVocabulary - 1));
    asked->max_tokens = net().whole(1, 60);
    asked->sampling.temperature = net().chance(0.5) ? 0.0f : 0.9f;
    asked->sampling.repeat_penalty = net().chance(0.3) ? 1.2f : 1.0f;
    asked->sampling.seed = static_cast<uint64_t>(net().whole(0, 1 << 30));
    const bool cancels = net().chance(0.1);
    requests_.push_back(asked);
    net().at(time_s, [this, asked, cancels] {
      GenerationRequest request;
      request.prompt = asked->prompt;
      request.max_tokens = asked->max_tokens;
      request.sampling = asked->sampling;
      request.on_event = [this, asked](const GenerationEvent& event) {
        if (asked->ends > 0) run_.wrong.emplace_back("an event after the end");
        if (event.token >= 0) asked->tokens.push_back(event.token);
        if (!event.finished) return;
        ++asked->ends;
        asked->reason = event.reason;
        if (event.reason == FinishReason::kError) asked->error = event.error;
      };
      asked->id = head_->coordinator().submit(std::move(request));
      if (!cancels) return;
      asked->cancelled = true;
      net().after(net().uniform(0, 3), [this, asked] { head_->coordinator().cancel(asked->id); });
    });
  }

  void plan_faults() {
    for (int i = 0; i < faults_.kills; ++i) kill_at(any_worker(), moment(), net().uniform(0.3, 10));
    if (faults_.flapping) {
      const std::string node = any_worker();
      for (int i = 0; i < 6; ++i) kill_at(node, kFaultsBegin_s + 3 * i, 0.5);
    }
    for (int i = 0; i < faults_.stops; ++i) {
      const std::string node = any_worker();
      const double begin_s = moment(), end_s = until(begin_s + net().uniform(0.2, 12));
      net().at(begin_s, [this, node, end_s] {
        if (!net().is_up(node) || net().is_stopped(node)) return;
        net().stop(node);
        if (end_s - net().now() > 3.2) head_->noticed_when_lost(node, net().now());
      });
      net().at(end_s, [this, node] { net().go_on(node); });
    }
    for (int i = 0; i < faults_.cuts + faults_.one_way_cuts; ++i) {
      const std::string node = any_worker(), other = any_other(node);
      const bool both = i < faults_.cuts;
      const double begin_s = moment(), end_s = until(begin_s + net().uniform(0.2, 15));
      const bool swapped = net().chance(0.5);
      const std::string from = swapped ? other : node, to = swapped ? node : other;
      net().at(begin_s, [this, from, to, both, end_s] {
        net().cut(from, to);
        if (both) net().cut(to, from);
        const std::string far = from == "head" ? to : to == "head" ? from : "";
        if (!far.empty() && end_s - net().now() > 3.2) head_->noticed_when_lost(far, net().now());
      });
      net().at(end_s, [this, from, to] { net().mend(from, to), net().mend(to, from); });
    }
    for (int i = 0; i < faults_.slowdowns; ++i) {
      SimNode* const node = nodes_.at(any_worker()).get();
      const double begin_s = moment();
      net().at(begin_s, [node] { node->set_slow(4); });
      net().at(until(begin_s + net().uniform(2, 15)), [node] { node->set_slow(1); });
    }
    for (int i = 0; i < faults_.drains; ++i)
      net().at(moment(), [this, node = any_worker()] { (void)head_->recovery().drain(node, net().now()); });
  }

  void kill_at(const std::string& node, double time_s, double away_s) {
    net().at(time_s, [this, node] {
      if (net().is_up(node)) world_.kill(node);
    });
    net().at(until(time_s + away_s), [this, node] {
      if (!net().is_up(node)) nodes_.at(node)->start();
    });
  }

  bool all_over() const {
    return std::all_of(requests_.begin(), requests_.end(), [](const auto& asked) { return asked->ends > 0; });
  }

  void judge() {
    for (size_t i = 0; i < requests_.size(); ++i) {
      const Asked& asked = *requests_[i];
      const auto wrong = [&](const std::string& what) {
        run_.wrong.push_back(fmt::format("request {} (asked at {:.3f}): {}", i, asked.asked_s, what));
      };
      const std::vector<int32_t> expected = undisturbed(asked);
      if (asked.ends != 1) wrong(fmt::format("ended {} times", asked.ends));
      const bool begins = asked.tokens.size() <= expected.size() &&
                          std::equal(asked.tokens.begin(), asked.tokens.end(), expected.begin());
      if (!begins) wrong("its answer is not that of an undisturbed run");
      if (asked.reason == FinishReason::kError) {
        ++run_.refused;
        if (asked.error.code != Errc::kPeerLost) wrong("ended with " + asked.error.message);
        if (!head_->went_down() && faults_.cuts + faults_.one_way_cuts == 0)
          wrong("refused though there was always a plan: " + asked.error.message);
      } else if (asked.reason == FinishReason::kCancelled) {
        ++run_.cancelled;
        if (!asked.cancelled) wrong("cancelled by nobody");
      } else {
        ++run_.answered;
        if (asked.tokens.size() != expected.size()) wrong("its answer is cut short");
      }
    }
    if (requests_.back()->reason != FinishReason::kLength &&
        requests_.back()->reason != FinishReason::kCancelled)
      run_.wrong.emplace_back("no answer after all was well again: " + requests_.back()->error.message);
  }

  SimWorld world_;
  const SimulatedFaults faults_;
  SimulatedClusterRun run_;
  std::map<std::string, std::unique_ptr<SimNode>> nodes_;
  std::optional<SimHead> head_;
  std::vector<std::shared_ptr<Asked>> requests_;
  std::optional<size_t> last_;
  double calm_s_ = 0;
};

}  // namespace

SimulatedFaults faults_of(uint64_t seed) {
  std::mt19937_64 random(seed * 2654435761u + 17);
  const auto up_to = [&](int most) { return static_cast<int>(random() % static_cast<uint64_t>(most + 1)); };
  SimulatedFaults faults;
  switch (seed % 8) {  // some of each alone, the rest mixed
    case 0:
      faults.kills = 1 + up_to(2);
      break;
    case 1:
      faults.stops = 1 + up_to(2);
      break;
    case 2:
      faults.cuts = 1 + up_to(2);
      break;
    case 3:
      faults.one_way_cuts = 1 + up_to(2);
      break;
    case 4:
      faults.slowdowns = 1 + up_to(3);
      break;
    default:
      faults = {up_to(4), up_to(2), up_to(3), up_to(2), up_to(2), up_to(1), up_to(4) == 0};
  }
  return faults;
}

SimulatedClusterRun simulate_cluster(uint64_t seed, const SimulatedFaults& faults) {
  return Simulation(seed, faults).run();
}

}  // namespace shoal::test
