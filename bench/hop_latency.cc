// What a hop costs beyond the socket: the round trip of an activation frame over a TcpChannel (encoding,
// checksums, aligned receive, decoding) against the same bytes echoed over a bare socket, both over loopback,
// turn by turn.
//
//   hop_latency [payload bytes = 8192] [round trips = 20000]
//
// The two are timed in alternating rounds and the medians of the rounds are printed, so that a change of the
// machine's speed hits both.
#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "transport/channel.h"

namespace shoal {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr int kRounds = 9;

// Gives the same buffer each time: a round trip has one payload in flight.
class OneBuffer : public BufferSource {
 public:
  explicit OneBuffer(size_t bytes) : buffer_(HeapBufferSource(bytes).acquire(bytes).value()) {}
  Result<PayloadBuffer> acquire(size_t bytes) override {
    if (bytes > buffer_.bytes.size()) return Error{Errc::kBadFrame, "larger than the benchmark's payload"};
    return buffer_;
  }
  std::span<const std::byte> bytes() const { return buffer_.bytes; }

 private:
  PayloadBuffer buffer_;
};

StepMessage decode_step() {
  StepMessage step;
  step.rows.push_back({0, 100, true});
  step.candidates = 40;
  return step;
}

asio::awaitable<void> echo_frames(ChannelPtr channel, size_t payload_bytes) {
  OneBuffer source(payload_bytes);
  for (;;) {
    Result<IncomingMessage> incoming = co_await channel->receive(source);
    if (!incoming) co_return;
    OutgoingMessage outgoing{std::move(incoming->message), incoming->payload.bytes, {}};
    const Result<void> sent = co_await channel->send(std::move(outgoing));
    if (!sent) co_return;
  }
}

asio::awaitable<void> echo_bytes(tcp::socket& socket, size_t payload_bytes) {
  std::vector<std::byte> bytes(payload_bytes);
  boost::system::error_code ec;
  for (;;) {
    co_await asio::async_read(socket, asio::buffer(bytes), asio::redirect_error(asio::use_awaitable, ec));
    if (ec) co_return;
    co_await asio::async_write(socket, asio::buffer(bytes), asio::redirect_error(asio::use_awaitable, ec));
    if (ec) co_return;
  }
}

// Seconds for `count` round trips.
asio::awaitable<double> time_frames(ChannelPtr channel, size_t payload_bytes, int count) {
  OneBuffer source(payload_bytes);
  const StepMessage step = decode_step();
  const auto start = Clock::now();
  for (int i = 0; i < count; ++i) {
    OutgoingMessage outgoing{step, source.bytes(), {}};
    (void)(co_await channel->send(std::move(outgoing))).value();
    Result<IncomingMessage> incoming = co_await channel->receive(source);
    (void)incoming.value();
  }
  co_return std::chrono::duration<double>(Clock::now() - start).count();
}

asio::awaitable<double> time_bytes(tcp::socket& socket, size_t payload_bytes, int count) {
  std::vector<std::byte> bytes(payload_bytes);
  const auto start = Clock::now();
  for (int i = 0; i < count; ++i) {
    co_await asio::async_write(socket, asio::buffer(bytes), asio::use_awaitable);
    co_await asio::async_read(socket, asio::buffer(bytes), asio::use_awaitable);
  }
  co_return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int run(size_t payload_bytes, int count) {
  asio::io_context near, far;
  const auto listener = listen_on(far.get_executor());
  tcp::acceptor raw_acceptor(far, tcp::endpoint(asio::ip::make_address("127.0.0.1"), 0));
  tcp::socket raw_far(far), raw_near(near);

  const auto serve_frames = [&]() -> asio::awaitable<void> {
    ChannelPtr channel = (co_await listener->accept()).value();
    channel->set_limits({});
    co_await echo_frames(channel, payload_bytes);
  };
  const auto serve_bytes = [&]() -> asio::awaitable<void> {
    co_await raw_acceptor.async_accept(raw_far, asio::use_awaitable);
    raw_far.set_option(tcp::no_delay(true));
    co_await echo_bytes(raw_far, payload_bytes);
  };
  std::vector<double> frames, bytes;
  const auto measure = [&]() -> asio::awaitable<void> {
    ChannelPtr channel =
        (co_await dial("127.0.0.1", listener->port(), after(std::chrono::seconds(2)))).value();
    channel->set_limits({});
    co_await raw_near.async_connect(raw_acceptor.local_endpoint(), asio::use_awaitable);
    raw_near.set_option(tcp::no_delay(true));
    for (int round = -1; round < kRounds; ++round) {
      const double frame_s = co_await time_frames(channel, payload_bytes, count / kRounds);
      const double byte_s = co_await time_bytes(raw_near, payload_bytes, count / kRounds);
      if (round < 0) continue;  // warm-up
      frames.push_back(frame_s / (count / kRounds) * 1e6);
      bytes.push_back(byte_s / (count / kRounds) * 1e6);
    }
    channel->close();
    raw_near.close();
  };
  std::thread server([&] {
    asio::co_spawn(far, serve_frames(), asio::detached);
    asio::co_spawn(far, serve_bytes(), asio::detached);
    far.run();
  });
  asio::co_spawn(near, measure(), [](std::exception_ptr failure) {
    if (failure) std::rethrow_exception(failure);
  });
  near.run();
  server.join();
  const double frame_us = median(frames), raw_us = median(bytes);
  std::printf(
      "%zu-byte payload, round trip, median of %d rounds of %d: channel %.1f us, bare socket %.1f us, "
      "a hop costs %.1f us more\n",
      payload_bytes, kRounds, count / kRounds, frame_us, raw_us, (frame_us - raw_us) / 2);
  return 0;
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  const long payload_bytes = argc > 1 ? std::atol(argv[1]) : 8192;
  const long count = argc > 2 ? std::atol(argv[2]) : 20000;
  if (payload_bytes <= 0 || payload_bytes % 8 != 0 || count < shoal::kRounds) {
    std::fprintf(stderr, "usage: hop_latency [payload bytes, a multiple of 8] [round trips, at least %d]\n",
                 shoal::kRounds);
    return 2;
  }
  return shoal::run(static_cast<size_t>(payload_bytes), static_cast<int>(count));
}
