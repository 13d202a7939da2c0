// Whom a node lets in, and what it does for each.
#include "node/node.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "node/step_wire.h"

namespace shoal {

using boost::asio::awaitable;
using boost::asio::co_spawn;
using boost::asio::detached;
using namespace std::chrono_literals;

namespace {

constexpr size_t kStrangersMax = 64;  // connections that have not said hello yet
constexpr int kLinksOfPeerMax = 32;   // connections that have: more than a node ever needs at a time
constexpr size_t kLinksMax = 512;     // of all of them, where names cannot be believed (--insecure)
// Of one node those for weights or for measuring, each of which holds up to kWeightsBytesMax for a peer that
// takes nothing. A node uses one for each: what a plan needs, single blocks of the model and of an adapter,
// what it fetches ahead, a manifest and a measurement; one that has just ended may count for a moment longer.
constexpr int kBulkLinksOfPeerMax = 7;
constexpr size_t kJoinBytesMax = size_t{4} << 20;  // its profile, and the plan that it holds
constexpr auto kAcceptPause = 100ms;               // after an accept that failed
constexpr auto kJoinDeadline = 3s;                 // from a hello to what the node has

}  // namespace

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
    if (!rates_.admits((*channel)->peer(), now_s())) {
      warn_of_peer(**channel, fmt::format("a connection from {} was closed unheard: too many came from "
                                          "that address within a minute",
                                          (*channel)->peer()));
      (*channel)->abort();
      continue;
    }
    co_spawn(io_.executor(), serve_peer(*channel), detached);
  }
}

void Node::warn_of_peer(const Channel& channel, const std::string& what) {
  lines_.warn(channel.peer(), what, now_s());
}

// Those who stay silent must not keep others out.
void Node::close_a_stranger() {
  std::vector<std::string> addresses;
  for (const ChannelPtr& stranger : strangers_) addresses.push_back(address_of(stranger->peer()));
  const auto goes = strangers_.begin() + static_cast<std::ptrdiff_t>(first_of_most_frequent(addresses));
  warn_of_peer(**goes, fmt::format("a connection from {} was closed: it has not said hello, and more wait",
                                   (*goes)->peer()));
  (*goes)->close();
  strangers_.erase(goes);
}

awaitable<void> Node::serve_peer(ChannelPtr channel) {
  ExpectedHello expected;
  expected.cluster_name = identity_.cluster;
  expected.node_name = identity_.name;
  expected.model_fingerprint = identity_.model_fingerprint;
  expected.plan_hash = layout_.plan_hash;
  expected.numeric_class = identity_.numeric_class;
  if (strangers_.size() >= kStrangersMax) close_a_stranger();
  strangers_.push_back(channel);
  bool planned =
      false;  // when it was let in: a plan that comes while the answer goes out makes nobody the head
  const ValidateHello validate = [&, this, channel](const Hello& hello) -> std::optional<RefusalReason> {
    std::erase_if(accepted_, [](const Accepted& accepted) { return !accepted.channel->is_open(); });
    std::optional<RefusalReason> refusal = crowd_refusal(hello);
    if (!refusal) refusal = refusal_of(hello, *channel);
    if (!refusal) accepted_.push_back({channel, hello.node_name, hello.role});
    planned = !layout_.plan_hash.empty();
    return refusal;
  };
  Result<PeerInfo> peer = co_await answer_hello(*channel, expected, validate);
  std::erase(strangers_, channel);
  if (peer.has_error()) {
    const bool greeted = peer.error().code == Errc::kRefused &&
                         (identity_.tls == nullptr || channel->peer_certificate() != nullptr);
    if (!greeted) rates_.ungreeted(channel->peer(), now_s());
    std::erase_if(accepted_, [&](const Accepted& accepted) { return accepted.channel == channel; });
    if (!closing_) warn_of_peer(*channel, "a connection was refused: " + peer.error().message);
    co_return;
  }
  switch (peer->hello.role) {
    case LinkRole::kWeights:
      co_return co_await weight_server_.serve(channel);
    case LinkRole::kPipeline:
      co_return co_await serve_pipeline(channel, static_cast<int>(peer->hello.stage));
    case LinkRole::kJoin:
      co_return co_await serve_join(channel, peer->hello.node_name);
    case LinkRole::kControl:
      if (!planned) channel->set_limits(kHandshakeLimits);
      co_return co_await serve_control(channel, /*of_head=*/planned);
    case LinkRole::kProbe:
      channel->set_limits({kHandshakeBytesMax, kProbeBytesMax});  // it measures, no more
      co_return co_await serve_control(channel, /*of_head=*/false);
  }
}

// Connections that have been accepted count from their hello on, so that many at once do not pass unseen.
std::optional<RefusalReason> Node::crowd_refusal(const Hello& hello) const {
  const auto bulk = [](LinkRole role) { return role == LinkRole::kWeights || role == LinkRole::kProbe; };
  int links = 0, bulk_links = 0;
  for (const Accepted& accepted : accepted_) {
    if (accepted.peer != hello.node_name) continue;
    ++links;
    bulk_links += bulk(accepted.role) ? 1 : 0;
  }
  if (bulk(hello.role) && bulk_links >= kBulkLinksOfPeerMax) {
    return RefusalReason{
        Refusal::kBusy, fmt::format("{} has {} connections of {} for weights or measuring already, which are "
                                    "as many as it keeps for one node: close some",
                                    identity_.name, bulk_links, hello.node_name)};
  }
  if (links < kLinksOfPeerMax && accepted_.size() < kLinksMax) return std::nullopt;
  return RefusalReason{Refusal::kBusy, fmt::format("{} has too many connections already", identity_.name)};
}

// This node's own checks of a caller: once there is a plan, only the nodes that it names may call, for what
// it says. Anybody of the cluster may measure a link.
std::optional<RefusalReason> Node::refusal_of(const Hello& hello, const Channel& channel) const {
  if (!knows_revoked_ && !is_of_head(channel)) {
    return RefusalReason{
        Refusal::kBusy, fmt::format("{} has no head that would tell it who belongs to the cluster: try again",
                                    identity_.name)};
  }
  if (hello.role == LinkRole::kProbe) return std::nullopt;
  if (hello.role == LinkRole::kWeights) {
    if (weight_server_.offers()) return std::nullopt;
    return RefusalReason{Refusal::kBusy, fmt::format("{} has no weights to give", identity_.name)};
  }
  if (hello.role == LinkRole::kJoin) {
    if (!events_.may_join) {
      return RefusalReason{
          Refusal::kRole,
          fmt::format("{} is no head that nodes can join, or is still starting", identity_.name)};
    }
    const Membership::Verdict verdict = events_.may_join(hello.node_name);
    if (verdict.admitted) return std::nullopt;
    return RefusalReason{verdict.name_taken ? Refusal::kDuplicateName : Refusal::kBusy, verdict.why};
  }
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
  if (hello.role == LinkRole::kPipeline) return pipeline_refusal(hello);
  if (hello.node_name == layout_.head && is_of_head(channel) && !head_) return std::nullopt;
  return RefusalReason{Refusal::kRole,
                       fmt::format("{} takes orders from the head {} alone, and once; {} called",
                                   identity_.name, layout_.head, hello.node_name)};
}

std::optional<RefusalReason> Node::pipeline_refusal(const Hello& hello) const {
  const int stage = static_cast<int>(hello.stage);
  if (hello.epoch != epoch_ || !linked_) {
    return RefusalReason{Refusal::kEpoch,
                         fmt::format("{} is at epoch {}{}, {} calls for {}", identity_.name, epoch_,
                                     linked_ ? "" : " without a head", hello.node_name, hello.epoch)};
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

void Node::offer_weights(std::vector<std::shared_ptr<WeightProvider>> providers) {
  io_.call([&] {
    weight_server_.offer(std::move(providers));
    return 0;
  });
}

// A node that joins becomes one that the head controls.
awaitable<void> Node::serve_join(ChannelPtr channel, std::string name) {
  HeapBufferSource none(0);
  channel->set_limits({kJoinBytesMax, 0});
  Result<IncomingMessage> incoming = co_await channel->receive(none, after(kJoinDeadline));
  channel->set_limits({});
  const Join* join = incoming ? std::get_if<Join>(&incoming->message) : nullptr;
  if (join == nullptr || !events_.joined || controls_.contains(name)) {
    warn_of_peer(*channel, fmt::format("{} said that it joins, and did not", channel->peer()));
    channel->close();
    co_return;
  }
  std::erase_if(accepted_, [&](const Accepted& accepted) { return accepted.channel == channel; });
  controls_[name] = channel;
  tell_revoked(channel);
  co_spawn(io_.executor(), read_control_of(name, channel), detached);
  events_.joined(name, *join);
}

// A control channel answers until it ends: before there is a plan, a peer that measures the link; afterwards
// the head.
awaitable<void> Node::serve_control(ChannelPtr channel, bool of_head) {
  HeapBufferSource probe_bytes(kProbeBytesMax);
  if (of_head) {
    head_ = channel;
    head_watch_.joined("head", now_s(), /*beats=*/false);
  }
  while (true) {
    Result<IncomingMessage> incoming = co_await channel->receive(probe_bytes);
    if (incoming.has_error()) {
      if (of_head && head_ == channel) lose_head(incoming.error().message);
      co_return;
    }
    if (of_head) head_watch_.heard("head", now_s());
    if (const auto* probe = std::get_if<LinkProbe>(&incoming->message)) {
      (void)channel->post({LinkProbeAck{probe->sequence, clock_microseconds(Clock::now())}});
    } else if (of_head && std::holds_alternative<StatsRequest>(incoming->message)) {
      (void)channel->post({own_stats()});
    } else if (of_head && std::holds_alternative<Shutdown>(incoming->message)) {
      // Who joined by address belongs to no launch: the head may be started again, after an update say.
      if (comeback_ && comeback_->patience_s == 0) {
        if (head_ == channel) lose_head("it was ended in order");
        channel->close();
      } else {
        end_service(std::nullopt);
      }
      co_return;
    } else if (of_head) {
      obey(channel, std::move(incoming->message));
    }
  }
}

void Node::obey(const ChannelPtr& channel, Message&& message) {
  if (const auto* beat = std::get_if<Heartbeat>(&message)) {
    head_watch_.heartbeat("head", beat->progress, beat->working, now_s());
  } else if (const auto* revoked = std::get_if<Revoked>(&message)) {
    knows_revoked_ = true;
    disbelieve({revoked->nodes.begin(), revoked->nodes.end()},
               "the head does not believe it any more (shoal revoke, or its certificate has ended)");
  } else if (const auto* renewed = std::get_if<NewCertificate>(&message)) {
    if (certificates_) certificates_->take(*renewed);
  } else if (auto* load = std::get_if<LoadPlan>(&message)) {
    co_spawn(io_.executor(), answer_load(channel, std::move(*load)), detached);
  } else if (auto* measure = std::get_if<Measure>(&message)) {
    co_spawn(io_.executor(), answer_measure(channel, std::move(*measure)), detached);
  } else if (std::holds_alternative<Examine>(message)) {
    co_spawn(io_.executor(), answer_examine(channel), detached);
  } else if (const auto* ahead = std::get_if<FetchAhead>(&message)) {
    if (on_fetch_ahead_) on_fetch_ahead_(*ahead);
  }
}

awaitable<void> Node::serve_pipeline(ChannelPtr channel, int stage) {
  const uint64_t epoch = epoch_;
  const std::shared_ptr<StepBuffers> buffers = buffers_;
  last_step_[stage] = 0;
  feeds_.push_back(channel);
  while (true) {
    Result<IncomingMessage> incoming = co_await channel->receive(*buffers);
    if (epoch != epoch_ || !linked_) co_return;  // the pipeline was laid out anew, and this link is closed
    if (incoming.has_error()) {
      const bool damaged = incoming.error().code == Errc::kBadFrame;
      if (closing_ || service_ended_) break;
      if (damaged) {
        fail(epoch, 0,
             in_stage(stage, {Errc::kBadFrame, "the step came damaged: " + incoming.error().message}),
             StepFault::kDamaged, stage);
      } else {
        fail(epoch, 0,
             {Errc::kPeerLost, fmt::format("{} lost its link from {}: {}", identity_.name, channel->peer(),
                                           incoming.error().message)});
      }
      break;
    }
    Result<std::unique_ptr<StepJob>> job = job_of(*incoming, stage);
    if (job.has_error()) {
      warn_of_peer(*channel,
                   fmt::format("a step from {} was refused: {}", channel->peer(), job.error().message));
      ++refused_;
      fail(epoch, 0, in_stage(stage, job.error()));
      break;
    }
    forward(std::move(*job));
  }
  if (epoch != epoch_ || !linked_) co_return;  // by the failure that was just told
  std::erase(feeds_, channel);
  close_link(channel);
  last_step_.erase(stage);
}

// Checks a received step against what this stage was told to compute.
Result<std::unique_ptr<StepJob>> Node::job_of(IncomingMessage& incoming, int stage) {
  const auto* step = std::get_if<StepMessage>(&incoming.message);
  if (step == nullptr) {
    return Error{Errc::kBadFrame, fmt::format("a {} on a link for steps", message_name(incoming.message))};
  }
  if (step->epoch != epoch_) {
    return Error{Errc::kBadFrame, fmt::format("epoch {} is not the present one, {}", step->epoch, epoch_)};
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
  limits.inputs = static_cast<uint32_t>(layout_.inputs);
  limits.n_embd = static_cast<uint32_t>(layout_.n_embd);
  limits.n_vocab = static_cast<uint32_t>(layout_.n_vocab);
  limits.adapters = static_cast<uint32_t>(layout_.adapters);
  const Result<void> checked = check_step(*step, incoming.payload.bytes.size(), limits);
  if (checked.has_error()) return checked.error();
  auto job = std::make_unique<StepJob>();
  job->stage = stage;
  job->epoch = step->epoch;
  job->step_id = step->step_id;
  job->candidates = static_cast<int>(step->candidates);
  job->kind = static_cast<StepKind>(step->kind);
  job->times = step->stage_times;
  job->verify_slot = step->verify_slot - 1;
  job->digests = digests_from_wire(step->digests);
  for (const WireCacheOp& op : step->cache_ops) job->ops.push_back(from_wire(op));
  for (size_t i = 0; i < step->rows.size(); ++i) {
    const StepRow& row = step->rows[i];
    const int32_t token = stage == 0 ? static_cast<int32_t>(step->token_ids[i]) : -1;
    job->rows.push_back({token, static_cast<int32_t>(row.position), static_cast<int32_t>(row.slot),
                         row.wants_logits, row.adapter, row.adapter_scale});
    if (row.overflowed) job->overflowed.push_back(static_cast<int32_t>(i));
  }
  job->buffer = stage == 0 ? buffers_->take() : StepBuffers::of_payload(incoming.payload);
  if (!job->buffer && !job->rows.empty()) return Error{Errc::kQueueFull, "more steps in flight than agreed"};
  return job;
}

}  // namespace shoal
