// Keeps a pipeline running on the head while devices come and go: carries out what Membership and Recovery
// decide, over the node's channels, the coordinator and the planner. The decisions are theirs; this is the
// shell around them. It belongs to the io thread; what may be called from elsewhere says so. Plans are made
// on a thread of its own, those that look ahead on another.
#pragma once

#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "node/cluster_config.h"
#include "node/coordinator.h"
#include "node/membership.h"
#include "node/node.h"
#include "node/recovery.h"
#include "node/revocation.h"
#include "node/strangers.h"
#include "sharding/shard.h"

namespace shoal {

class PipelineKeeper {
 public:
  struct Settings {
    ClusterConfig config;
    PipelineLayout base;  // sizes and head; no stages
    PlanInput known;      // of the cluster file's nodes, those that are not there yet by name alone
    std::map<std::string, Endpoint> endpoints;
    std::string revoked_file;  // node/revocation.h; empty: nobody is
    std::string drained_file;  // node/names_file.h: who is drained, over restarts; empty: it is forgotten
  };
  // What runs from now on; on the io thread, before the first step of it.
  using OnLaidOut = std::function<void(const PlanInput&, const Plan&, const PipelineLayout&)>;
  using OnEvent = std::function<void(const ClusterEvent&)>;

  // `plan`: what runs already, on nodes that are all there and linked. Without one the pipeline begins when
  // the nodes have joined; those of the cluster file are waited for a few seconds.
  PipelineKeeper(Node& node, Coordinator& coordinator, Settings settings, const std::optional<Plan>& plan,
                 OnLaidOut on_laid_out);
  ~PipelineKeeper();
  PipelineKeeper(const PipelineKeeper&) = delete;
  PipelineKeeper& operator=(const PipelineKeeper&) = delete;

  struct Member {
    std::string name;
    // "head", "in use", "spare", "joining", "draining", "drained", "suspect", "lost", "quarantined"
    std::string state;
    uint64_t memory_bytes = 0;
    FetchedAhead ahead;  // what it would get if another were lost, and what of it is on its disk
    double silent_s = 0;
    double quarantined_s = 0;  // for so long from now
  };
  struct Counters {
    uint64_t joined = 0, lost = 0, resumed = 0, suspected = 0, stale = 0;
    std::map<std::string, uint64_t> failed;  // by node or hop; "": nobody's, as far as is known
    double stood_still_s = 0;                // all times that answers did, added up
  };

  // On the io thread.
  std::vector<Member> members() const;
  const std::deque<ClusterEvent>& events() const { return events_; }  // the latest, oldest first
  Counters counters() const;
  Recovery::State state() const { return recovery_.state(); }
  uint64_t epoch() const { return recovery_.epoch(); }
  Result<void> drain(const std::string& node, bool undo);
  // A node was found to compute wrong numbers.
  void accuse(const Suspects::Fault& fault);
  // Also told from now on; from any other thread. Null ends it.
  void set_on_event(OnEvent on_event);

 private:
  static constexpr size_t kEventsMax = 64;

  // A node that has joined and is being measured.
  struct Joining {
    DeviceProfile device;
    std::vector<Recovery::MeasuredLink> links;
    std::vector<std::string> to_ask;  // who has still to measure the way to it, the last first
    std::string asked;                // who does now
    double deadline_s = 0;
    int rounds = 0;
  };

  NodeEvents node_events();
  void tick();
  void note_sleep();
  void keep_drained();
  std::string state_of(const std::string& node) const;
  void shut_out_revoked();
  void arm_tick();
  void act();
  void carry(const Recovery::Action& action);
  void plan(const Recovery::MakePlan& order);
  void load(const Recovery::Load& order);
  void resume(uint64_t epoch);
  void examine(const std::string& node);
  void look_ahead();
  void tell_ahead(const std::map<std::string, std::vector<ShardSpec>>& shards);
  void on_fetched_ahead(const std::string& node, const FetchedAhead& fetched);
  void happened(const ClusterEvent& event);
  void on_lost(const std::string& node, const std::string& why);
  void on_joined(const std::string& node, const Join& join);
  void remember(const std::string& node, const LoadPlan& held);
  void warn_of(const std::string& node, const std::string& what);
  void on_measured(const std::string& node, const Measured& measured);
  void ask_next(const std::string& joining);
  void measured_by_head(const std::string& joining, const Result<LinkProfile>& link);
  void add_link(Joining& joining, const std::string& from, const std::string& to, LinkProfile link);
  std::vector<std::string> unmeasured(Joining& joining) const;
  void measure(const std::string& node, const std::vector<std::string>& others);
  void finish_join(const std::string& node);
  std::string peers_json(const std::vector<std::string>& names) const;
  double now() const { return node_.now_s(); }

  Node& node_;
  Coordinator& coordinator_;
  const Settings settings_;
  const std::string head_;
  OnLaidOut on_laid_out_;
  OnEvent on_event_;
  std::map<std::string, Endpoint> endpoints_;
  std::map<std::string, uint64_t> memory_;
  std::map<std::string, FetchedAhead> ahead_;
  Membership membership_;
  Recovery recovery_;
  std::map<std::string, Joining> joining_;
  std::optional<Recovery::Load> loaded_;  // the last
  PipelineLayout layout_;                 // of it
  std::deque<ClusterEvent> events_;
  StrangerLines lines_;  // about what a node says and can repeat as it likes
  Counters counters_;
  Revocations revoked_;
  std::set<std::string> kept_drained_;  // as in the file
  double slept_s_ = 0;                  // this device, since it was started
  int ticks_to_look_ = 0;
  bool acting_ = false;
  boost::asio::steady_timer ticks_;
  boost::asio::thread_pool planner_{1};
  boost::asio::thread_pool foresight_{1};  // plans nobody waits for
  std::atomic<uint64_t> looks_ahead_{0};   // the last one counts
  std::shared_ptr<int> alive_ = std::make_shared<int>();
};

}  // namespace shoal
