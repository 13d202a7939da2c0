// Connecting to other nodes, and measuring the way to them.
#include "node/node.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace shoal {

using boost::asio::awaitable;
using boost::asio::co_spawn;
using boost::asio::detached;
using namespace std::chrono_literals;

namespace {

constexpr auto kConnectDeadline = 20s;  // the peers load their shards meanwhile
constexpr std::chrono::milliseconds kRelinkDeadline{static_cast<int64_t>(Membership::kRelink_s * 1e3)};
constexpr auto kRefusedPause = 30ms;
constexpr auto kProbeDeadline = 5s;
constexpr size_t kSmallBytes = 64;
constexpr size_t kRoundTrips = 25;
constexpr auto kIdle = 2ms;  // before each of them

}  // namespace

Hello Node::hello_to(const std::string& peer, LinkRole role, int stage) const {
  Hello hello;
  hello.role = role;
  hello.cluster_name = identity_.cluster;
  hello.node_name = identity_.name;
  hello.peer_node_name = peer;
  hello.model_fingerprint = identity_.model_fingerprint;
  hello.numeric_class = identity_.numeric_class;
  if (role == LinkRole::kControl || role == LinkRole::kPipeline) {  // the others are no matter of a plan
    hello.plan_hash = layout_.plan_hash;
    hello.epoch = epoch_;
  }
  hello.stage = static_cast<uint32_t>(stage);
  return hello;
}

awaitable<Result<ChannelPtr>> Node::open(std::string peer, Endpoint endpoint, LinkRole role, int stage,
                                         std::chrono::milliseconds patience) {
  Result<ChannelPtr> channel =
      co_await dial(endpoint.address, endpoint.port, after(patience), channel_options());
  if (channel.has_error()) co_return channel.error();
  Result<PeerInfo> greeted = co_await say_hello(**channel, hello_to(peer, role, stage));
  if (greeted.has_error()) co_return greeted.error();
  co_return *channel;
}

// To a node that may not have been told of the plan yet, and refuses until then.
awaitable<Result<ChannelPtr>> Node::open_again(std::string peer, Endpoint endpoint, int stage,
                                               uint64_t epoch) {
  const Deadline deadline = after(kRelinkDeadline);
  boost::asio::steady_timer pause(io_.executor());
  while (true) {
    Result<ChannelPtr> channel = co_await open(peer, endpoint, LinkRole::kPipeline, stage, kRelinkDeadline);
    if (epoch != epoch_) co_return Error{Errc::kCancelled, "another plan came"};
    if (channel || !is_refusal(channel.error().code) || Clock::now() > deadline) co_return channel;
    boost::system::error_code ignored;
    pause.expires_after(kRefusedPause);
    co_await pause.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
  }
}

awaitable<Result<void>> Node::connect_all() {
  for (const auto& [name, endpoint] : layout_.endpoints) {
    if (!is_head() || name == identity_.name) continue;
    Result<ChannelPtr> channel = co_await open(name, endpoint, LinkRole::kControl, 0, kConnectDeadline);
    if (channel.has_error()) co_return channel.error();
    controls_[name] = *channel;
    tell_revoked(*channel);
    co_spawn(io_.executor(), read_control_of(name, *channel), detached);
  }
  // The stages that this node feeds: the next of each of its own, and the first one from the head.
  for (int i = 0; i <= layout_.last_stage(); ++i) {
    const bool feeds = i == 0 ? is_head() : hosts(i - 1);
    if (!feeds || hosts(i)) continue;
    const std::string peer = layout_.node_of_stage[static_cast<size_t>(i)];
    Result<ChannelPtr> channel =
        co_await open(peer, layout_.endpoints.at(peer), LinkRole::kPipeline, i, kConnectDeadline);
    if (channel.has_error()) co_return channel.error();
    to_stage_[i] = *channel;
  }
  co_return boost::system::in_place_value;
}

void Node::connect() {
  const Result<void> connected = io_.run(connect_all());
  if (connected.has_error()) throw SetupError(connected.error().message, kExitFailed);
}

Result<LinkProfile> Node::measure_link(const std::string& peer, const Endpoint& endpoint) {
  return io_.run(probe_link(peer, endpoint));
}

// Latency: half the median of several small round trips, since a step meets the usual wait at a busy or
// time-shared peer and not the luckiest; each after a pause, since a step finds the peer asleep. Bandwidth:
// payloads grow until one takes long enough to time, less the round trip.
awaitable<Result<LinkProfile>> Node::probe_link(std::string peer, Endpoint endpoint) {
  Result<ChannelPtr> opened = co_await open(peer, endpoint, LinkRole::kProbe, 0, kProbeDeadline);
  if (opened.has_error()) co_return opened.error();
  const ChannelPtr channel = *opened;
  HeapBufferSource none(0);
  const AlignedBuffer payload(kProbeBytesMax);
  boost::asio::steady_timer pause(io_.executor());
  uint64_t sequence = 0;
  double round_trip = 0;
  std::vector<double> round_trips;
  LinkProfile link;
  for (size_t bytes = kSmallBytes; bytes <= kProbeBytesMax;) {
    if (bytes == kSmallBytes) {
      boost::system::error_code ignored;
      pause.expires_after(kIdle);
      co_await pause.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
    }
    const auto begin = Clock::now();
    OutgoingMessage probe{LinkProbe{++sequence}, {payload.data(), bytes}, {}};
    const Result<void> sent = co_await channel->send(std::move(probe));
    if (sent.has_error()) co_return sent.error();
    const Result<IncomingMessage> answer = co_await channel->receive(none, after(60s));
    if (answer.has_error()) co_return answer.error();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (bytes == kSmallBytes) {
      if (sequence > 1) round_trips.push_back(seconds);  // the first one warms up
      if (round_trips.size() < kRoundTrips) continue;
      std::nth_element(round_trips.begin(), round_trips.begin() + kRoundTrips / 2, round_trips.end());
      round_trip = round_trips[kRoundTrips / 2];
      bytes = 16 << 10;
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
