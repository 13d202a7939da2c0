// A worker of a simulated cluster (simulated_cluster.h): what node/node_follow.cc and node/engine.cc do, in
// simulated time: it calls the head, follows plans, computes steps and passes them on, and tells that it is
// alive.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "node/engine.h"
#include "node/membership.h"
#include "node/pipeline_host.h"
#include "node/pipeline_layout.h"
#include "tests/node/simulated_network.h"

namespace shoal::test {

// What the "model" makes of a token and all before it.
uint64_t next_state(uint64_t state, int32_t token);
inline constexpr int32_t kSimulatedVocabulary = 997;
inline constexpr int kSimulatedLayers = 12;
std::vector<Candidate> candidates_of(uint64_t state, int wanted);  // 0: the whole vocabulary

// What crosses the simulated wire: the fields of transport/messages.h that matter here.
struct SimMessage {
  enum class Kind {
    kHello,
    kRefused,
    kBeat,
    kLoadPlan,
    kReady,
    kStep,
    kResult,
    kExamine,
    kExamined
  } kind = Kind::kBeat;
  std::string node;  // hello: who
  uint64_t epoch = 0;
  int stage = 0;
  std::string text;                    // plan as JSON; failure
  std::string unreachable;             // ready
  StepFault fault = StepFault::kNone;  // result: found by `stage`
  uint64_t progress = 0;
  bool working = false;
  std::shared_ptr<const StepJob> job;
};
using Link = Connection<SimMessage>;
using LinkPtr = std::shared_ptr<Link>;

// Where the parts of the simulation find each other, and what they note.
struct SimWorld {
  explicit SimWorld(uint64_t seed) : network(seed) {}
  Network network;
  std::vector<std::weak_ptr<Link>> links;
  std::map<std::string, class SimNode*> nodes;
  std::function<void(const std::string& node, const LinkPtr&)>
      on_hello;  // at the head: side 1 of the link is its
  std::string head;
  uint64_t head_incarnation = 0;
  std::vector<std::string> wrong;
  double seconds_per_row_layer = 4e-4;
  std::set<std::pair<std::string, std::string>> bad_wires;  // from, to: every frame comes damaged
  std::set<uint64_t> faulty_epochs;  // a step of these has failed: those behind it find gaps
  LinkPtr connect(Link::End a, Link::End b);
  void kill(const std::string& host);
};

class SimNode {
 public:
  SimNode(SimWorld& world, std::string name) : world_(world), name_(std::move(name)) {}

  void start();  // the process
  void set_slow(double times) { slow_ = times; }
  void set_broken(bool broken) { broken_ = broken; }  // what it computes is not finite
  void swallow() { swallows_ = true; }                // the steps; it looks well all the same
  void glitch() { glitches_ = 1; }                    // once
  void damage() { damages_ = 1; }                     // the next frame comes to it damaged
  double load_seconds = 0.3;

  // The head's own stages use the same code, with its own way home.
  void start_as_head(std::function<void(SimMessage)> home);
  void follow(uint64_t epoch, const PipelineLayout& layout);
  void submit(std::shared_ptr<StepJob> job);
  void drop_pipeline();
  uint64_t epoch() const { return epoch_; }
  bool takes(int stage, uint64_t epoch) const { return linked_ && epoch == epoch_ && hosts(stage); }
  void attach(int stage, const LinkPtr& link);  // a link that feeds a stage
  uint64_t incarnation() const { return incarnation_; }

 private:
  bool alive(uint64_t incarnation) const { return world_.network.runs(name_, incarnation); }
  bool hosts(int stage) const {
    return stage >= 0 && stage <= layout_.last_stage() &&
           layout_.node_of_stage[static_cast<size_t>(stage)] == name_;
  }
  void later(double seconds, Network::Handler handler);
  void call_head(double pause_s);
  void on_head(const SimMessage& message);
  void lose_head();
  void beat();
  void ready(uint64_t epoch, const std::string& failure, const std::string& unreachable);
  void connect_next(uint64_t epoch, int stage, double deadline_s);
  void compute();
  void done(const std::shared_ptr<StepJob>& job);
  void forward(const std::shared_ptr<StepJob>& job);
  void fail(uint64_t epoch, const std::string& why, StepFault fault = StepFault::kNone, int stage = 0);
  void receive(int stage, uint64_t epoch, const std::string& from, const SimMessage& message);
  std::string apply(StepJob& job);

  SimWorld& world_;
  const std::string name_;
  uint64_t incarnation_ = 0;
  double slow_ = 1;
  bool broken_ = false, swallows_ = false;
  int glitches_ = 0, damages_ = 0;
  std::function<void(SimMessage)> home_;
  LinkPtr head_;
  Membership head_watch_;
  uint64_t epoch_ = 0;
  bool linked_ = false, loading_ = false, computing_ = false;
  PipelineLayout layout_;
  std::map<int, LinkPtr> next_;
  std::vector<LinkPtr> feeds_;
  std::map<int, uint64_t> last_step_;
  std::deque<std::shared_ptr<StepJob>> queue_;
  std::map<int, std::vector<std::vector<uint64_t>>>
      caches_;  // by stage and slot: the state after each position
  uint64_t progress_ = 0;
};

}  // namespace shoal::test
