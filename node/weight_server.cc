#include "node/weight_server.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <deque>

#include "base/units.h"
#include "base/uptime.h"
#include "model/weight_manifest.h"

namespace shoal {

using boost::asio::awaitable;
using namespace std::chrono_literals;

namespace {

constexpr auto kStepsAreLive = 1s;  // since the last one
constexpr int kShareOfSteps = 3;    // parts of the link, to one of weights
constexpr auto kWaitMost = 2s;      // for a slow link
constexpr auto kLook = 1ms;
constexpr size_t kPeersKnownMax = 1024;  // whose bytes are counted

// An answer on its way: aligned as a payload must be.
struct Reply {
  WeightsData message;
  std::vector<uint64_t> words;
  size_t bytes = 0;

  std::span<std::byte> room(size_t n) {
    words.resize((n + 7) / 8);
    bytes = n;
    return std::as_writable_bytes(std::span(words)).first(n);
  }
};

void read_manifest(const WeightManifest& manifest, const WeightsRequest& request, Reply& reply) {
  const std::span<const std::byte> all = manifest.bytes();
  reply.message.total_bytes = all.size();
  if (request.offset >= all.size()) {
    reply.message.failure =
        fmt::format("the manifest has {} bytes; byte {} was asked for", all.size(), request.offset);
    return;
  }
  const size_t n = std::min<size_t>(request.length, all.size() - request.offset);
  std::ranges::copy(all.subspan(request.offset, n), reply.room(n).begin());
}

void read_tensor(WeightProvider& provider, const WeightsRequest& request, Reply& reply) {
  const WeightManifest& manifest = provider.manifest();
  if (request.tensor >= manifest.size()) {
    reply.message.failure =
        fmt::format("the model has {} tensors; number {} was asked for", manifest.size(), request.tensor);
    return;
  }
  const TensorInfo& tensor = manifest.tensor(request.tensor);
  reply.message.total_bytes = tensor.bytes;
  if (request.offset > tensor.bytes || request.length > tensor.bytes - request.offset) {
    reply.message.failure = fmt::format("tensor {} has {} bytes; {} from byte {} were asked for", tensor.name,
                                        tensor.bytes, request.length, request.offset);
    return;
  }
  const Result<void> given = provider.give(request.tensor, request.offset, reply.room(request.length));
  if (given.has_error()) {
    reply.message.failure = given.error().message;
    reply.bytes = 0;
  }
}

// What a link was asked for and has not answered, oldest first.
struct Requests {
  explicit Requests(ChannelPtr link)
      : channel(std::move(link)), changed(channel->get_executor(), Clock::time_point::max()) {}
  awaitable<void> change() {
    boost::system::error_code ignored;
    co_await changed.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
  }

  ChannelPtr channel;
  std::deque<WeightsRequest> waiting;
  boost::asio::steady_timer changed;
};

// Reads on while answers are sent or held back, so that a link that its peer has ended is known to be over at
// once: it counts against the peer, and may hold an answer.
template <class Warn>
awaitable<void> read_ahead(std::shared_ptr<Requests> requests, Warn warn) {
  const ChannelPtr channel = requests->channel;
  HeapBufferSource none(0);
  while (channel->is_open()) {
    if (requests->waiting.size() >= kWeightsRequestsMax) {
      co_await requests->change();
      continue;
    }
    Result<IncomingMessage> incoming = co_await channel->receive(none);
    if (incoming.has_error()) break;
    const auto* request = std::get_if<WeightsRequest>(&incoming->message);
    if (request == nullptr || request->length == 0 || request->length > kWeightsBytesMax) {
      warn(channel->peer(),
           fmt::format("a link for weights from {} was closed: it sent {}", channel->peer(),
                       request == nullptr ? fmt::format("a {}", message_name(incoming->message))
                                          : fmt::format("a request for {} bytes", request->length)));
      break;
    }
    requests->waiting.push_back(*request);
    requests->changed.cancel();
  }
  channel->close();
  requests->changed.cancel();
}

awaitable<void> pause(Clock::duration length) {
  boost::asio::steady_timer timer(co_await boost::asio::this_coro::executor, length);
  boost::system::error_code ignored;
  co_await timer.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
}

}  // namespace

awaitable<void> WeightServer::serve(ChannelPtr channel) {
  // Not within the condition: g++ 12 destroys there what the awaited call was given twice.
  const uint64_t answers = co_await answer_all(channel);
  if (answers > 0) note_given(*channel);
}

// A node that fetches in many small pieces stands there with the sum, whichever lines are left out.
void WeightServer::note_given(const Channel& channel) {
  if (given_.size() >= kPeersKnownMax) given_.clear();  // names that nobody vouches for (--insecure)
  const uint64_t in_all = given_[channel.peer_name()] += channel.bytes_sent();
  const std::string what =
      fmt::format("{} of weights were sent to {}, {} so far", format_bytes(channel.bytes_sent()),
                  channel.peer(), format_bytes(in_all));
  if (const std::optional<std::string> line = given_lines_.line(channel.peer_name(), what, uptime_s()))
    spdlog::info(*line);
}

// How many requests were answered before the link ended.
awaitable<uint64_t> WeightServer::answer_all(ChannelPtr channel) {
  channel->set_limits(kHandshakeLimits);  // requests are as short as hellos
  const auto requests = std::make_shared<Requests>(channel);
  const auto warn = [this](const std::string& peer, const std::string& what) {
    lines_.warn(peer, what, uptime_s());
  };
  boost::asio::co_spawn(channel->get_executor(), read_ahead(requests, warn), boost::asio::detached);
  uint64_t answers = 0;
  while (true) {
    while (requests->waiting.empty() && channel->is_open()) co_await requests->change();
    if (!channel->is_open()) co_return answers;
    const Clock::time_point began = Clock::now();
    const Result<void> sent = co_await answer(channel, requests->waiting.front());
    if (sent.has_error()) co_return answers;
    ++answers;
    requests->waiting.pop_front();
    requests->changed.cancel();
    if (Clock::now() - last_step_ < kStepsAreLive) co_await give_way(channel, began);
  }
}

std::shared_ptr<WeightProvider> WeightServer::provider_of(size_t adapter) const {
  if (adapter >= providers_.size()) return nullptr;
  return providers_[adapter];
}

awaitable<Result<void>> WeightServer::answer(ChannelPtr channel, const WeightsRequest& request) {
  Reply reply;
  reply.message.id = request.id;
  const auto read = [&reply, &request, provider = provider_of(request.adapter)]() -> awaitable<void> {
    if (provider == nullptr) {
      reply.message.failure = "this node has no such weights to give, or not any more";
    } else if (request.tensor == WeightsRequest::kManifest) {
      read_manifest(provider->manifest(), request, reply);
    } else {
      read_tensor(*provider, request, reply);
    }
    co_return;
  };
  co_await boost::asio::co_spawn(disk_, read, boost::asio::use_awaitable);
  const size_t bytes = reply.bytes;
  const auto payload = std::as_bytes(std::span<const uint64_t>(reply.words)).first(bytes);
  OutgoingMessage outgoing{std::move(reply.message), payload, {}};
  const Result<void> sent = co_await channel->send(std::move(outgoing));
  if (!sent.has_error()) bytes_given_ += bytes;
  co_return sent;
}

awaitable<void> WeightServer::give_way(ChannelPtr channel, Clock::time_point began) {
  const Clock::time_point latest = Clock::now() + kWaitMost;
  while (channel->is_open() && channel->unacknowledged_bytes() > 0 && Clock::now() < latest)
    co_await pause(kLook);
  const Clock::duration took = Clock::now() - began;
  co_await pause(std::min<Clock::duration>(took * kShareOfSteps, kWaitMost));
}

}  // namespace shoal
