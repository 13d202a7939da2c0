// What the transport tests share: running a coroutine to its end, sample messages, pairs of channels.
#pragma once

#include <doctest/doctest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <exception>
#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "transport/channel.h"
#include "transport/frame.h"
#include "transport/hello.h"

// A Result in a failed check shows its error; boost's own printing needs a printable value.
template <class T>
struct doctest::StringMaker<shoal::Result<T>> {
  static String convert(const shoal::Result<T>& result) {
    return result ? String("a value") : String(("error: " + result.error().message).c_str());
  }
};

namespace shoal::test {

namespace asio = boost::asio;
using asio::ip::tcp;
using namespace std::chrono_literals;

using Body = std::function<asio::awaitable<void>()>;

// Runs coroutines side by side until all ended; fails when they take longer than 10 s. `bodies` outlive the
// run.
inline void run(asio::io_context& io, const std::vector<Body>& bodies) {
  size_t ended = 0;
  io.restart();
  for (const Body& body : bodies) {
    asio::co_spawn(io, body(), [&](std::exception_ptr failure) {
      ++ended;
      if (failure) std::rethrow_exception(failure);
    });
  }
  const auto deadline = Clock::now() + 10s;
  while (ended < bodies.size() && Clock::now() < deadline) {
    if (io.run_one_for(100ms) == 0 && io.stopped()) break;  // nothing left that could end them
  }
  REQUIRE(ended == bodies.size());
}
inline void run(asio::io_context& io, const Body& body) {
  run(io, std::vector<Body>{body});
}

// A payload of `count` floats, aligned to 64 bytes.
struct Activations {
  explicit Activations(size_t bytes)
      : buffer(HeapBufferSource(bytes + 8).acquire((bytes + 7) / 8 * 8).value()) {
    for (size_t i = 0; i < buffer.bytes.size(); ++i) buffer.bytes[i] = static_cast<std::byte>(i * 37 + 11);
    buffer.bytes = buffer.bytes.first(bytes);
  }
  PayloadBuffer buffer;
  std::span<const std::byte> bytes() const { return buffer.bytes; }
};

inline Hello sample_hello() {
  return Hello{kProtocolVersion, LinkRole::kPipeline, "home",  "laptop", "pi-1",
               "sha256:aa",      "plan:bb",           "exact", 7,        2};
}

inline StepMessage sample_step(size_t rows, bool with_tokens) {
  StepMessage step;
  step.epoch = 3;
  step.step_id = 0x123456789abcull;
  step.stage = 1;
  step.stage_times = {{17, 0xffffffffu, 0xfedcba9876543210ull}};
  step.candidates = 40;
  step.cache_ops = {{WireCacheOp::Kind::kFree, 5, 0, 0},
                    {WireCacheOp::Kind::kFork, 6, 2, 17},
                    {WireCacheOp::Kind::kTrim, 1, 0, 9}};
  for (uint32_t i = 0; i < rows; ++i) step.rows.push_back({i % 3, 100 + i, i + 1 == rows});
  if (with_tokens) {
    for (uint32_t i = 0; i < rows; ++i) step.token_ids.push_back(40000 + i);
  }
  return step;
}

// One of every kind of message, and the interesting variants.
inline std::vector<Message> sample_messages() {
  std::vector<Message> messages;
  messages.push_back(sample_hello());
  StepMessage adapted = sample_step(3, true);
  adapted.rows[1].adapter = 7;
  adapted.rows[1].adapter_scale = -0.75f;
  messages.push_back(adapted);
  adapted.rows[1].overflowed = true;
  messages.push_back(adapted);
  StepMessage verified = sample_step(2, false);
  verified.verify_slot = 3;
  verified.digests = std::string(2 * kDigestBytes, '\x5a');
  messages.push_back(verified);
  verified.rows[0].adapter = 2;
  verified.digests.clear();
  messages.push_back(verified);
  messages.push_back(
      HelloAck{false, Refusal::kModel, "copy the file \xc3\xa9", 1, "pi-1", "sha256:cc", "plan:dd", 9});
  messages.push_back(HelloAck{true, Refusal::kNone, "", 1, "pi-1", "", "", 0});
  messages.push_back(sample_step(1, false));
  messages.push_back(sample_step(33, true));
  messages.push_back(StepMessage{});
  for (const WireStepKind kind : {WireStepKind::kEncode, WireStepKind::kEmbed}) {
    StepMessage step = sample_step(7, true);
    step.kind = kind;
    messages.push_back(step);
  }
  messages.push_back(ResultMessage{3,
                                   4,
                                   false,
                                   {{0, 12.5f, {1, 2, 3}, {3.f, 2.f, -1.f}}, {2, -0.f, {}, {1.f, 2.f}}},
                                   {{1, 2}, {3, 4}},
                                   Errc::kIo,
                                   ""});
  messages.push_back(
      ResultMessage{3, 4, false, {{6, 0, {}, {}, {0.5f, -0.25f, 1e-30f}}}, {{1, 2}}, Errc::kIo, ""});
  messages.push_back(ResultMessage{3, 5, true, {}, {}, Errc::kContextFull, "slot 3 is full"});
  ResultMessage hashed{3, 4, false, {{0, 12.5f, {1}, {3.f}}}, {{1, 2}}, Errc::kIo, ""};
  hashed.digests = std::string(kDigestBytes, '\x01');
  messages.push_back(hashed);
  hashed.overflowed = {0, 4095};
  messages.push_back(hashed);
  for (const StepFault fault : {StepFault::kDamaged, StepFault::kInput, StepFault::kOutput})
    messages.push_back(ResultMessage{3, 5, true, {}, {}, Errc::kBadFrame, "not finite", fault, 7});
  messages.push_back(StatsRequest{});
  messages.push_back(StatsMessage{
      "pi-1", 1u << 30, {{1, 4, 9, 100, 200, 300, 400, 500, 600, 700}}, {{"laptop", 8, 9}, {"pi-2", 1, 2}}});
  messages.push_back(Heartbeat{77, true});
  messages.push_back(Join{"10.0.0.7", 7007, 1u << 30, 4, "{}", {3, "[]", "PEM", "3045"}});
  messages.push_back(Measure{"[]"});
  messages.push_back(Measured{"[1]"});
  messages.push_back(Revoked{{"pi-7", "attic"}});
  messages.push_back(CertificateRequest{"a request"});
  messages.push_back(NewCertificate{"a certificate", "or why not"});
  messages.push_back(Examine{});
  messages.push_back(Examined{"q4_1: its product"});
  messages.push_back(FetchAhead{R"([{"layer_begin":0,"layer_end":4,"embedding":true,"output":false}])"});
  messages.push_back(FetchedAhead{uint64_t{3} << 40, uint64_t{2} << 40});
  messages.push_back(Shutdown{"the head ended the session"});
  messages.push_back(CancelAdvice{3, 11});
  messages.push_back(LinkProbe{5});
  messages.push_back(LinkProbeAck{6, 0x123456789abcdefull});
  messages.push_back(LoadPlan{2, std::string(100000, '{'), "certificate", "30450220"});
  messages.push_back(Ready{2, "plan:bb", "no memory", "{}"});
  messages.push_back(WeightsRequest{7, 290, 1u << 20, uint64_t{1} << 40, 3});
  messages.push_back(WeightsData{7, uint64_t{1} << 41, "pi-1 does not have tensor 290"});
  return messages;
}

using ChannelPair = std::pair<ChannelPtr, ChannelPtr>;

// Two ends of a TCP connection over loopback, past the hello.
inline ChannelPair make_tcp_channels(asio::io_context& io, const ChannelOptions& options = {}) {
  ChannelPair pair;
  const auto listener = listen_on(io.get_executor(), "127.0.0.1", 0, options);
  const Body accept = [&]() -> asio::awaitable<void> {
    Result<ChannelPtr> channel = co_await listener->accept();
    pair.second = channel.value();
  };
  const Body connect = [&]() -> asio::awaitable<void> {
    Result<ChannelPtr> channel = co_await dial("127.0.0.1", listener->port(), after(2s), options);
    pair.first = channel.value();
  };
  run(io, {accept, connect});
  pair.first->set_limits({});
  pair.second->set_limits({});
  return pair;
}

// A channel, and a bare socket at its other end.
struct RawPeer {
  explicit RawPeer(asio::io_context& io, const ChannelOptions& options = {}) : socket(io) {
    const auto listener = listen_on(io.get_executor(), "127.0.0.1", 0, options);
    const Body accept = [&]() -> asio::awaitable<void> {
      Result<ChannelPtr> accepted = co_await listener->accept();
      channel = accepted.value();
    };
    const Body connect = [&]() -> asio::awaitable<void> {
      co_await socket.async_connect(tcp::endpoint(asio::ip::make_address("127.0.0.1"), listener->port()),
                                    asio::use_awaitable);
    };
    run(io, {accept, connect});
    channel->set_limits({});
  }
  tcp::socket socket;
  ChannelPtr channel;
};

inline std::vector<std::byte> bytes_of(const EncodedFrame& frame) {
  std::vector<std::byte> bytes(frame.size_bytes());
  asio::buffer_copy(asio::buffer(bytes), frame.buffers());
  return bytes;
}

// Decodes a whole frame from memory, as a channel would.
inline Result<Message> decode_bytes(std::span<const std::byte> bytes, const FrameLimits& limits = {}) {
  const Error short_frame{Errc::kPeerLost, "short"};
  if (bytes.size() < kFrameHeaderBytes) return short_frame;
  const Result<FrameHeader> header = decode_header(bytes.first<kFrameHeaderBytes>(), limits);
  if (!header) return header.error();
  const size_t padded = header->padded_payload_bytes();
  if (bytes.size() < kFrameHeaderBytes + header->metadata_bytes + padded) return short_frame;
  std::vector<uint64_t> metadata(header->metadata_bytes / 8), payload(padded / 8);
  std::memcpy(metadata.data(), bytes.data() + kFrameHeaderBytes, header->metadata_bytes);
  if (padded > 0)
    std::memcpy(payload.data(), bytes.data() + kFrameHeaderBytes + header->metadata_bytes, padded);
  return decode_frame(*header, metadata, std::as_bytes(std::span(payload)));
}

}  // namespace shoal::test
