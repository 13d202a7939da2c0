// One process of a cluster once it runs: it listens, hosts stages on its engine, and passes steps along the
// pipeline.
//
//   coordinator -> stage 0 -> stage 1 -> ... -> last stage -> coordinator
//
// A step goes to the engine where its stage is on this node, otherwise into the channel to the node that has
// it. The head holds a control channel to every other node, on which results, failures and statistics come
// home. All of it runs on the io thread; public calls are made from the main thread and return when the io
// thread has answered.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "node/engine.h"
#include "node/io_thread.h"
#include "node/peer_clocks.h"
#include "node/step_buffers.h"
#include "node/weight_server.h"
#include "planner/types.h"
#include "transport/channel.h"
#include "transport/hello.h"
#include "transport/messages.h"
#include "transport/tls.h"

namespace shoal {

inline constexpr uint64_t kEpoch = 1;                      // of the plan made at start-up
inline constexpr size_t kProbeBytesMax = size_t{4} << 20;  // of a payload that measures a link

struct Endpoint {
  std::string address;
  uint16_t port = 0;
};

struct NodeIdentity {
  std::string cluster;
  std::string name;
  std::string model_fingerprint;
  std::string numeric_class = "exact";              // tensor/kernels.h
  std::shared_ptr<const TlsContext> tls = nullptr;  // who this node is to its peers; null: plain TCP
};

// What every node knows of the running pipeline.
struct PipelineLayout {
  std::vector<std::string> node_of_stage;
  std::vector<ShardSpec> shard_of_stage;
  std::string head;
  std::map<std::string, Endpoint> endpoints;
  std::string plan_hash;
  int rows_max = 0, n_embd = 0, n_vocab = 0, context = 0, slots = 0;
  int inputs = 0;                    // rows of a whole input that the model's encoder takes; 0: it has none
  bool decodes = true;               // the model generates text
  int32_t decoder_start_token = -1;  // what answers begin after, where the encoder reads the prompt
  int64_t kv_cells = 0;  // positions that each stage's cache holds for all slots; 0: slots x context
  int steps_in_flight_max = 0;
  double step_deadline_s = 0;  // no answer to any step for so long: a node hangs. 0: not watched
  int last_stage() const { return static_cast<int>(node_of_stage.size()) - 1; }
  std::string stage_text(int stage) const;  // "node b (layers 10-19)", for messages
};

// The outcome of a step, at the head.
struct StepOutcome {
  uint64_t step_id = 0;
  std::vector<RowOutput> rows;
  bool failed = false;
  Error error;
  std::vector<StageTime> stage_times;  // in pipeline order, where it did not fail
};

class Node {
 public:
  // Listens at once; port 0 takes a free one. Throws SetupError if it cannot.
  Node(const NodeIdentity& identity, const std::string& address, uint16_t port);
  ~Node();

  uint16_t port() const { return listener_->port(); }
  IoThread& io() { return io_; }
  const NodeIdentity& identity() const { return identity_; }

  // Latency and bandwidth to another node that listens: ours to it, measured over a channel like those that
  // steps use.
  Result<LinkProfile> measure_link(const std::string& peer, const Endpoint& endpoint);

  // Builds this node's stages on the engine thread. Throws what make_stages throws.
  void load(const PipelineLayout& layout, const Engine::MakeStages& make_stages);
  // Connects to the next stages, and from the head to every node. All nodes have loaded. Throws SetupError
  // (exit 1).
  void connect();

  // A worker: returns when the head says so. Throws SetupError (exit 1) when the head is lost.
  void serve_until_shutdown();

  // The head. Outcomes, and failures that concern no step (a node lost: step_id 0), arrive on the io thread.
  // A node lost before is told at once. An empty function ends the telling: when this returns none runs any
  // more.
  void set_on_outcome(std::function<void(StepOutcome)> on_outcome);
  // On the io thread. Fails by an outcome.
  void send_step(std::unique_ptr<StepJob> job);
  // What this node gives to others that lack weights; null: nothing.
  void offer_weights(std::shared_ptr<WeightProvider> provider);
  StepBuffer take_buffer() { return buffers_->take(); }  // on the io thread
  // Statistics of all nodes, this one first.
  std::vector<StatsMessage> collect_stats();
  // The head: the first node that was lost.
  std::optional<Error> lost();
  // The head: tells the workers that the work is done; waits 2 s at most for those who do not take it.
  // Elsewhere there is nobody to tell.
  void shutdown_workers();
  // The head, on the io thread: asks every node what its clock shows, at most several times a second.
  void ask_clocks();
  // On the io thread: how far a node's steady clock is ahead of this one's, where it has answered.
  std::optional<double> clock_ahead_s(const std::string& node) const;
  // On the io thread: asks every node for a sign of life and names, 2 s later, those that gave none.
  void find_silent(std::function<void(const std::vector<std::string>&)> done);
  // Results that the head did not take: from a node that has none to give, or of another epoch.
  uint64_t refused_results() const { return refused_results_; }

 private:
  boost::asio::awaitable<void> accept_loop();
  boost::asio::awaitable<void> say_goodbye();
  boost::asio::awaitable<void> serve_peer(ChannelPtr channel);
  std::optional<RefusalReason> refusal_of(const Hello& hello) const;
  boost::asio::awaitable<void> serve_control(ChannelPtr channel);
  boost::asio::awaitable<void> serve_pipeline(ChannelPtr channel, int stage);
  boost::asio::awaitable<void> read_control_of(std::string peer, ChannelPtr channel);
  bool may_report(const std::string& peer, const ResultMessage& result);
  boost::asio::awaitable<Result<ChannelPtr>> open(std::string peer, Endpoint endpoint, LinkRole role,
                                                  int stage);
  boost::asio::awaitable<Result<LinkProfile>> probe_link(std::string peer, Endpoint endpoint);
  boost::asio::awaitable<Result<void>> connect_all();

  bool hosts(int stage) const;
  void on_engine_done(std::unique_ptr<StepJob> job);
  void forward(std::unique_ptr<StepJob> job);
  void finish(std::unique_ptr<StepJob> job);
  void fail(uint64_t epoch, uint64_t step_id, Error error);
  Error in_stage(int stage, Error error) const;
  void node_lost(const std::string& peer, const Error& error);
  void end_service(std::string error);
  Result<std::unique_ptr<StepJob>> job_of(IncomingMessage& incoming, int stage);
  StatsMessage own_stats() const;
  Hello hello_to(const std::string& peer, LinkRole role, int stage) const;

  NodeIdentity identity_;
  PipelineLayout layout_;
  IoThread io_;
  std::unique_ptr<Listener> listener_;
  WeightServer weight_server_;  // goes before the io thread's context does
  std::unique_ptr<StepBuffers> buffers_;
  std::unique_ptr<Engine> engine_;
  std::map<int, ChannelPtr> to_stage_;          // next stages on other nodes
  std::map<std::string, ChannelPtr> controls_;  // the head: to every other node
  ChannelPtr head_;                             // a worker: the head's control channel
  std::vector<ChannelPtr> accepted_;
  std::deque<ChannelPtr> strangers_;   // accepted and not greeted yet, oldest first
  std::map<int, uint64_t> last_step_;  // by stage that is being fed from another node
  std::function<void(StepOutcome)> on_outcome_;
  std::optional<Error> lost_;  // the first node lost
  std::map<std::string, std::function<void(StatsMessage)>> stats_waiters_;
  std::map<std::string, Clock::time_point> last_heard_;  // the head: of every other node
  PeerClocks clocks_;                                    // the same
  uint64_t clock_question_ = 0;
  Clock::time_point clocks_asked_;
  std::atomic<uint64_t> refused_results_{0};
  std::promise<std::string> service_end_;  // empty: the head said so
  bool service_ended_ = false;
  bool closing_ = false;
};

}  // namespace shoal
