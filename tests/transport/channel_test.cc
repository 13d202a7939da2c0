#include "transport/channel.h"

#include <doctest/doctest.h>

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <cstring>
#include <string>
#include <thread>

#include "tests/support/mentions.h"
#include "tests/transport/support.h"

namespace shoal::test {
namespace {

ChannelPair make_pair_of(const std::string& kind, asio::io_context& io, const ChannelOptions& options = {}) {
  if (kind == "tcp") return make_tcp_channels(io, options);
  return make_local_channels(io.get_executor(), io.get_executor(), options);
}

const char* const kKinds[] = {"tcp", "local"};

// A caller's own receive buffers, to see where payloads land.
struct FixedBuffer : BufferSource {
  PayloadBuffer slab = HeapBufferSource(1 << 20).acquire(1 << 20).value();
  size_t asked = 0;
  Result<PayloadBuffer> acquire(size_t bytes) override {
    asked = bytes;
    if (bytes > slab.bytes.size()) return Error{Errc::kBadFrame, "too large for this stage"};
    return slab;
  }
};

TEST_CASE("every message crosses every kind of channel, with equal byte counts at both ends") {
  for (const char* kind : kKinds) {
    CAPTURE(kind);
    asio::io_context io;
    const ChannelPair ends = make_pair_of(kind, io);
    const Activations hidden(33 * 576 * 4);
    const std::vector<Message> messages = sample_messages();
    const auto may_have_payload = [](const Message& m) {
      return std::holds_alternative<StepMessage>(m) || std::holds_alternative<LinkProbe>(m);
    };
    const Body sender = [&]() -> asio::awaitable<void> {
      for (const Message& message : messages) {
        OutgoingMessage outgoing{message, {}, {}};
        if (may_have_payload(message)) outgoing.payload = hidden.bytes();
        const Result<void> sent = co_await ends.first->send(std::move(outgoing));
        CHECK(sent);
      }
    };
    const Body receiver = [&]() -> asio::awaitable<void> {
      HeapBufferSource heap(1 << 20);
      for (const Message& message : messages) {
        const Result<IncomingMessage> incoming = co_await ends.second->receive(heap);
        REQUIRE(incoming);
        CHECK(incoming->message == message);
        REQUIRE(incoming->payload.bytes.size() == (may_have_payload(message) ? hidden.bytes().size() : 0));
        if (may_have_payload(message)) {
          CHECK(std::memcmp(incoming->payload.bytes.data(), hidden.bytes().data(), hidden.bytes().size()) ==
                0);
        }
      }
    };
    run(io, {sender, receiver});
    CHECK(ends.first->bytes_sent() > hidden.bytes().size());
    CHECK(ends.first->bytes_sent() == ends.second->bytes_received());
    CHECK(ends.second->bytes_sent() == 0);
  }
}

TEST_CASE("a payload is received where the receiver wants it, aligned, with nothing written beyond") {
  for (const char* kind : kKinds) {
    CAPTURE(kind);
    asio::io_context io;
    const ChannelPair ends = make_pair_of(kind, io);
    const Body both = [&]() -> asio::awaitable<void> {
      FixedBuffer buffer;
      for (size_t bytes : {4, 8, 300, 512, 8192, 100000, 1000000}) {
        const Activations payload(bytes);
        std::memset(buffer.slab.bytes.data(), 0x5a, buffer.slab.bytes.size());
        OutgoingMessage outgoing{LinkProbe{bytes}, payload.bytes(), {}};
        const Result<void> posted = ends.first->post(std::move(outgoing));
        REQUIRE(posted);
        const Result<IncomingMessage> incoming = co_await ends.second->receive(buffer);
        REQUIRE(incoming);
        const std::span<std::byte> got = incoming->payload.bytes;
        CHECK(got.data() == buffer.slab.bytes.data());
        CHECK(reinterpret_cast<uintptr_t>(got.data()) % 64 == 0);
        REQUIRE(got.size() == bytes);
        CHECK(std::memcmp(got.data(), payload.bytes().data(), bytes) == 0);
        CHECK(buffer.asked == (bytes + 7) / 8 * 8);
        CHECK(buffer.slab.bytes[buffer.asked] == std::byte{0x5a});
      }
      const Activations too_large((1 << 20) + 8);
      OutgoingMessage outgoing{LinkProbe{1}, too_large.bytes(), {}};
      CHECK(ends.first->post(std::move(outgoing)));
      const Result<IncomingMessage> incoming = co_await ends.second->receive(buffer);
      REQUIRE_FALSE(incoming);
      CHECK(mentions(incoming.error().message, "too large for this stage"));
      CHECK_FALSE(ends.second->is_open());
    };
    run(io, both);
  }
}

TEST_CASE("order is kept and keep_alive is released when the bytes have left") {
  for (const char* kind : kKinds) {
    CAPTURE(kind);
    asio::io_context io;
    const ChannelPair ends = make_pair_of(kind, io);
    const auto payload = std::make_shared<Activations>(200000);
    std::weak_ptr<Activations> alive = payload;
    const Body both = [&]() -> asio::awaitable<void> {
      for (uint64_t i = 0; i < 200; ++i) {
        OutgoingMessage outgoing{LinkProbe{i}, payload->bytes(), payload};
        const Result<void> posted = ends.first->post(std::move(outgoing));
        REQUIRE(posted);
      }
      HeapBufferSource heap(1 << 20);
      for (uint64_t i = 0; i < 200; ++i) {
        const Result<IncomingMessage> incoming = co_await ends.second->receive(heap);
        REQUIRE(incoming);
        CHECK(std::get<LinkProbe>(incoming->message).sequence == i);
      }
      // On TCP the writer may hear that its last bytes have left after the reader has them.
      asio::steady_timer pause(io);
      for (int i = 0; i < 1000 && payload.use_count() > 1; ++i) {
        pause.expires_after(1ms);
        co_await pause.async_wait(asio::use_awaitable);
      }
      CHECK(payload.use_count() == 1);
    };
    run(io, both);
  }
}

TEST_CASE(
    "a peer that never reads: posting ends with queue full, the channel lives, closing frees everything") {
  for (const char* kind : kKinds) {
    CAPTURE(kind);
    asio::io_context io;
    ChannelOptions options;
    options.send_queue_max = 8;
    const ChannelPair ends = make_pair_of(kind, io, options);
    const auto payload = std::make_shared<Activations>(4 << 20);
    const Body body = [&]() -> asio::awaitable<void> {
      Result<void> posted = Result<void>();
      size_t count = 0;
      while (posted && count < 100) {
        OutgoingMessage outgoing{LinkProbe{count++}, payload->bytes(), payload};
        posted = ends.first->post(std::move(outgoing));
      }
      REQUIRE_FALSE(posted);
      CHECK(posted.error().code == Errc::kQueueFull);
      CHECK(ends.first->queued_messages() == 8);
      CHECK(ends.first->is_open());
      ends.first->close();
      CHECK(payload.use_count() == 1);
      OutgoingMessage outgoing{Heartbeat{}, {}, {}};
      CHECK(ends.first->post(std::move(outgoing)).error().code == Errc::kCancelled);
      co_return;
    };
    run(io, body);
  }
}

TEST_CASE("a peer that takes no data for the write deadline is given up") {
  for (const char* kind : kKinds) {
    CAPTURE(kind);
    asio::io_context io;
    ChannelOptions options;
    options.send_queue_max = 2;
    options.write_deadline = 60ms;
    const ChannelPair ends = make_pair_of(kind, io, options);
    const Activations payload(16 << 10);
    const Body body = [&]() -> asio::awaitable<void> {
      Result<void> sent = Result<void>();
      for (uint64_t i = 0; sent && i < 100000; ++i) {
        OutgoingMessage outgoing{LinkProbe{i}, payload.bytes(), {}};
        sent = co_await ends.first->send(std::move(outgoing));
      }
      REQUIRE_FALSE(sent);
      CHECK(sent.error().code == Errc::kTimeout);
      CHECK_FALSE(ends.first->is_open());
    };
    run(io, body);
  }
}

TEST_CASE("closing: what was sent before arrives, then the loss is told; an own close is a cancel") {
  for (const char* kind : kKinds) {
    CAPTURE(kind);
    asio::io_context io;
    const ChannelPair ends = make_pair_of(kind, io);
    ends.second->set_peer_name("pi-7");
    const Body body = [&]() -> asio::awaitable<void> {
      OutgoingMessage outgoing{Shutdown{"done"}, {}, {}};
      const Result<void> sent = co_await ends.first->send(std::move(outgoing));
      CHECK(sent);
      ends.first->close();
      ends.first->close();
      HeapBufferSource heap(0);
      Result<IncomingMessage> incoming = co_await ends.second->receive(heap);
      REQUIRE(incoming);
      CHECK(std::get<Shutdown>(incoming->message).reason == "done");
      incoming = co_await ends.second->receive(heap);
      REQUIRE_FALSE(incoming);
      CHECK(incoming.error().code == Errc::kPeerLost);
      CHECK(mentions(incoming.error().message, "pi-7 at "));
      incoming = co_await ends.first->receive(heap);
      CHECK(incoming.error().code == Errc::kCancelled);
    };
    run(io, body);
  }
}

TEST_CASE("close() ends a receive that waits without a deadline") {
  for (const char* kind : kKinds) {
    CAPTURE(kind);
    asio::io_context io;
    const ChannelPair ends = make_pair_of(kind, io);
    const Body waiter = [&]() -> asio::awaitable<void> {
      HeapBufferSource heap(0);
      const Result<IncomingMessage> incoming = co_await ends.first->receive(heap);
      CHECK(incoming.error().code == Errc::kCancelled);
    };
    const Body closer = [&]() -> asio::awaitable<void> {
      asio::steady_timer timer(io, 20ms);
      co_await timer.async_wait(asio::use_awaitable);
      ends.first->close();
    };
    run(io, {waiter, closer});
  }
}

TEST_CASE("an idle deadline or a cancelled wait leaves the channel usable") {
  using namespace asio::experimental::awaitable_operators;
  for (const char* kind : kKinds) {
    CAPTURE(kind);
    asio::io_context io;
    const ChannelPair ends = make_pair_of(kind, io);
    const Body body = [&]() -> asio::awaitable<void> {
      HeapBufferSource heap(0);
      Result<IncomingMessage> incoming = co_await ends.second->receive(heap, after(10ms));
      REQUIRE_FALSE(incoming);
      CHECK(incoming.error().code == Errc::kTimeout);
      asio::steady_timer timer(io, 10ms);
      auto first = co_await (ends.second->receive(heap) || timer.async_wait(asio::use_awaitable));
      CHECK((first.index() == 1 || !std::get<0>(first)));
      CHECK(ends.second->is_open());
      OutgoingMessage outgoing{Heartbeat{5}, {}, {}};
      CHECK(ends.first->post(std::move(outgoing)));
      incoming = co_await ends.second->receive(heap, after(1s));
      REQUIRE(incoming);
      CHECK(std::get<Heartbeat>(incoming->message).progress == 5);
    };
    run(io, body);
  }
}

TEST_CASE("the in-process channel joins two threads") {
  asio::io_context here, there;
  const ChannelPair ends = make_local_channels(here.get_executor(), there.get_executor());
  constexpr uint64_t kCount = 2000;
  const Body echo = [&]() -> asio::awaitable<void> {
    HeapBufferSource heap(1 << 12);
    for (uint64_t i = 0; i < kCount; ++i) {
      Result<IncomingMessage> incoming = co_await ends.second->receive(heap);
      if (!incoming) co_return;
      OutgoingMessage outgoing{LinkProbeAck{std::get<LinkProbe>(incoming->message).sequence, 0}, {}, {}};
      (void)co_await ends.second->send(std::move(outgoing));
    }
  };
  auto work = asio::make_work_guard(there);
  std::thread other([&] {
    asio::co_spawn(there, echo(), asio::detached);
    there.run();
  });
  const Activations payload(1024);
  const Body caller = [&]() -> asio::awaitable<void> {
    HeapBufferSource heap(0);
    for (uint64_t i = 0; i < kCount; ++i) {
      OutgoingMessage outgoing{LinkProbe{i}, payload.bytes(), {}};
      const Result<void> sent = co_await ends.first->send(std::move(outgoing));
      REQUIRE(sent);
      const Result<IncomingMessage> incoming = co_await ends.first->receive(heap, after(5s));
      REQUIRE(incoming);
      CHECK(std::get<LinkProbeAck>(incoming->message).sequence == i);
    }
  };
  run(here, caller);
  work.reset();
  other.join();
}

}  // namespace
}  // namespace shoal::test
