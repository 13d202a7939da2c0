// What only a socket can do wrong: broken streams, stalls, ports taken, nobody there.
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "tests/support/mentions.h"
#include "tests/transport/support.h"

namespace shoal::test {
namespace {

// Sends bytes from a bare socket, then perhaps closes it; what the channel's receive says.
Result<IncomingMessage> receive_bytes(std::span<const std::byte> bytes, bool close_after,
                                      const ChannelOptions& options = {}) {
  asio::io_context io;
  RawPeer raw(io, options);
  Result<IncomingMessage> incoming = Error{};
  const Body body = [&]() -> asio::awaitable<void> {
    asio::write(raw.socket, asio::buffer(bytes.data(), bytes.size()));
    if (close_after) raw.socket.close();
    HeapBufferSource heap(1 << 16);
    incoming = co_await raw.channel->receive(heap);
  };
  run(io, body);
  if (!incoming) CHECK_FALSE(raw.channel->is_open());
  return incoming;
}

TEST_CASE("a stream that ends anywhere in a frame, or has any byte changed, is an error and never a hang") {
  const Activations hidden(24);
  StepMessage step = sample_step(1, false);
  step.cache_ops.clear();
  const Result<EncodedFrame> frame = encode_frame({step, hidden.bytes(), {}});
  REQUIRE(frame);
  std::vector<std::byte> bytes = bytes_of(*frame);
  REQUIRE(receive_bytes(bytes, true));
  for (size_t n = 0; n < bytes.size(); ++n) {
    const Result<IncomingMessage> incoming = receive_bytes(std::span(bytes).first(n), true);
    REQUIRE_FALSE(incoming);
    CHECK(incoming.error().code == Errc::kPeerLost);
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] ^= static_cast<std::byte>(1 << (i % 8));
    const Result<IncomingMessage> incoming = receive_bytes(bytes, false);
    REQUIRE_FALSE(incoming);
    CHECK(incoming.error().code == Errc::kBadFrame);
    bytes[i] ^= static_cast<std::byte>(1 << (i % 8));
  }
}

TEST_CASE("another protocol at the port is refused by its first bytes") {
  const std::string http = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";
  const Result<IncomingMessage> incoming = receive_bytes(std::as_bytes(std::span(http)), false);
  REQUIRE_FALSE(incoming);
  CHECK(mentions(incoming.error().message, "not a shoal frame"));
}

TEST_CASE("a sender that stalls inside a frame is given up after the frame deadline") {
  ChannelOptions options;
  options.frame_deadline = 40ms;
  const Activations hidden(4096);
  const Result<EncodedFrame> frame = encode_frame({sample_step(1, false), hidden.bytes(), {}});
  REQUIRE(frame);
  const std::vector<std::byte> bytes = bytes_of(*frame);
  for (size_t n : {size_t{1}, size_t{31}, size_t{32}, size_t{100}, size_t{600}, bytes.size() - 1}) {
    CAPTURE(n);
    const auto start = Clock::now();
    const Result<IncomingMessage> incoming = receive_bytes(std::span(bytes).first(n), false, options);
    REQUIRE_FALSE(incoming);
    CHECK(incoming.error().code == Errc::kTimeout);
    CHECK(mentions(incoming.error().message, "stalled"));
    CHECK(Clock::now() - start < 2s);
  }
}

TEST_CASE("a sender of one byte at a time is given up after the frame deadline too") {
  ChannelOptions options;
  options.frame_deadline = 60ms;
  asio::io_context io;
  RawPeer raw(io, options);
  const Result<EncodedFrame> frame = encode_frame({Shutdown{std::string(200, 'x')}, {}, {}});
  REQUIRE(frame);
  const std::vector<std::byte> bytes = bytes_of(*frame);
  const Body receiver = [&]() -> asio::awaitable<void> {
    HeapBufferSource heap(0);
    const Result<IncomingMessage> incoming = co_await raw.channel->receive(heap);
    REQUIRE_FALSE(incoming);
    CHECK(incoming.error().code == Errc::kTimeout);
  };
  const Body dripper = [&]() -> asio::awaitable<void> {
    for (size_t i = 0; i < bytes.size() && raw.channel->is_open(); ++i) {
      boost::system::error_code ec;
      asio::write(raw.socket, asio::buffer(&bytes[i], 1), ec);
      asio::steady_timer timer(io, 5ms);
      co_await timer.async_wait(asio::use_awaitable);
    }
  };
  run(io, {receiver, dripper});
}

TEST_CASE("frames that arrive in one piece or in odd pieces are told apart") {
  asio::io_context io;
  RawPeer raw(io);
  std::vector<std::byte> stream;
  const Activations hidden(1000);
  constexpr uint64_t kCount = 50;
  for (uint64_t i = 0; i < kCount; ++i) {
    Message message = Heartbeat{i};
    if (i % 3 == 0) message = LinkProbe{i};
    const Result<EncodedFrame> frame =
        encode_frame({message, i % 3 == 0 ? hidden.bytes() : std::span<const std::byte>(), {}});
    REQUIRE(frame);
    const std::vector<std::byte> bytes = bytes_of(*frame);
    stream.insert(stream.end(), bytes.begin(), bytes.end());
  }
  const Body receiver = [&]() -> asio::awaitable<void> {
    HeapBufferSource heap(1 << 12);
    for (uint64_t i = 0; i < 2 * kCount; ++i) {
      const Result<IncomingMessage> incoming = co_await raw.channel->receive(heap);
      REQUIRE(incoming);
      const uint64_t n = i % kCount;
      if (n % 3 == 0) {
        CHECK(std::get<LinkProbe>(incoming->message).sequence == n);
        CHECK(std::memcmp(incoming->payload.bytes.data(), hidden.bytes().data(), 1000) == 0);
      } else {
        CHECK(std::get<Heartbeat>(incoming->message).progress == n);
      }
    }
    CHECK(raw.channel->bytes_received() == 2 * stream.size());
  };
  const Body sender = [&]() -> asio::awaitable<void> {
    co_await asio::async_write(raw.socket, asio::buffer(stream), asio::use_awaitable);
    for (size_t at = 0; at < stream.size();) {
      const size_t n = std::min<size_t>(1 + at * 7 % 301, stream.size() - at);
      co_await asio::async_write(raw.socket, asio::buffer(stream.data() + at, n), asio::use_awaitable);
      at += n;
      asio::steady_timer timer(io, 100us);
      co_await timer.async_wait(asio::use_awaitable);
    }
  };
  run(io, {receiver, sender});
}

TEST_CASE("before the hello a large frame is refused by its header") {
  asio::io_context io;
  RawPeer raw(io);
  raw.channel->set_limits(kHandshakeLimits);
  const Result<EncodedFrame> frame = encode_frame({LoadPlan{1, std::string(20000, ' ')}, {}, {}});
  REQUIRE(frame);
  const Body body = [&]() -> asio::awaitable<void> {
    asio::write(raw.socket, asio::buffer(frame->header));  // the rest need not come
    HeapBufferSource heap(0);
    const Result<IncomingMessage> incoming = co_await raw.channel->receive(heap);
    REQUIRE_FALSE(incoming);
    CHECK(incoming.error().code == Errc::kBadFrame);
  };
  run(io, body);
}

TEST_CASE("large metadata is received whole, and a header that claims it takes no memory for it") {
  asio::io_context io;
  RawPeer raw(io);
  raw.channel->set_limits({});
  std::string plan(900'000, ' ');
  for (size_t i = 0; i < plan.size(); i += 1000) plan[i] = static_cast<char>('a' + i / 1000 % 26);
  const Result<EncodedFrame> frame = encode_frame({LoadPlan{1, plan}, {}, {}});
  REQUIRE(frame);
  const std::vector<std::byte> bytes = bytes_of(*frame);
  std::thread sender([&] { asio::write(raw.socket, asio::buffer(bytes.data(), bytes.size())); });
  const Body whole = [&]() -> asio::awaitable<void> {
    HeapBufferSource heap(0);
    const Result<IncomingMessage> incoming = co_await raw.channel->receive(heap);
    REQUIRE(incoming);
    CHECK(std::get<LoadPlan>(incoming->message).plan_json == plan);
  };
  run(io, whole);
  sender.join();

  const auto resident_mib = [] {
    std::ifstream statm("/proc/self/statm");
    size_t total = 0, resident = 0;
    statm >> total >> resident;
    return resident * 4096 >> 20;
  };
  ChannelOptions hasty;
  hasty.frame_deadline = std::chrono::milliseconds(200);
  Result<FrameHeader> claimed = decode_header(frame->header, {});
  REQUIRE(claimed);
  claimed->metadata_bytes = 60 << 20;
  const auto header = encode_header(*claimed);
  asio::io_context waiting;
  RawPeer silent(waiting, hasty);
  silent.channel->set_limits({});
  asio::write(silent.socket, asio::buffer(header));
  const size_t before = resident_mib();
  const Body claim = [&]() -> asio::awaitable<void> {
    HeapBufferSource heap(0);
    asio::co_spawn(
        waiting,
        [channel = silent.channel]() -> asio::awaitable<void> {
          HeapBufferSource none(0);
          (void)co_await channel->receive(none);
        },
        asio::detached);
    asio::steady_timer pause(waiting, std::chrono::milliseconds(50));
    co_await pause.async_wait(asio::use_awaitable);
    CHECK(resident_mib() < before + 16);
    silent.channel->close();
  };
  run(waiting, claim);
}

TEST_CASE("a port that is taken is named, with the way out") {
  asio::io_context io;
  const auto first = listen_on(io.get_executor());
  REQUIRE(first->port() != 0);
  std::string message;
  try {
    (void)listen_on(io.get_executor(), "127.0.0.1", first->port());
  } catch (const SetupError& error) {
    message = error.what();
  }
  CAPTURE(message);
  CHECK(mentions(message, ("127.0.0.1:" + std::to_string(first->port())).c_str()));
  CHECK(mentions(message, "in use"));
  CHECK(mentions(message, "choose another port"));
}

TEST_CASE("an address of another machine cannot be listened on") {
  asio::io_context io;
  std::string message;
  try {
    (void)listen_on(io.get_executor(), "192.0.2.1");
  } catch (const SetupError& error) {
    message = error.what();
  }
  CHECK(mentions(message, "192.0.2.1"));
  CHECK(mentions(message, "of this machine"));
}

TEST_CASE("dialing waits for a node that starts later, and gives up at the deadline") {
  asio::io_context io;
  const uint16_t port = listen_on(io.get_executor())->port();  // free again, as the listener is gone
  const Body refused = [&]() -> asio::awaitable<void> {
    const auto start = Clock::now();
    const Result<ChannelPtr> channel = co_await dial("127.0.0.1", port, after(100ms));
    REQUIRE_FALSE(channel);
    CHECK(channel.error().code == Errc::kPeerLost);
    CAPTURE(channel.error().message);
    CHECK(mentions(channel.error().message, ("127.0.0.1:" + std::to_string(port)).c_str()));
    CHECK(mentions(channel.error().message, "refused"));
    CHECK(mentions(channel.error().message, "is shoal running there"));
    CHECK(Clock::now() - start >= 90ms);
    CHECK(Clock::now() - start < 2s);
  };
  run(io, refused);
  std::unique_ptr<Listener> late;
  const Body dialer = [&]() -> asio::awaitable<void> {
    const Result<ChannelPtr> channel = co_await dial("localhost", port, after(5s));
    CHECK(channel);
  };
  const Body starter = [&]() -> asio::awaitable<void> {
    asio::steady_timer timer(io, 50ms);
    co_await timer.async_wait(asio::use_awaitable);
    late = listen_on(io.get_executor(), "127.0.0.1", port);
    const Result<ChannelPtr> channel = co_await late->accept();
    CHECK(channel);
  };
  run(io, {dialer, starter});
}

TEST_CASE("a closed listener ends its accept") {
  asio::io_context io;
  const auto listener = listen_on(io.get_executor());
  const Body waiter = [&]() -> asio::awaitable<void> {
    const Result<ChannelPtr> channel = co_await listener->accept();
    CHECK(channel.error().code == Errc::kCancelled);
  };
  const Body closer = [&]() -> asio::awaitable<void> {
    asio::steady_timer timer(io, 10ms);
    co_await timer.async_wait(asio::use_awaitable);
    listener->close();
  };
  run(io, {waiter, closer});
}

TEST_CASE("a peer that is given up hears it at once, past what it has not read") {
  asio::io_context io;
  RawPeer raw(io);
  const Activations payload(4 << 20);
  const Body body = [&]() -> asio::awaitable<void> {
    // More than the peer's system takes: what ends the stream would wait behind it.
    OutgoingMessage outgoing{LinkProbe{1}, payload.bytes(), {}};
    REQUIRE(raw.channel->post(std::move(outgoing)).has_value());
    raw.channel->abort();
    CHECK_FALSE(raw.channel->is_open());
    std::vector<char> read(2 * payload.bytes().size());
    boost::system::error_code ec;
    const auto begin = Clock::now();
    co_await asio::async_read(raw.socket, asio::buffer(read), asio::redirect_error(asio::use_awaitable, ec));
    CHECK(ec == asio::error::connection_reset);
    CHECK(Clock::now() - begin < 1s);
  };
  run(io, body);
}

TEST_CASE("a connection reset while sending is a lost peer") {
  asio::io_context io;
  RawPeer raw(io);
  const Activations payload(1 << 20);
  const Body body = [&]() -> asio::awaitable<void> {
    raw.socket.set_option(asio::socket_base::linger(true, 0));
    raw.socket.close();
    Result<void> sent = Result<void>();
    for (uint64_t i = 0; sent && i < 100; ++i) {
      OutgoingMessage outgoing{LinkProbe{i}, payload.bytes(), {}};
      sent = co_await raw.channel->send(std::move(outgoing));
    }
    REQUIRE_FALSE(sent);
    CHECK(sent.error().code == Errc::kPeerLost);
  };
  run(io, body);
}

}  // namespace
}  // namespace shoal::test
