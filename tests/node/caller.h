// Somebody who calls a node over TCP and says or sends what a test wants. Channels that it gives out must not
// outlive it: they belong to its io thread.
#pragma once

#include <doctest/doctest.h>

#include <optional>
#include <string>
#include <vector>

#include "node/io_thread.h"
#include "tests/node/local_cluster.h"
#include "tests/support/mentions.h"
#include "transport/channel.h"
#include "transport/hello.h"

namespace shoal::test {

inline Hello hello_of(const std::string& from, const std::string& to, LinkRole role, uint32_t stage = 0) {
  Hello hello;
  hello.role = role;
  hello.cluster_name = "home";
  hello.node_name = from;
  hello.peer_node_name = to;
  hello.model_fingerprint = GgufFile::open(small_model_file()).fingerprint();
  hello.plan_hash = "plan";
  hello.numeric_class = "exact";
  hello.epoch = 1;
  hello.stage = stage;
  return hello;
}

class Caller {
 public:
  // `tls`: who it is; null: plain TCP.
  explicit Caller(std::shared_ptr<const TlsContext> tls = nullptr) { options_.tls = std::move(tls); }
  ~Caller() {
    io_.call([this] {
      for (const ChannelPtr& channel : channels_) channel->close();
      return 0;
    });
    io_.stop();  // before the channels go
  }

  // A connection that has said nothing. Null where it was not taken.
  ChannelPtr connect(uint16_t port) {
    Result<ChannelPtr> channel = io_.run(dial("127.0.0.1", port, after(std::chrono::seconds(5)), options_));
    if (channel.has_error()) return nullptr;
    channels_.push_back(*channel);
    return *channel;
  }

  // Says hello; the answer's error text, empty if accepted.
  std::string greet(const ChannelPtr& channel, const Hello& hello) {
    const Result<PeerInfo> peer = io_.run(greeted(channel, hello));
    return peer.has_error() ? peer.error().message : "";
  }

  // A channel on which the hello was accepted. Fails the test otherwise.
  ChannelPtr call(uint16_t port, const Hello& hello) {
    const ChannelPtr channel = connect(port);
    REQUIRE(channel != nullptr);
    REQUIRE(greet(channel, hello) == "");
    return channel;
  }

  // Payload bytes are zeros.
  void send(const ChannelPtr& channel, Message message, size_t payload_bytes = 0) {
    (void)io_.run(sent(channel, std::move(message), payload_bytes));
  }

  // The next message that is no heartbeat, or nothing where the channel ended or nothing came within 10 s.
  std::optional<Message> receive(const ChannelPtr& channel) { return io_.run(received(channel)); }

 private:
  static boost::asio::awaitable<Result<PeerInfo>> greeted(ChannelPtr channel, Hello hello) {
    co_return co_await say_hello(*channel, hello);
  }
  static boost::asio::awaitable<Result<void>> sent(ChannelPtr channel, Message message,
                                                   size_t payload_bytes) {
    const std::vector<uint64_t> zeros(payload_bytes / 8 + 1);
    OutgoingMessage outgoing{std::move(message), std::as_bytes(std::span(zeros)).first(payload_bytes), {}};
    co_return co_await channel->send(std::move(outgoing));
  }
  static boost::asio::awaitable<std::optional<Message>> received(ChannelPtr channel) {
    HeapBufferSource none(0);
    const Deadline deadline = after(std::chrono::seconds(10));  // of all: signs of life do not put it off
    while (true) {
      Result<IncomingMessage> incoming = co_await channel->receive(none, deadline);
      if (incoming.has_error()) co_return std::nullopt;
      if (std::holds_alternative<Heartbeat>(incoming->message)) continue;  // signs of life come at any time
      co_return std::move(incoming->message);
    }
  }

  ChannelOptions options_;
  IoThread io_;
  std::vector<ChannelPtr> channels_;
};

}  // namespace shoal::test
