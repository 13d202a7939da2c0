#include "node/node.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <bit>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>

#include "base/check.h"
#include "node/process_memory.h"
#include "node/step_wire.h"

namespace shoal {

using boost::asio::awaitable;
using boost::asio::co_spawn;
using boost::asio::detached;
using namespace std::chrono_literals;

std::string PipelineLayout::stage_text(int stage) const {
  const ShardSpec& spec = shard_of_stage[static_cast<size_t>(stage)];
  const LayerRange& layers = spec.layers;
  return fmt::format("node {} ({})", node_of_stage[static_cast<size_t>(stage)],
                     layers.size() == 0   ? (spec.output ? "output head" : "embedding")
                     : layers.size() == 1 ? fmt::format("layer {}", layers.begin)
                                          : fmt::format("layers {}-{}", layers.begin, layers.end - 1));
}

namespace {

constexpr auto kStatsDeadline = 3s;
constexpr auto kClocksEvery = 200ms;
constexpr auto kSignOfLifeDeadline = 2s;
constexpr auto kGoodbyeDeadline = 2s;

double seconds_of(Clock::time_point time) {
  return std::chrono::duration<double>(time.time_since_epoch()).count();
}

}  // namespace

Node::Node(const NodeIdentity& identity, const std::string& address, uint16_t port) : identity_(identity) {
  ChannelOptions options;
  options.tls = identity_.tls;
  listener_ = listen_on(io_.executor(), address, port, options);
  io_.post([this] { co_spawn(io_.executor(), accept_loop(), detached); });
}

Node::~Node() {
  io_.call([this] {
    closing_ = true;
    listener_->close();
    for (const ChannelPtr& channel : strangers_) channel->close();
    for (const ChannelPtr& channel : accepted_) channel->close();
    for (const auto& [stage, channel] : to_stage_) channel->close();
    for (const auto& [name, channel] : controls_) channel->close();
    return 0;
  });
  io_.stop();       // first: it hands steps to the engine, and buffers come back on it alone
  engine_.reset();  // what it still finishes is posted, and dropped with the io context
}

void Node::load(const PipelineLayout& layout, const Engine::MakeStages& make_stages) {
  // The engine thread hands finished jobs to the io thread.
  auto engine = std::make_unique<Engine>(
      static_cast<size_t>(layout.steps_in_flight_max) * 2 + 2, [this](std::unique_ptr<StepJob> job) {
        auto shared = std::make_shared<std::unique_ptr<StepJob>>(std::move(job));
        io_.post([this, shared] { on_engine_done(std::move(*shared)); });
      });
  engine->start(make_stages);
  io_.call([&] {
    engine_ = std::move(engine);
    layout_ = layout;
    int hosted = 0;
    for (int i = 0; i <= layout_.last_stage(); ++i) hosted += hosts(i);
    const bool feeds = hosted > 0 || identity_.name == layout_.head;
    buffers_ =
        std::make_unique<StepBuffers>(feeds ? (layout_.steps_in_flight_max + 1) * std::max(hosted, 1) : 0,
                                      layout_.rows_max, layout_.n_embd);
    return 0;
  });
}

// ---- The way of a step ----

bool Node::hosts(int stage) const {
  return stage >= 0 && stage <= layout_.last_stage() &&
         layout_.node_of_stage[static_cast<size_t>(stage)] == identity_.name;
}

void Node::send_step(std::unique_ptr<StepJob> job) {
  forward(std::move(job));
}

// To the engine if the step's stage is here, otherwise to the node that has it.
void Node::forward(std::unique_ptr<StepJob> job) {
  const uint64_t step_id = job->step_id;
  weight_server_.saw_step();
  if (hosts(job->stage)) {
    if (!engine_->submit(job))
      fail(kEpoch, step_id, {Errc::kQueueFull, identity_.name + " has its queue full"});
    return;
  }
  OutgoingMessage outgoing{to_message(*job), {}, {}};
  if (job->stage > 0) {
    const size_t bytes = job->rows.size() * static_cast<size_t>(layout_.n_embd) * sizeof(float);
    if (bytes > 0) outgoing.payload = {job->buffer->data(), bytes};
    outgoing.keep_alive = job->buffer;
  }
  const auto channel = to_stage_.find(job->stage);
  SHOAL_CHECK(channel != to_stage_.end());
  const Result<void> posted = channel->second->post(std::move(outgoing));
  if (posted.has_error()) fail(kEpoch, step_id, posted.error());
}

void Node::on_engine_done(std::unique_ptr<StepJob> job) {
  if (job->failed) return fail(job->epoch, job->step_id, in_stage(job->stage, std::move(job->error)));
  if (job->stage == layout_.last_stage()) return finish(std::move(job));
  ++job->stage;
  forward(std::move(job));
}

// The last stage is done: its answer goes home.
void Node::finish(std::unique_ptr<StepJob> job) {
  if (identity_.name == layout_.head) {
    if (on_outcome_) on_outcome_({job->step_id, std::move(job->outputs), false, {}, std::move(job->times)});
  } else if (head_) {
    (void)head_->post({to_message(*job, std::move(job->outputs))});
  }
}

// Says where a step failed, and who sent it: numbers that are not finite were made there.
Error Node::in_stage(int stage, Error error) const {
  const std::string from = stage > 0 ? ", in a step from " + layout_.stage_text(stage - 1) : "";
  error.message = fmt::format("{}{}: {}", layout_.stage_text(stage), from, error.message);
  return error;
}

void Node::fail(uint64_t epoch, uint64_t step_id, Error error) {
  if (identity_.name == layout_.head) {
    if (on_outcome_) on_outcome_({step_id, {}, true, std::move(error), {}});
  } else if (head_) {
    ResultMessage result;
    result.epoch = epoch;
    result.step_id = step_id;
    result.failed = true;
    result.failure_code = error.code;
    result.failure_text = std::move(error.message);
    (void)head_->post({std::move(result)});
  }
}

// ---- The head's side of the control channels ----

awaitable<void> Node::read_control_of(std::string peer, ChannelPtr channel) {
  HeapBufferSource none(0);
  while (true) {
    Result<IncomingMessage> incoming = co_await channel->receive(none);
    if (incoming.has_error()) {
      if (!closing_) node_lost(peer, incoming.error());
      co_return;
    }
    last_heard_[peer] = Clock::now();
    if (auto* result = std::get_if<ResultMessage>(&incoming->message)) {
      if (may_report(peer, *result) && on_outcome_) on_outcome_(from_message(*result));
    } else if (const auto* ack = std::get_if<LinkProbeAck>(&incoming->message)) {
      clocks_.answered(peer, ack->sequence, static_cast<double>(ack->clock_us) * 1e-6,
                       seconds_of(Clock::now()));
    } else if (auto* stats = std::get_if<StatsMessage>(&incoming->message)) {
      const auto waiter = stats_waiters_.find(peer);
      if (waiter != stats_waiters_.end()) waiter->second(std::move(*stats));
    }
  }
}

// Answers come from the node of the last stage alone; that a step failed may be said by any that has a stage.
bool Node::may_report(const std::string& peer, const ResultMessage& result) {
  const std::vector<std::string>& nodes = layout_.node_of_stage;
  const bool has_say =
      result.failed ? std::find(nodes.begin(), nodes.end(), peer) != nodes.end() : nodes.back() == peer;
  if (has_say && result.epoch == kEpoch) return true;
  const uint64_t count = ++refused_results_;
  if (std::has_single_bit(count)) {  // the 1st, 2nd, 4th, ...: whoever sends many must not fill the log
    spdlog::warn("a result from node {} for step {} of epoch {} was refused: {} (refused so far: {})", peer,
                 result.step_id, result.epoch,
                 has_say ? fmt::format("the present epoch is {}", kEpoch)
                         : fmt::format("node {} gives the answers", nodes.back()),
                 count);
  }
  return false;
}

void Node::ask_clocks() {
  const Clock::time_point now = Clock::now();
  if (now - clocks_asked_ < kClocksEvery) return;
  clocks_asked_ = now;
  ++clock_question_;
  for (const auto& [name, channel] : controls_) {
    clocks_.asked(name, clock_question_, seconds_of(now));
    (void)channel->post({LinkProbe{clock_question_}});
  }
}

std::optional<double> Node::clock_ahead_s(const std::string& node) const {
  if (node == identity_.name) return 0.0;
  return clocks_.ahead_s(node);
}

void Node::find_silent(std::function<void(const std::vector<std::string>&)> done) {
  const Clock::time_point asked = Clock::now();
  for (const auto& [name, channel] : controls_) (void)channel->post({StatsRequest{}});
  auto timer = std::make_shared<boost::asio::steady_timer>(io_.executor(), kSignOfLifeDeadline);
  timer->async_wait([this, asked, timer, done = std::move(done)](const boost::system::error_code& stopped) {
    if (stopped) return;
    std::vector<std::string> silent;
    for (const auto& [name, channel] : controls_) {
      if (last_heard_[name] < asked) silent.push_back(name);
    }
    done(silent);
  });
}

void Node::node_lost(const std::string& peer, const Error& error) {
  const Error lost{Errc::kPeerLost, fmt::format("node {} is lost: {}", peer, error.message)};
  if (!lost_) lost_ = lost;
  if (on_outcome_) on_outcome_({0, {}, true, lost, {}});
}

void Node::set_on_outcome(std::function<void(StepOutcome)> on_outcome) {
  io_.call([&] {
    on_outcome_ = std::move(on_outcome);
    if (on_outcome_ && lost_) on_outcome_({0, {}, true, *lost_, {}});
    return 0;
  });
}

void Node::end_service(std::string error) {
  if (service_ended_) return;
  service_ended_ = true;
  service_end_.set_value(std::move(error));
}

void Node::serve_until_shutdown() {
  const std::string error = service_end_.get_future().get();
  if (!error.empty()) throw SetupError(error, kExitFailed);
}

awaitable<void> Node::say_goodbye() {
  closing_ = true;
  for (const auto& [name, channel] : controls_) {
    OutgoingMessage goodbye{Shutdown{"the work is done"}, {}, {}};
    const Result<void> sent = co_await channel->send(std::move(goodbye));
    if (sent.has_error()) spdlog::debug("{} did not hear the shutdown: {}", name, sent.error().message);
  }
}

void Node::shutdown_workers() {
  std::future<void> done = co_spawn(io_.executor(), say_goodbye(), boost::asio::use_future);
  if (done.wait_for(kGoodbyeDeadline) != std::future_status::ready)
    spdlog::debug("not every worker took the shutdown");
}

std::optional<Error> Node::lost() {
  return io_.call([this] { return lost_; });
}

StatsMessage Node::own_stats() const {
  StatsMessage stats;
  stats.node_name = identity_.name;
  stats.resident_bytes = resident_bytes();
  for (int i = 0; engine_ && i <= layout_.last_stage(); ++i) {
    if (!hosts(i)) continue;
    const StageStats engine = engine_->stats(i);
    const LayerRange layers = layout_.shard_of_stage[static_cast<size_t>(i)].layers;
    StageReport report;
    report.stage = static_cast<uint32_t>(i);
    report.layer_begin = static_cast<uint32_t>(layers.begin);
    report.layer_end = static_cast<uint32_t>(layers.end);
    report.steps = engine.steps;
    report.rows = engine.rows;
    report.busy_ns = engine.busy_ns;
    if (stats.stages.empty()) {  // the node's memory, told once
      report.weight_bytes = engine_->memory().weights;
      report.kv_bytes = engine_->memory().kv;
      report.scratch_bytes = engine_->memory().scratch + buffers_->bytes();
    }
    stats.stages.push_back(report);
  }
  auto add_link = [&](const ChannelPtr& channel) {
    stats.links.push_back({channel->peer_name(), channel->bytes_sent(), channel->bytes_received()});
  };
  for (const auto& [stage, channel] : to_stage_) add_link(channel);
  for (const auto& [name, channel] : controls_) add_link(channel);
  if (head_) add_link(head_);
  return stats;
}

std::vector<StatsMessage> Node::collect_stats() {
  std::map<std::string, std::future<StatsMessage>> answers;
  std::vector<StatsMessage> all;
  io_.call([&] {
    all.push_back(own_stats());
    for (const auto& [name, channel] : controls_) {
      auto promise = std::make_shared<std::promise<StatsMessage>>();
      answers[name] = promise->get_future();
      stats_waiters_[name] = [this, name = name, promise](StatsMessage stats) {
        promise->set_value(std::move(stats));
        stats_waiters_.erase(name);
      };
      if (channel->post({StatsRequest{}}).has_error()) {  // lost: nobody will answer
        stats_waiters_.erase(name);
        answers.erase(name);
      }
    }
    return 0;
  });
  for (auto& [name, answer] : answers) {
    if (answer.wait_for(kStatsDeadline) == std::future_status::ready) all.push_back(answer.get());
  }
  return all;
}

}  // namespace shoal
