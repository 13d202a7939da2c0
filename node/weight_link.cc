#include "node/weight_link.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/detached.hpp>
#include <deque>

#include "model/weight_manifest.h"
#include "transport/hello.h"

namespace shoal {

using boost::asio::awaitable;
using boost::asio::co_spawn;
using boost::asio::detached;
using namespace std::chrono_literals;

namespace {

constexpr auto kAnswerDeadline = 60s;  // for the next answer: the slowest link needs 10 s for a block
constexpr uint32_t kManifestPartBytes = 1 << 20;

}  // namespace

// Everything but `open` belongs to the io thread.
struct WeightLink::State {
  struct Waiting {
    uint64_t id;
    uint32_t tensor, length;
    Clock::time_point asked;
    std::promise<Result<Answer>> promise;
  };
  ChannelPtr channel;
  uint16_t adapter = 0;
  std::deque<Waiting> waiting;
  uint64_t next_id = 1;
  Error ended;
  std::atomic<bool> open{true};

  void end(Error error) {
    if (!open.exchange(false)) return;
    ended = std::move(error);
    channel->close();
    std::deque<Waiting> lost;
    lost.swap(waiting);
    for (Waiting& one : lost) one.promise.set_value(ended);
  }

  // Nothing, or what is wrong with the answer.
  std::string take(IncomingMessage& incoming) {
    const auto* data = std::get_if<WeightsData>(&incoming.message);
    if (data == nullptr) return fmt::format("a {} on a link for weights", message_name(incoming.message));
    if (waiting.empty() || data->id != waiting.front().id) return "weights that were not asked for";
    const size_t bytes = incoming.payload.bytes.size();
    const bool manifest = waiting.front().tensor == WeightsRequest::kManifest;
    const bool fits =
        manifest ? bytes > 0 && bytes <= waiting.front().length : bytes == waiting.front().length;
    if (data->failure.empty() ? !fits : bytes != 0) {
      return fmt::format("{} bytes of weights where {} were asked for", bytes, waiting.front().length);
    }
    std::promise<Result<Answer>> promise = std::move(waiting.front().promise);
    waiting.pop_front();
    if (data->failure.empty()) {
      promise.set_value(Answer{std::move(incoming.payload), data->total_bytes});
    } else {
      promise.set_value(Error{Errc::kRefused, data->failure});
    }
    return "";
  }

  static awaitable<void> read(std::shared_ptr<State> self) {
    HeapBufferSource buffers(kWeightsBytesMax);
    while (self->open) {
      Result<IncomingMessage> incoming = co_await self->channel->receive(buffers, after(kAnswerDeadline));
      if (incoming.has_error()) {
        const bool idle =
            incoming.error().code == Errc::kTimeout && self->channel->is_open() &&
            (self->waiting.empty() || Clock::now() - self->waiting.front().asked < kAnswerDeadline);
        if (idle) continue;
        self->end(incoming.error());
        co_return;
      }
      const std::string wrong = self->take(*incoming);
      if (!wrong.empty())
        self->end({Errc::kBadFrame, fmt::format("{} sent {}", self->channel->peer(), wrong)});
    }
  }
};

namespace {

struct Greeted {
  ChannelPtr channel;
  HelloAck ack;
};

awaitable<Result<Greeted>> connect(WeightAsker asker, WeightPeer peer, std::chrono::milliseconds patience) {
  ChannelOptions options;
  options.tls = asker.tls;
  Result<ChannelPtr> channel = co_await dial(peer.address, peer.port, after(patience), options);
  if (channel.has_error()) co_return channel.error();
  Hello hello;
  hello.role = LinkRole::kWeights;
  hello.cluster_name = asker.cluster;
  hello.node_name = asker.node;
  hello.peer_node_name = peer.node;
  hello.model_fingerprint = asker.model;
  Result<PeerInfo> greeted = co_await say_hello(**channel, hello);
  if (greeted.has_error()) co_return greeted.error();
  const CertificateInfo* shown = (*channel)->peer_certificate();
  if (peer.node.empty() && shown != nullptr && !shown->head) {
    const std::string who = (*channel)->peer();
    (*channel)->close();
    co_return Error{Errc::kRefused, fmt::format("{} shows a certificate that is not the head's", who)};
  }
  co_return Greeted{*channel, greeted->ack};
}

// A connection being made, for a thread that waits and may be told to wait no longer. On the io thread.
struct Opening {
  std::promise<Result<Greeted>> promise;
  bool decided = false;

  void decide(Result<Greeted> result) {
    if (!std::exchange(decided, true)) return promise.set_value(std::move(result));
    if (result.has_value()) result->channel->close();  // nobody waits for it any more
  }
};

awaitable<void> connect_for(std::shared_ptr<Opening> opening, WeightAsker asker, WeightPeer peer,
                            std::chrono::milliseconds patience) {
  opening->decide(co_await connect(std::move(asker), std::move(peer), patience));
}

Error stopped() {
  return {Errc::kCancelled, "it is not needed any more"};
}

}  // namespace

Result<std::unique_ptr<WeightLink>> WeightLink::open(IoThread& io, const WeightAsker& asker,
                                                     const WeightPeer& peer,
                                                     std::chrono::milliseconds patience,
                                                     const std::stop_token& stop) {
  auto opening = std::make_shared<Opening>();
  std::future<Result<Greeted>> opened = opening->promise.get_future();
  co_spawn(io.executor(), connect_for(opening, asker, peer, patience), detached);
  const std::stop_callback on_stop(stop,
                                   [&io, opening] { io.post([opening] { opening->decide(stopped()); }); });
  const Result<Greeted> greeted = opened.get();
  if (greeted.has_error()) return greeted.error();
  auto state = std::make_shared<State>();
  state->channel = greeted->channel;
  state->adapter = asker.adapter;
  io.post([&io, state] { co_spawn(io.executor(), State::read(state), detached); });
  return std::unique_ptr<WeightLink>(new WeightLink(io, std::move(state), greeted->ack, stop));
}

WeightLink::WeightLink(IoThread& io, std::shared_ptr<State> state, const HelloAck& greeted,
                       const std::stop_token& stop)
    : io_(io),
      state_(std::move(state)),
      peer_(greeted.node_name),
      model_hash_(greeted.model_fingerprint),
      on_stop_(stop, [&io, state = state_] { io.post([state] { state->end(stopped()); }); }) {}

WeightLink::~WeightLink() {
  io_.call([this] {
    state_->end({Errc::kCancelled, "the link for weights was closed"});
    return 0;
  });
}

bool WeightLink::is_open() const {
  return state_->open;
}

std::future<Result<WeightLink::Answer>> WeightLink::ask(uint32_t tensor, uint64_t offset, uint32_t length) {
  auto promise = std::make_shared<std::promise<Result<Answer>>>();
  std::future<Result<Answer>> answer = promise->get_future();
  io_.post([state = state_, promise, tensor, offset, length] {
    if (!state->open) return promise->set_value(state->ended);
    const uint64_t id = state->next_id++;
    const Result<void> posted =
        state->channel->post({WeightsRequest{id, tensor, length, offset, state->adapter}});
    if (posted.has_error()) return promise->set_value(posted.error());
    state->waiting.push_back({id, tensor, length, Clock::now(), std::move(*promise)});
  });
  return answer;
}

Result<std::vector<std::byte>> ask_manifest(WeightLink& link) {
  std::vector<std::byte> all;
  uint64_t total = 1;
  while (all.size() < total) {
    Result<WeightLink::Answer> part =
        link.ask(WeightsRequest::kManifest, all.size(), kManifestPartBytes).get();
    if (part.has_error()) return part.error();
    if (part->total_bytes > kManifestBytesMax || (!all.empty() && part->total_bytes != total) ||
        part->bytes.bytes.size() > part->total_bytes - all.size()) {
      return Error{Errc::kBadFrame,
                   fmt::format("{} sent a manifest of {} bytes", link.peer(), part->total_bytes)};
    }
    total = part->total_bytes;
    all.insert(all.end(), part->bytes.bytes.begin(), part->bytes.bytes.end());
  }
  return all;
}

}  // namespace shoal
