#include "node/node.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>

#include "base/check.h"
#include "base/uptime.h"
#include "node/process_memory.h"
#include "node/step_wire.h"

namespace shoal {

using boost::asio::co_spawn;
using boost::asio::detached;

namespace {

constexpr size_t kEngineQueueMax = 1026;  // steps: more than any layout has in flight

}  // namespace

ChannelOptions Node::channel_options() const {
  ChannelOptions options;
  options.tcp_user_timeout = kPeerTimeout;
  options.tls = identity_.tls;
  return options;
}

Node::Node(const NodeIdentity& identity, const std::string& address, uint16_t port)
    : identity_(identity), knows_revoked_(identity.tls == nullptr || identity.knows_revoked) {
  if (identity_.tls) certificates_.emplace(identity_);
  listener_ = listen_on(io_.executor(), address, port, channel_options());
  io_.post([this] {
    co_spawn(io_.executor(), accept_loop(), detached);
    co_spawn(io_.executor(), beat(), detached);
  });
}

Node::~Node() {
  io_.call([this] {
    closing_ = true;
    building_.request_stop();
    listener_->close();
    for (const ChannelPtr& channel : strangers_) channel->close();
    for (const Accepted& accepted : accepted_) accepted.channel->close();
    for (const auto& [stage, channel] : to_stage_) channel->close();
    for (const auto& [name, channel] : controls_) channel->close();
    return 0;
  });
  io_.stop();  // first: it hands steps to the engine, and buffers come back on it alone
  // What it still finishes is posted, and dropped with the io context. Stages that it builds note their
  // progress here.
  if (engine_) engine_->stop();
  engine_.reset();
}

void Node::start_engine(const Engine::MakeStages& make_stages) {
  // The engine thread hands finished jobs to the io thread.
  auto engine = std::make_unique<Engine>(kEngineQueueMax, [this](std::unique_ptr<StepJob> job) {
    auto shared = std::make_shared<std::unique_ptr<StepJob>>(std::move(job));
    io_.post([this, shared] { on_engine_done(std::move(*shared)); });
  });
  engine->start(make_stages);
  io_.call([&] {
    engine_ = std::move(engine);
    return 0;
  });
}

void Node::load(const PipelineLayout& layout, const Engine::MakeStages& make_stages, const LoadPlan& order) {
  start_engine(make_stages);
  io_.call([&] {
    layout_ = layout;
    order_ = order;
    shown_epoch_ = epoch_ = kFirstEpoch;
    linked_ = true;
    make_buffers();
    return 0;
  });
}

void Node::load_nothing() {
  start_engine([] { return Engine::Stages(); });
}

void Node::make_buffers() {
  const bool feeds = hosted() > 0 || is_head();
  buffers_ =
      std::make_unique<StepBuffers>(feeds ? (layout_.steps_in_flight_max + 1) * std::max(hosted(), 1) : 0,
                                    layout_.rows_max, layout_.n_embd);
}

// ---- The way of a step ----

bool Node::hosts(int stage) const {
  return stage >= 0 && stage <= layout_.last_stage() &&
         layout_.node_of_stage[static_cast<size_t>(stage)] == identity_.name;
}

int Node::hosted() const {
  int stages = 0;
  for (int i = 0; i <= layout_.last_stage(); ++i) stages += hosts(i);
  return stages;
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
      fail(epoch_, step_id, {Errc::kQueueFull, identity_.name + " has its queue full"});
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
  if (posted.has_error()) fail(epoch_, step_id, posted.error());
}

void Node::on_engine_done(std::unique_ptr<StepJob> job) {
  if (job->epoch != epoch_ || !linked_) return;  // the pipeline was laid out anew meanwhile
  if (job->failed) {
    const StepFault fault = job->fault == NumericFault::kInput    ? StepFault::kInput
                            : job->fault == NumericFault::kOutput ? StepFault::kOutput
                                                                  : StepFault::kNone;
    return fail(job->epoch, job->step_id, in_stage(job->stage, std::move(job->error)), fault, job->stage);
  }
  if (job->stage == layout_.last_stage()) return finish(std::move(job));
  ++job->stage;
  forward(std::move(job));
}

// The last stage is done: its answer goes home.
void Node::finish(std::unique_ptr<StepJob> job) {
  if (is_head()) {
    StepOutcome outcome{job->step_id, std::move(job->outputs), false, {}, std::move(job->times)};
    outcome.digests = std::move(job->digests);
    outcome.overflowed = std::move(job->overflowed);
    if (on_outcome_) on_outcome_(std::move(outcome));
  } else if (head_) {
    (void)head_->post({to_message(*job, std::move(job->outputs))});
  }
}

// Says where a step failed, and who sent it.
Error Node::in_stage(int stage, Error error) const {
  const std::string from = stage > 0 ? ", in a step from " + layout_.stage_text(stage - 1) : "";
  error.message = fmt::format("{}{}: {}", layout_.stage_text(stage), from, error.message);
  return error;
}

void Node::fail(uint64_t epoch, uint64_t step_id, Error error, StepFault fault, int stage) {
  if (epoch != epoch_ || !linked_) return;
  if (is_head()) {
    if (fault != StepFault::kNone && events_.faulted) events_.faulted(blamed(fault, stage, error.message));
    StepOutcome outcome{step_id, {}, true, std::move(error), {}};
    if (on_outcome_) on_outcome_(std::move(outcome));
  } else if (head_) {
    ResultMessage result;
    result.epoch = epoch;
    result.step_id = step_id;
    result.failed = true;
    result.failure_code = error.code;
    result.failure_text = std::move(error.message);
    result.fault = fault;
    result.fault_stage = static_cast<uint32_t>(stage);
    (void)head_->post({std::move(result)});
  }
}

// Who may have made a fault. Numbers that came damaged or not finite were sound when they left the stage
// before, which looks too: either end may have spoiled them, and what is between. The head is not to blame
// for a hop: there is no doing without it.
Suspects::Fault Node::blamed(StepFault fault, int stage, const std::string& text) const {
  const size_t at = static_cast<size_t>(stage);
  const std::string& to = layout_.node_of_stage[at];
  const std::string& from = stage > 0 ? layout_.node_of_stage[at - 1] : layout_.head;
  const LayerRange& layers = layout_.shard_of_stage[at].layers;
  Suspects::Fault told;
  told.computed = fault == StepFault::kOutput;
  told.layer_begin = layers.begin, told.layer_end = layers.end;
  told.text = text;
  if (told.computed || from == to) {
    told.nodes = {to};
    told.where = to;
    return told;
  }
  for (const std::string& node : {from, to})
    if (node != layout_.head) told.nodes.push_back(node);
  told.where = from + " > " + to;
  return told;
}

// ---- The coordinator's host ----

double Node::now_s() const {
  return uptime_s();
}

void Node::call(std::function<void()> work) {
  io_.call([&work] { return work(), 0; });
}

void Node::set_timer(Timer timer, double time_s, std::function<void()> work) {
  boost::asio::steady_timer& waits = timers_.try_emplace(timer, io_.executor()).first->second;
  waits.cancel();
  if (time_s == kNever) return;
  const auto left =
      std::chrono::microseconds(static_cast<int64_t>(std::max(0.0, time_s - now_s()) * 1e6) + 1);
  waits.expires_after(left);
  waits.async_wait([work = std::move(work)](const boost::system::error_code& stopped) {
    if (!stopped) work();
  });
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
  for (const auto& [peer, link] : closed_links_) stats.links.push_back(link);
  for (const auto& [stage, channel] : to_stage_) add_link(channel);
  for (const auto& [name, channel] : controls_) add_link(channel);
  if (head_) add_link(head_);
  return stats;
}

}  // namespace shoal
