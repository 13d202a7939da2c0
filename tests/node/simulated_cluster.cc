#include "tests/node/simulated_cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "tests/node/simulated_head.h"

namespace shoal::test {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr double kFaultsBegin_s = 2, kFaultsEnd_s = 22, kPatience_s = 900;

PlanInput known_devices(Network& network) {
  PlanInput input;
  input.model.n_layer = kSimulatedLayers;
  input.model.n_embd = 64;
  input.model.layer_bytes.assign(kSimulatedLayers, 10 * kMiB);
  input.model.layer_kv_bytes.assign(kSimulatedLayers, kMiB);
  input.model.embedding_bytes = input.model.output_bytes = kMiB;
  input.model.hidden_bytes_per_row = 256;
  for (const std::string& name : kSimulatedNodes) {
    DeviceProfile device;
    device.name = name;
    device.memory_bytes = static_cast<uint64_t>(network.whole(40, 60)) * kMiB;
    device.decode_layer = {{1, 1e-3}};
    device.output_head = {{1, 1e-3}};
    device.prefill_layer_row_seconds = 4e-4;
    input.devices.push_back(device);
  }
  input.links = LinkTable(static_cast<int>(kSimulatedNodes.size()), {1e-3, 1e8});
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
    const int32_t token = sampler.sample(candidates_of(state, asked.sampling.candidates_needed()));
    sampler.accept(token);
    answer.push_back(token);
    state = next_state(state, token);
  }
  return answer;
}

class Simulation {
 public:
  Simulation(uint64_t seed, const SimulatedFaults& faults) : world_(seed), faults_(faults) {
    for (const std::string& name : kSimulatedNodes) {
      nodes_[name] = std::make_unique<SimNode>(world_, name);
      nodes_[name]->load_seconds = net().uniform(0.05, 1.5);
      world_.nodes[name] = nodes_[name].get();
    }
    head_.emplace(world_, known_devices(net()), run_);
    for (const std::string& name : kSimulatedNodes)
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
  std::string any_worker() { return kSimulatedNodes[static_cast<size_t>(net().whole(1, 4))]; }
  std::string any_other(const std::string& than) {
    std::string name = than;
    while (name == than) name = kSimulatedNodes[static_cast<size_t>(net().whole(0, 4))];
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
      net().at(end_s, [this, node] {
        net().go_on(node);
        head_->healed(node);
      });
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
      net().at(end_s, [this, from, to] {
        net().mend(from, to), net().mend(to, from);
        if (from == "head" || to == "head") head_->healed(from == "head" ? to : from);
      });
    }
    for (int i = 0; i < faults_.slowdowns; ++i) {
      SimNode* const node = nodes_.at(any_worker()).get();
      const double begin_s = moment();
      net().at(begin_s, [node] { node->set_slow(4); });
      net().at(until(begin_s + net().uniform(2, 15)), [node] { node->set_slow(1); });
    }
    plan_wrong_numbers();
    for (int i = 0; i < faults_.swallowers; ++i)
      net().at(until(moment()), [node = nodes_.at(any_worker()).get()] { node->swallow(); });
    for (int i = 0; i < faults_.drains; ++i)
      net().at(moment(), [this, node = any_worker()] { (void)head_->recovery().drain(node, net().now()); });
  }

  void plan_wrong_numbers() {
    for (int i = 0; i < faults_.glitches; ++i)
      net().at(until(moment()), [node = nodes_.at(any_worker()).get()] { node->glitch(); });
    for (int i = 0; i < faults_.damages; ++i)
      net().at(until(moment()), [node = nodes_.at(any_worker()).get()] { node->damage(); });
    if (faults_.broken) {
      SimNode* const node = nodes_.at(any_worker()).get();
      const double begin_s = moment();
      net().at(begin_s, [node] { node->set_broken(true); });
      net().at(until(begin_s + net().uniform(5, 15)), [node] { node->set_broken(false); });
    }
    if (faults_.bad_wire) {
      const std::string from = any_worker(), to = any_other(from);
      const double begin_s = moment();
      net().at(begin_s, [this, from, to] { world_.bad_wires.insert({from, to}); });
      net().at(until(begin_s + net().uniform(5, 15)), [this] { world_.bad_wires.clear(); });
    }
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
        const bool gave_up = asked.error.code == Errc::kBadFrame && run_.suspects > 0;
        if (asked.error.code != Errc::kPeerLost && !gave_up) wrong("ended with " + asked.error.message);
        if (!gave_up && !head_->went_down() && faults_.cuts + faults_.one_way_cuts == 0)
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
  switch (seed % 10) {  // some of each alone, the rest mixed
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
    case 8:
      faults.glitches = 1 + up_to(1), faults.damages = up_to(1);
      break;
    case 9:
      faults.broken = up_to(1) == 0;
      faults.bad_wire = !faults.broken;
      break;
    default:
      faults = {up_to(4),      up_to(2), up_to(3), up_to(2),      up_to(2),     up_to(1),
                up_to(4) == 0, up_to(2), up_to(2), up_to(3) == 0, up_to(3) == 0};
  }
  return faults;
}

SimulatedClusterRun simulate_cluster(uint64_t seed, const SimulatedFaults& faults) {
  return Simulation(seed, faults).run();
}

}  // namespace shoal::test
