#include "node/node.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "node/process_memory.h"

namespace shoal {
namespace {

using boost::asio::awaitable;
using boost::asio::co_spawn;
using boost::asio::detached;
using namespace std::chrono_literals;

constexpr auto kConnectDeadline = 20s;  // the peers load their shards meanwhile
constexpr auto kStatsDeadline = 3s;
constexpr uint64_t kEpoch = 1;  // the plan made at start-up
constexpr size_t kProbeBytesMax = 4 << 20;
constexpr size_t kStrangersMax = 64;  // connections that have not said hello yet
constexpr auto kAcceptPause = 100ms;  // after an accept that failed

WireCacheOp to_wire(const CacheOp& op) {
  const WireCacheOp::Kind kind = op.kind == CacheOpKind::kTrim   ? WireCacheOp::Kind::kTrim
                                 : op.kind == CacheOpKind::kFree ? WireCacheOp::Kind::kFree
                                                                 : WireCacheOp::Kind::kFork;
  return {kind, static_cast<uint32_t>(op.slot), static_cast<uint32_t>(op.from_slot),
          static_cast<uint32_t>(op.length)};
}

CacheOp from_wire(const WireCacheOp& op) {
  const CacheOpKind kind = op.kind == WireCacheOp::Kind::kTrim   ? CacheOpKind::kTrim
                           : op.kind == WireCacheOp::Kind::kFree ? CacheOpKind::kFree
                                                                 : CacheOpKind::kFork;
  return {kind, static_cast<int32_t>(op.slot), static_cast<int32_t>(op.from_slot),
          static_cast<int32_t>(op.length)};
}

StepMessage to_message(const StepJob& job) {
  StepMessage step;
  step.epoch = job.epoch;
  step.step_id = job.step_id;
  step.stage = static_cast<uint32_t>(job.stage);
  step.candidates = static_cast<uint32_t>(job.candidates);
  for (const CacheOp& op : job.ops) step.cache_ops.push_back(to_wire(op));
  for (const BatchRow& row : job.rows) {
    step.rows.push_back(
        {static_cast<uint32_t>(row.slot), static_cast<uint32_t>(row.position), row.wants_logits});
    if (job.stage == 0) step.token_ids.push_back(static_cast<uint32_t>(row.token));
  }
  return step;
}

ResultMessage to_message(const StepJob& job, std::vector<RowOutput>&& outputs) {
  ResultMessage result;
  result.epoch = job.epoch;
  result.step_id = job.step_id;
  for (const RowOutput& output : outputs) {
    RowResult row{static_cast<uint32_t>(output.row), output.log_sum_exp, {}, {}};
    for (const Candidate& c : output.candidates) {
      row.tokens.push_back(static_cast<uint32_t>(c.token));
      row.logits.push_back(c.logit);
    }
    result.rows.push_back(std::move(row));
  }
  return result;
}

StepOutcome from_message(const ResultMessage& message) {
  StepOutcome outcome{message.step_id, {}, message.failed, {message.failure_code, message.failure_text}};
  for (const RowResult& row : message.rows) {
    RowOutput output{static_cast<int32_t>(row.row), row.log_sum_exp, {}};
    for (size_t i = 0; i < row.logits.size(); ++i) {
      const int32_t token = static_cast<int32_t>(row.tokens.empty() ? i : row.tokens[i]);
      output.candidates.push_back({token, row.logits[i]});
    }
    outcome.rows.push_back(std::move(output));
  }
  return outcome;
}

}  // namespace

Node::Node(const NodeIdentity& identity, const std::string& address, uint16_t port) : identity_(identity) {
  listener_ = listen_on(io_.executor(), address, port);
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

Hello Node::hello_to(const std::string& peer, LinkRole role, int stage) const {
  Hello hello;
  hello.role = role;
  hello.cluster_name = identity_.cluster;
  hello.node_name = identity_.name;
  hello.peer_node_name = peer;
  hello.model_fingerprint = identity_.model_fingerprint;
  hello.plan_hash = layout_.plan_hash;
  hello.numeric_class = "exact";
  hello.epoch = layout_.plan_hash.empty() ? 0 : kEpoch;
  hello.stage = static_cast<uint32_t>(stage);
  return hello;
}

awaitable<Result<ChannelPtr>> Node::open(std::string peer, Endpoint endpoint, LinkRole role, int stage) {
  Result<ChannelPtr> channel = co_await dial(endpoint.address, endpoint.port, after(kConnectDeadline));
  if (channel.has_error()) co_return channel.error();
  Result<PeerInfo> greeted = co_await say_hello(**channel, hello_to(peer, role, stage));
  if (greeted.has_error()) co_return greeted.error();
  co_return *channel;
}

// ---- Accepting ----

awaitable<void> Node::accept_loop() {
  while (true) {
    Result<ChannelPtr> channel = co_await listener_->accept();
    if (channel.has_error()) {
      if (closing_ || channel.error().code == Errc::kCancelled) co_return;
      spdlog::warn("accepting a connection failed: {}", channel.error().message);
      boost::asio::steady_timer pause(io_.executor(),
                                      kAcceptPause);  // the reason may last: no file is left to open
      boost::system::error_code ignored;
      co_await pause.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
      continue;
    }
    co_spawn(io_.executor(), serve_peer(*channel), detached);
  }
}

awaitable<void> Node::serve_peer(ChannelPtr channel) {
  ExpectedHello expected;
  expected.cluster_name = identity_.cluster;
  expected.node_name = identity_.name;
  expected.model_fingerprint = identity_.model_fingerprint;
  expected.plan_hash = layout_.plan_hash;
  expected.numeric_class = "exact";
  expected.epoch = layout_.plan_hash.empty() ? 0 : kEpoch;
  if (strangers_.size() >=
      kStrangersMax) {  // the oldest goes: those who stay silent must not keep others out
    spdlog::warn("a connection from {} was closed: it has not said hello, and more wait",
                 strangers_.front()->peer());
    strangers_.front()->close();
    strangers_.pop_front();
  }
  strangers_.push_back(channel);
  const ValidateHello validate = [this](const Hello& hello) { return refusal_of(hello); };
  Result<PeerInfo> peer = co_await answer_hello(*channel, expected, validate);
  std::erase(strangers_, channel);
  if (peer.has_error()) {
    if (!closing_) spdlog::warn("a connection was refused: {}", peer.error().message);
    co_return;
  }
  std::erase_if(accepted_, [](const ChannelPtr& c) { return !c->is_open(); });
  accepted_.push_back(channel);
  if (peer->hello.role == LinkRole::kPipeline) {
    co_await serve_pipeline(channel, static_cast<int>(peer->hello.stage));
  } else {
    co_await serve_control(channel);
  }
}

// This node's own checks of a caller: once there is a plan, only the nodes that it names may call, for what
// it says.
std::optional<RefusalReason> Node::refusal_of(const Hello& hello) const {
  const int stage = static_cast<int>(hello.stage);
  if (layout_.plan_hash.empty()) {
    if (hello.role == LinkRole::kControl) return std::nullopt;  // a peer that measures the link
    return RefusalReason{Refusal::kPlan,
                         fmt::format("{} has no plan yet, so no stage to feed", identity_.name)};
  }
  // The standard checks let an empty text pass as not known yet; here all know.
  if (hello.plan_hash != layout_.plan_hash) {
    return RefusalReason{Refusal::kPlan, fmt::format("{} follows a plan that {} does not name",
                                                     identity_.name, hello.node_name)};
  }
  if (hello.role == LinkRole::kControl) {
    if (hello.node_name == layout_.head && !head_) return std::nullopt;
    return RefusalReason{Refusal::kRole,
                         fmt::format("{} takes orders from the head {} alone, and once; {} called",
                                     identity_.name, layout_.head, hello.node_name)};
  }
  if (!hosts(stage)) {
    return RefusalReason{Refusal::kStage, fmt::format("{} does not compute stage {}", identity_.name, stage)};
  }
  const std::string& feeder =
      stage == 0 ? layout_.head : layout_.node_of_stage[static_cast<size_t>(stage) - 1];
  if (hello.node_name == feeder && !last_step_.contains(stage)) return std::nullopt;
  return RefusalReason{Refusal::kRole, fmt::format("stage {} is fed by {} alone, over one link; {} called",
                                                   stage, feeder, hello.node_name)};
}

// A control channel answers until it ends. Before the plan it is a peer measuring the link; afterwards it is
// the head.
awaitable<void> Node::serve_control(ChannelPtr channel) {
  HeapBufferSource probe_bytes(kProbeBytesMax);
  const bool of_head = !layout_.plan_hash.empty();
  if (of_head) head_ = channel;
  while (true) {
    Result<IncomingMessage> incoming = co_await channel->receive(probe_bytes);
    if (incoming.has_error()) {
      if (of_head)
        end_service(fmt::format("the head {} is gone: {}", layout_.head, incoming.error().message));
      co_return;
    }
    if (const auto* probe = std::get_if<LinkProbe>(&incoming->message)) {
      (void)channel->post({LinkProbeAck{probe->sequence}});
    } else if (std::holds_alternative<StatsRequest>(incoming->message)) {
      (void)channel->post({own_stats()});
    } else if (of_head && std::holds_alternative<Shutdown>(incoming->message)) {
      end_service("");
      co_return;
    }
  }
}

awaitable<void> Node::serve_pipeline(ChannelPtr channel, int stage) {
  last_step_[stage] = 0;
  while (true) {
    Result<IncomingMessage> incoming = co_await channel->receive(*buffers_);
    if (incoming.has_error()) {
      if (!closing_ && !service_ended_) {
        fail(kEpoch, 0,
             {Errc::kPeerLost, fmt::format("{} lost its link from {}: {}", identity_.name, channel->peer(),
                                           incoming.error().message)});
      }
      break;
    }
    Result<std::unique_ptr<StepJob>> job = job_of(*incoming, stage);
    if (job.has_error()) {
      spdlog::warn("a step from {} was refused: {}", channel->peer(), job.error().message);
      fail(kEpoch, 0, job.error());
      break;
    }
    forward(std::move(*job));
  }
  channel->close();
  last_step_.erase(stage);
}

// Checks a received step against what this stage was told to compute.
Result<std::unique_ptr<StepJob>> Node::job_of(IncomingMessage& incoming, int stage) {
  const auto* step = std::get_if<StepMessage>(&incoming.message);
  if (step == nullptr) {
    return Error{Errc::kBadFrame, fmt::format("a {} on a link for steps", message_name(incoming.message))};
  }
  if (step->epoch != kEpoch) {
    return Error{Errc::kBadFrame, fmt::format("epoch {} is not the present one, {}", step->epoch, kEpoch)};
  }
  uint64_t& last = last_step_[stage];
  if (step->step_id != last + 1) {
    return Error{Errc::kBadFrame, fmt::format("step {} came after step {}", step->step_id, last)};
  }
  last = step->step_id;
  StepLimits limits;
  limits.stage = static_cast<uint32_t>(stage);
  limits.embeds = stage == 0;
  limits.rows_max = static_cast<size_t>(layout_.rows_max);
  limits.slots = static_cast<uint32_t>(layout_.slots);
  limits.context = static_cast<uint32_t>(layout_.context);
  limits.n_embd = static_cast<uint32_t>(layout_.n_embd);
  limits.n_vocab = static_cast<uint32_t>(layout_.n_vocab);
  const Result<void> checked = check_step(*step, incoming.payload.bytes.size(), limits);
  if (checked.has_error()) return checked.error();
  auto job = std::make_unique<StepJob>();
  job->stage = stage;
  job->epoch = step->epoch;
  job->step_id = step->step_id;
  job->candidates = static_cast<int>(step->candidates);
  for (const WireCacheOp& op : step->cache_ops) job->ops.push_back(from_wire(op));
  for (size_t i = 0; i < step->rows.size(); ++i) {
    const StepRow& row = step->rows[i];
    const int32_t token = stage == 0 ? static_cast<int32_t>(step->token_ids[i]) : -1;
    job->rows.push_back(
        {token, static_cast<int32_t>(row.position), static_cast<int32_t>(row.slot), row.wants_logits});
  }
  job->buffer = stage == 0 ? buffers_->take() : StepBuffers::of_payload(incoming.payload);
  if (!job->buffer && !job->rows.empty()) return Error{Errc::kQueueFull, "more steps in flight than agreed"};
  return job;
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
  if (job->failed) return fail(job->epoch, job->step_id, job->error);
  if (job->stage == layout_.last_stage()) return finish(std::move(job));
  ++job->stage;
  forward(std::move(job));
}

// The last stage is done: its answer goes home.
void Node::finish(std::unique_ptr<StepJob> job) {
  if (identity_.name == layout_.head) {
    if (on_outcome_) on_outcome_({job->step_id, std::move(job->outputs), false, {}});
  } else if (head_) {
    (void)head_->post({to_message(*job, std::move(job->outputs))});
  }
}

void Node::fail(uint64_t epoch, uint64_t step_id, Error error) {
  if (identity_.name == layout_.head) {
    if (on_outcome_) on_outcome_({step_id, {}, true, std::move(error)});
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
    if (auto* result = std::get_if<ResultMessage>(&incoming->message)) {
      if (on_outcome_) on_outcome_(from_message(*result));
    } else if (auto* stats = std::get_if<StatsMessage>(&incoming->message)) {
      const auto waiter = stats_waiters_.find(peer);
      if (waiter != stats_waiters_.end()) waiter->second(std::move(*stats));
    }
  }
}

void Node::node_lost(const std::string& peer, const Error& error) {
  const Error lost{Errc::kPeerLost, fmt::format("node {} is lost: {}", peer, error.message)};
  if (!lost_) lost_ = lost;
  if (on_outcome_) on_outcome_({0, {}, true, lost});
}

void Node::set_on_outcome(std::function<void(StepOutcome)> on_outcome) {
  io_.call([&] {
    on_outcome_ = std::move(on_outcome);
    if (on_outcome_ && lost_) on_outcome_({0, {}, true, *lost_});
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

void Node::shutdown_workers() {
  io_.run([this]() -> awaitable<int> {
    closing_ = true;
    for (const auto& [name, channel] : controls_) {
      OutgoingMessage goodbye{Shutdown{"the work is done"}, {}, {}};
      const Result<void> sent = co_await channel->send(std::move(goodbye));
      if (sent.has_error()) spdlog::debug("{} did not hear the shutdown: {}", name, sent.error().message);
    }
    co_return 0;
  }());
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

// ---- Set-up ----

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

awaitable<Result<void>> Node::connect_all() {
  const bool is_head = identity_.name == layout_.head;
  std::map<std::string, bool> needed;  // nodes with a stage
  for (const std::string& node : layout_.node_of_stage) needed[node] = true;
  for (const auto& [name, endpoint] : layout_.endpoints) {
    if (!is_head || name == identity_.name) continue;
    Result<ChannelPtr> channel = co_await open(name, endpoint, LinkRole::kControl, 0);
    if (channel.has_error()) co_return channel.error();
    controls_[name] = *channel;
    co_spawn(io_.executor(), read_control_of(name, *channel), detached);
  }
  // The stages that this node feeds: the next of each of its own, and the first one from the head.
  for (int i = 0; i <= layout_.last_stage(); ++i) {
    const bool feeds = i == 0 ? is_head : hosts(i - 1);
    if (!feeds || hosts(i)) continue;
    const std::string peer = layout_.node_of_stage[static_cast<size_t>(i)];
    Result<ChannelPtr> channel = co_await open(peer, layout_.endpoints.at(peer), LinkRole::kPipeline, i);
    if (channel.has_error()) co_return channel.error();
    to_stage_[i] = *channel;
  }
  co_return boost::system::in_place_value;
}

void Node::connect() {
  const Result<void> connected = io_.run(connect_all());
  if (connected.has_error()) throw SetupError(connected.error().message, kExitFailed);
}

// ---- Links ----

Result<LinkProfile> Node::measure_link(const std::string& peer, const Endpoint& endpoint) {
  return io_.run(probe_link(peer, endpoint));
}

// Latency: half the smallest of several small round trips. Bandwidth: payloads grow until one takes long
// enough to time, less the round trip.
awaitable<Result<LinkProfile>> Node::probe_link(std::string peer, Endpoint endpoint) {
  Result<ChannelPtr> opened = co_await open(peer, endpoint, LinkRole::kControl, 0);
  if (opened.has_error()) co_return opened.error();
  const ChannelPtr channel = *opened;
  HeapBufferSource none(0);
  const AlignedBuffer payload(kProbeBytesMax);
  uint64_t sequence = 0;
  double round_trip = 1e9;
  LinkProfile link;
  for (size_t bytes = 64; bytes <= kProbeBytesMax;) {
    const auto begin = Clock::now();
    OutgoingMessage probe{LinkProbe{++sequence}, {payload.data(), bytes}, {}};
    const Result<void> sent = co_await channel->send(std::move(probe));
    if (sent.has_error()) co_return sent.error();
    const Result<IncomingMessage> answer = co_await channel->receive(none, after(60s));
    if (answer.has_error()) co_return answer.error();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (bytes == 64) {
      round_trip = std::min(round_trip, seconds);
      if (sequence >= 10) bytes = 16 << 10;
      continue;
    }
    link.bytes_per_s = static_cast<double>(bytes) / std::max(seconds - round_trip, 1e-6);
    if (seconds > 0.05) break;
    bytes *= 4;
  }
  link.latency_s = round_trip / 2;
  channel->close();
  co_return link;
}

}  // namespace shoal
