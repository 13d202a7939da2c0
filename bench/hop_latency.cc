// What a hop costs beyond the socket: the round trip of an activation frame over a TcpChannel (encoding,
// checksums, aligned receive, decoding) against the same bytes echoed over a bare socket, and over a
// TcpChannel with TLS 1.3 and certificates on both sides, all over loopback, turn by turn.
//
//   hop_latency [payload bytes = 8192] [round trips = 20000]
//
// The three are timed in alternating rounds and the medians of the rounds are printed, so that a change of
// the machine's speed hits all.
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

#include "transport/certificates.h"
#include "transport/channel.h"
#include "transport/tls.h"

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

// What both ends of an encrypted channel show: one node's certificate by an authority made for this run.
ChannelOptions with_tls() {
  const CertificateAuthority authority = CertificateAuthority::create("bench");
  NodeKey key = NodeKey::create();
  const std::string request = key.request("node", "bench");
  ChannelOptions options;
  options.tls = std::make_shared<TlsContext>(
      NodeCredentials{std::move(key), authority.sign(request, "node", std::chrono::days(1)).value(),
                      authority.certificate()});
  return options;
}

// One frame echo over loopback: the far end is served by `far`, the near end is dialled from `near`.
struct FrameEcho {
  FrameEcho(asio::io_context& far, ChannelOptions channel_options, size_t bytes)
      : options(std::move(channel_options)),
        listener(listen_on(far.get_executor(), "127.0.0.1", 0, options)),
        payload_bytes(bytes) {}

  asio::awaitable<void> serve() {
    ChannelPtr channel = (co_await listener->accept()).value();
    channel->set_limits({});
    co_await echo_frames(channel, payload_bytes);
  }
  asio::awaitable<void> connect() {
    near = (co_await dial("127.0.0.1", listener->port(), after(std::chrono::seconds(2)), options)).value();
    near->set_limits({});
  }

  ChannelOptions options;
  std::unique_ptr<Listener> listener;
  size_t payload_bytes;
  ChannelPtr near;
};

int run(size_t payload_bytes, int count) {
  asio::io_context near, far;
  FrameEcho plain(far, {}, payload_bytes), encrypted(far, with_tls(), payload_bytes);
  tcp::acceptor raw_acceptor(far, tcp::endpoint(asio::ip::make_address("127.0.0.1"), 0));
  tcp::socket raw_far(far), raw_near(near);
  const auto serve_bytes = [&]() -> asio::awaitable<void> {
    co_await raw_acceptor.async_accept(raw_far, asio::use_awaitable);
    raw_far.set_option(tcp::no_delay(true));
    co_await echo_bytes(raw_far, payload_bytes);
  };
  std::vector<double> frames, records, bytes;
  const auto measure = [&]() -> asio::awaitable<void> {
    co_await plain.connect();
    co_await encrypted.connect();
    co_await raw_near.async_connect(raw_acceptor.local_endpoint(), asio::use_awaitable);
    raw_near.set_option(tcp::no_delay(true));
    const int each = count / kRounds;
    for (int round = -1; round < kRounds; ++round) {
      const double frame_s = co_await time_frames(plain.near, payload_bytes, each);
      const double record_s = co_await time_frames(encrypted.near, payload_bytes, each);
      const double byte_s = co_await time_bytes(raw_near, payload_bytes, each);
      if (round < 0) continue;  // warm-up
      frames.push_back(frame_s / each * 1e6);
      records.push_back(record_s / each * 1e6);
      bytes.push_back(byte_s / each * 1e6);
    }
    plain.near->close();
    encrypted.near->close();
    raw_near.close();
  };
  std::thread server([&] {
    asio::co_spawn(far, plain.serve(), asio::detached);
    asio::co_spawn(far, encrypted.serve(), asio::detached);
    asio::co_spawn(far, serve_bytes(), asio::detached);
    far.run();
  });
  asio::co_spawn(near, measure(), [](std::exception_ptr failure) {
    if (failure) std::rethrow_exception(failure);
  });
  near.run();
  server.join();
  const double frame_us = median(frames), record_us = median(records), raw_us = median(bytes);
  std::printf(
      "%zu-byte payload, round trip, median of %d rounds of %d: channel %.1f us, bare socket %.1f us, "
      "a hop costs %.1f us more; with TLS %.1f us, a hop costs another %.1f us\n",
      payload_bytes, kRounds, count / kRounds, frame_us, raw_us, (frame_us - raw_us) / 2, record_us,
      (record_us - frame_us) / 2);
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
