// One process of a cluster once it runs: it listens, hosts stages on its engine, and passes steps along the
// pipeline.
//
//   coordinator -> stage 0 -> stage 1 -> ... -> last stage -> coordinator
//
// A step goes to the engine where its stage is on this node, otherwise into the channel to the node that has
// it. The head holds a control channel to every other node, on which results, failures and statistics come
// home, and heartbeats go both ways. The pipeline is laid out anew under the next epoch when devices come or
// go: its links and the steps under way are dropped, the weights kept that are still needed. All of it runs
// on the io thread; public calls are made from the main thread and return when the io thread has answered,
// unless they say otherwise.
#pragma once

#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "node/certificate_keeper.h"
#include "node/engine.h"
#include "node/io_thread.h"
#include "node/membership.h"
#include "node/node_identity.h"
#include "node/peer_clocks.h"
#include "node/pipeline_host.h"
#include "node/pipeline_layout.h"
#include "node/step_buffers.h"
#include "node/strangers.h"
#include "node/suspects.h"
#include "node/weight_server.h"
#include "planner/types.h"
#include "transport/channel.h"
#include "transport/hello.h"
#include "transport/messages.h"

namespace shoal {

inline constexpr uint64_t kFirstEpoch = 1;                 // of the plan made at start-up
inline constexpr size_t kProbeBytesMax = size_t{4} << 20;  // of a payload that measures a link
// TCP gives up on one that acknowledges nothing: so long after it sent something again for the first time,
// which it does after 0.2 to 0.4 s.
inline constexpr std::chrono::milliseconds kPeerTimeout{2200};

// What the head's node tells of the others, on the io thread.
struct NodeEvents {
  std::function<void(const std::string& node)> heard;  // any message
  std::function<void(const std::string& node, const Heartbeat&)> beat;
  std::function<void(const std::string& node, const std::string& why)> lost;
  std::function<void(const std::string& node, const std::string& why)> ended;  // instead: it said so
  std::function<void(const std::string& node, const Ready&)> ready;
  std::function<void(const std::string& node, const Measured&)> measured;
  std::function<void(const std::string& node, const Examined&)> examined;
  std::function<void(const std::string& node, const FetchedAhead&)> fetched_ahead;
  // Numbers were damaged or not finite in a step of the present epoch, also where that is over already;
  // before the step's outcome.
  std::function<void(const Suspects::Fault&)> faulted;
  std::function<Membership::Verdict(const std::string& node)> may_join;
  std::function<void(const std::string& node, const Join&)> joined;
};

// Between two calls of a worker to a head that does not answer, twice as long each time.
inline constexpr std::chrono::milliseconds kCallPauseFirst{100}, kCallPauseMost{2000};

// How a worker finds its head (again): whom it calls, and what it says of itself.
struct Comeback {
  Endpoint head;
  Join join;              // what it holds is filled in when it calls
  double patience_s = 0;  // how long it calls in vain before it ends
};

// The head holds other weights than this node, which is of no use to it.
class OtherModelError : public SetupError {
 public:
  explicit OtherModelError(const std::string& message) : SetupError(message, kExitFailed) {}
};

class Node : public PipelineHost {
 public:
  // Listens at once; port 0 takes a free one. Throws SetupError if it cannot.
  Node(const NodeIdentity& identity, const std::string& address, uint16_t port);
  ~Node() override;

  uint16_t port() const { return listener_->port(); }
  IoThread& io() { return io_; }
  const NodeIdentity& identity() const { return identity_; }

  // Latency and bandwidth to another node that listens: ours to it, measured over a channel like those that
  // steps use.
  Result<LinkProfile> measure_link(const std::string& peer, const Endpoint& endpoint);
  boost::asio::awaitable<Result<LinkProfile>> probe_link(std::string peer, Endpoint endpoint);

  // Builds this node's stages on the engine thread. `order`: what the layout came by, if from another node.
  // Throws what make_stages throws.
  void load(const PipelineLayout& layout, const Engine::MakeStages& make_stages, const LoadPlan& order = {});
  // Instead of load(), where there is no plan yet.
  void load_nothing();
  // How stages are built when the pipeline is laid out anew, from those that were there; on the engine
  // thread. What it takes long for calls note_progress(), and throws soon where the token says that they are
  // needed no more: another plan came, the head is gone, or the node ends.
  using Remake = std::function<Engine::Stages(const PipelineLayout&, Engine::Stages, const std::stop_token&)>;
  void set_remake(Remake remake);
  // What is wrong with this node's kernels, if anything; on the engine thread.
  void set_examination(std::function<std::string()> examination);
  // What a worker does with an order of its head to fetch weights ahead; on the io thread.
  void set_on_fetch_ahead(std::function<void(const FetchAhead&)> on_fetch_ahead);
  // To the head, where there is one; from any thread.
  void tell_head(Message message);
  void note_progress() { engine_->note_progress(); }  // from any thread, once loaded
  // Connects to the next stages, and from the head to every node. All nodes have loaded. Throws SetupError
  // (exit 1).
  void connect();

  // A worker: returns when the head says so. Throws SetupError (exit 1) when the head is lost and does not
  // come back in time, OtherModelError when it has come back with other weights.
  void serve_until_shutdown();
  // A worker is ended in order: its head is told, and serve_until_shutdown() returns. From any thread.
  void leave();
  // A worker calls the head when it has lost it; `now`: it has none yet.
  void set_comeback(const Comeback& comeback, bool now);

  // The head's pipeline, for the coordinator.
  double now_s() const override;
  void post(std::function<void()> work) override { io_.post(std::move(work)); }
  void call(std::function<void()> work) override;
  void set_timer(Timer timer, double time_s, std::function<void()> work) override;
  void set_on_outcome(std::function<void(StepOutcome)> on_outcome) override;
  void send_step(std::unique_ptr<StepJob> job) override;
  StepBuffer take_buffer() override { return buffers_->take(); }
  // Statistics of all nodes, this one first.
  std::vector<StatsMessage> collect_stats();
  // The head: the first node that was lost, where nobody else was told (set_events).
  std::optional<Error> lost();
  std::optional<Error> lost_before() const { return lost_; }  // the same, on the io thread
  // The head: tells the workers that the work is done; waits 2 s at most for those who do not take it.
  // Elsewhere there is nobody to tell.
  void shutdown_workers();
  void ask_clocks() override;
  std::optional<double> clock_ahead_s(const std::string& node) const override;
  // Results that the head did not take, and steps that a stage did not: from a node that has none to give, or
  // of another epoch. Those that were under way when their epoch ended are among them.
  uint64_t refused_results() const { return refused_ + late_; }
  uint64_t epoch() const { return shown_epoch_; }

  // ---- The head lays out a pipeline; on the io thread ----
  void set_events(NodeEvents events) { events_ = std::move(events); }
  // Follows the layout itself: drops what was, builds its stages, links to the next. kCancelled where another
  // came meanwhile; `unreachable` names the node that could not be reached.
  boost::asio::awaitable<Result<void>> follow(PipelineLayout layout, uint64_t epoch,
                                              std::string& unreachable);
  // Nothing computes until the next layout.
  void drop_pipeline();
  // This node's own, as others are asked by Examine. Its stages go, if it has any: it is in no plan.
  boost::asio::awaitable<std::string> examine();
  // Sends to a node on its control channel. False where there is none.
  bool tell(const std::string& node, Message message);
  // Ends the control channel to a node, which hears of it at once where it hears anything; nothing more is
  // told of it.
  void forget(const std::string& node);
  // From now on these nodes and no others are not believed, by any node: their connections end.
  void shut_out(const std::set<std::string>& nodes);
  std::string address_of(const std::string& node) const;  // where its control channel comes from

  // The head: who signs certificates, and for how long.
  void set_authority(std::shared_ptr<const CertificateAuthority> authority, std::chrono::seconds life);
  // Told on the io thread of each new certificate of this node.
  void set_on_renewed(CertificateKeeper::OnRenewed on_renewed);

  // What this node gives to others that lack weights: the model's, then each adapter's. None: nothing.
  void offer_weights(std::vector<std::shared_ptr<WeightProvider>> providers);

 private:
  boost::asio::awaitable<void> accept_loop();
  boost::asio::awaitable<void> say_goodbye();
  boost::asio::awaitable<void> serve_peer(ChannelPtr channel);
  void close_a_stranger();
  void warn_of_peer(const Channel& channel, const std::string& what);
  std::optional<RefusalReason> refusal_of(const Hello& hello, const Channel& channel) const;
  std::optional<RefusalReason> crowd_refusal(const Hello& hello) const;
  std::optional<RefusalReason> pipeline_refusal(const Hello& hello) const;
  boost::asio::awaitable<void> serve_control(ChannelPtr channel, bool of_head);
  void obey(const ChannelPtr& channel, Message&& message);
  bool is_of_head(const Channel& channel) const;
  void disbelieve(const std::set<std::string>& nodes, const char* why);
  bool is_over(const ChannelPtr& channel);
  void end_expired();
  void let_go(const std::string& node);
  void tell_revoked(const ChannelPtr& channel);
  void renew_certificate();
  void answer_request(const std::string& peer, const CertificateRequest& request);
  boost::asio::awaitable<void> serve_join(ChannelPtr channel, std::string name);
  boost::asio::awaitable<void> serve_pipeline(ChannelPtr channel, int stage);
  boost::asio::awaitable<void> read_control_of(std::string peer, ChannelPtr channel);
  void take_from(const std::string& peer, Message&& message);
  bool may_report(const std::string& peer, const ResultMessage& result);
  boost::asio::awaitable<Result<ChannelPtr>> open(std::string peer, Endpoint endpoint, LinkRole role,
                                                  int stage, std::chrono::milliseconds patience);
  boost::asio::awaitable<Result<ChannelPtr>> open_again(std::string peer, Endpoint endpoint, int stage,
                                                        uint64_t epoch);
  boost::asio::awaitable<Result<void>> connect_all();
  boost::asio::awaitable<std::string> on_engine(
      std::function<void(std::function<void(std::string)> done)> order);
  boost::asio::awaitable<std::string> rebuild_stages();
  boost::asio::awaitable<void> answer_load(ChannelPtr channel, LoadPlan order);
  boost::asio::awaitable<void> answer_measure(ChannelPtr channel, Measure order);
  boost::asio::awaitable<void> answer_examine(ChannelPtr channel);
  boost::asio::awaitable<void> call_head();
  boost::asio::awaitable<void> take_leave();
  boost::asio::awaitable<Result<void>> join_head();
  boost::asio::awaitable<void> beat();
  void watch_head();
  void lose_head(const std::string& why);

  bool is_head() const { return identity_.name == layout_.head; }
  bool hosts(int stage) const;
  int hosted() const;
  void make_buffers();
  void on_engine_done(std::unique_ptr<StepJob> job);
  void forward(std::unique_ptr<StepJob> job);
  void finish(std::unique_ptr<StepJob> job);
  void fail(uint64_t epoch, uint64_t step_id, Error error, StepFault fault = StepFault::kNone, int stage = 0);
  Suspects::Fault blamed(StepFault fault, int stage, const std::string& text) const;
  void note_fault(const std::string& peer, const ResultMessage& result);
  Error in_stage(int stage, Error error) const;
  void node_lost(const std::string& peer, const Error& error);
  void end_service(std::optional<Error> error);
  void count_refused(const std::string& what);
  Result<std::unique_ptr<StepJob>> job_of(IncomingMessage& incoming, int stage);
  StatsMessage own_stats() const;
  Hello hello_to(const std::string& peer, LinkRole role, int stage) const;
  void close_link(const ChannelPtr& channel);
  ChannelOptions channel_options() const;
  void start_engine(const Engine::MakeStages& make_stages);

  NodeIdentity identity_;
  PipelineLayout layout_;
  LoadPlan order_;      // that it came by, to show to a head that has forgotten it; the head itself has none
  uint64_t epoch_ = 0;  // of the layout; 0: there is none
  std::atomic<uint64_t> shown_epoch_{0};
  bool linked_ = false;  // steps may come: not where the head is lost
  IoThread io_;
  std::unique_ptr<Listener> listener_;
  WeightServer weight_server_;            // goes before the io thread's context does
  std::shared_ptr<StepBuffers> buffers_;  // of the layout; links of the one before may still read into theirs
  std::unique_ptr<Engine> engine_;
  Remake remake_;
  std::stop_source building_;  // of the stages that the engine builds now
  std::function<std::string()> examination_;
  std::function<void(const FetchAhead&)> on_fetch_ahead_;
  std::map<int, ChannelPtr> to_stage_;          // next stages on other nodes
  std::map<std::string, ChannelPtr> controls_;  // the head: to every other node
  ChannelPtr head_;                             // a worker: the head's control channel
  struct Accepted {
    ChannelPtr channel;
    std::string peer;
    LinkRole role;
  };
  std::vector<Accepted> accepted_;
  std::vector<ChannelPtr> feeds_;     // those of them that bring steps
  std::deque<ChannelPtr> strangers_;  // accepted and not greeted yet, oldest first
  StrangerLines lines_;               // about connections that are refused or break the rules
  ConnectionRates rates_;
  std::map<int, uint64_t> last_step_;               // by stage that is being fed from another node
  std::map<std::string, LinkReport> closed_links_;  // what went over links that are no more
  std::function<void(StepOutcome)> on_outcome_;
  NodeEvents events_;
  std::optional<Error> lost_;  // the first node lost
  std::map<Timer, boost::asio::steady_timer> timers_;
  std::map<std::string, std::function<void(StatsMessage)>> stats_waiters_;
  PeerClocks clocks_;  // the head's
  uint64_t clock_question_ = 0;
  Clock::time_point clocks_asked_;
  std::atomic<uint64_t> refused_{0}, late_{0};
  std::set<std::string> computed_;  // the head: nodes that have had a stage, whose results may come late
  Membership head_watch_;           // a worker: of its head alone
  std::optional<Comeback> comeback_;
  bool calling_ = false;                           // the head
  std::optional<CertificateKeeper> certificates_;  // where there is TLS
  // When the certificates end that the other ends have shown, and the head: those that it signed since, by
  // node. In seconds of now_s(), so that a clock that is set wrong ends nothing.
  std::map<std::weak_ptr<Channel>, double, std::owner_less<std::weak_ptr<Channel>>> shown_until_s_;
  std::map<std::string, double> signed_until_s_;
  bool knows_revoked_;  // who was shut out: by the launcher, or the head that it has
  std::promise<std::optional<Error>> service_end_;  // nothing: the head said so
  bool service_ended_ = false;
  bool closing_ = false;
};

}  // namespace shoal
