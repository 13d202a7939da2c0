// Channels inside one process. Two pipes, one a direction, each with a mutex because its ends may be on
// different threads; frames pass through the same encoding, checks and limits as over a socket.
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <deque>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "transport/channel.h"

namespace shoal {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

// Wait on it on its own executor's thread, wake it from any. A waiter looks at its condition again after each
// wake-up. A wake-up is posted, so it cannot fall between the look and the wait.
class Event {
 public:
  explicit Event(asio::any_io_executor executor)
      : executor_(std::move(executor)), waiters_(std::make_shared<std::list<asio::steady_timer>>()) {}

  void wake() {
    asio::post(executor_, [waiters = waiters_] {
      for (asio::steady_timer& timer : *waiters) timer.cancel();
    });
  }
  // kTimeout after the deadline, kCancelled when the waiting coroutine was cancelled.
  asio::awaitable<Result<void>> wait(Deadline deadline) {
    struct Registration {
      std::shared_ptr<std::list<asio::steady_timer>> waiters;
      std::list<asio::steady_timer>::iterator timer;
      ~Registration() { waiters->erase(timer); }
    };
    waiters_->emplace_front(executor_, deadline);
    const Registration registration{waiters_, waiters_->begin()};
    error_code ec;
    co_await registration.timer->async_wait(asio::redirect_error(asio::use_awaitable, ec));
    if (!ec) co_return Error{Errc::kTimeout, "nothing happened in time"};
    const asio::cancellation_state state = co_await asio::this_coro::cancellation_state;
    if (state.cancelled() != asio::cancellation_type::none) co_return Error{Errc::kCancelled, "cancelled"};
    co_return Result<void>();
  }

 private:
  asio::any_io_executor executor_;
  std::shared_ptr<std::list<asio::steady_timer>> waiters_;  // touched on the executor's thread only
};

struct LocalFrame {
  EncodedFrame frame;
  std::vector<uint64_t> payload;  // a copy, as a kernel would hold it
};

// One direction.
struct Pipe {
  Pipe(asio::any_io_executor sender, asio::any_io_executor receiver) : writable(sender), readable(receiver) {}
  std::mutex mutex;
  std::deque<LocalFrame> frames;  // guarded by mutex, like the rest
  bool sender_closed = false, receiver_closed = false;
  Event writable, readable;
};

class LocalChannel final : public Channel, public std::enable_shared_from_this<LocalChannel> {
 public:
  LocalChannel(asio::any_io_executor executor, std::shared_ptr<Pipe> out, std::shared_ptr<Pipe> in,
               const ChannelOptions& options)
      : executor_(std::move(executor)), out_(std::move(out)), in_(std::move(in)), options_(options) {
    peer_address_ = "this process";
  }
  ~LocalChannel() override { LocalChannel::close(); }

  asio::awaitable<Result<void>> handshake(std::chrono::milliseconds) override { co_return Result<void>(); }
  const CertificateInfo* peer_certificate() const override { return nullptr; }

  Result<void> post(OutgoingMessage outgoing) override {
    if (ended_) return *ended_;
    Result<LocalFrame> frame = encode(outgoing);
    if (!frame) return frame.error();
    return push(*frame);
  }

  asio::awaitable<Result<void>> send(OutgoingMessage outgoing) override {
    const std::shared_ptr<LocalChannel> self = shared_from_this();
    if (ended_) co_return *ended_;
    Result<LocalFrame> frame = encode(outgoing);
    if (!frame) co_return frame.error();
    outgoing.keep_alive.reset();
    const Deadline deadline = Clock::now() + options_.write_deadline;
    for (;;) {
      Result<void> pushed = push(*frame);
      if (pushed || pushed.error().code != Errc::kQueueFull) co_return pushed;
      const Result<void> room = co_await out_->writable.wait(deadline);
      if (ended_) co_return *ended_;
      if (!room) co_return end(Error{room.error().code, peer() + " took no data: " + room.error().message});
    }
  }

  asio::awaitable<Result<IncomingMessage>> receive(BufferSource& source, Deadline deadline) override {
    const std::shared_ptr<LocalChannel> self = shared_from_this();
    SHOAL_CHECK(!receiving_);
    struct Guard {
      bool& flag;
      ~Guard() { flag = false; }
    } guard{receiving_};
    receiving_ = true;
    for (;;) {
      if (ended_) co_return *ended_;
      LocalFrame frame;
      const Result<bool> got = pop(frame);
      if (!got) co_return end(got.error());
      if (*got) co_return decode(frame, source);
      const Result<void> readable = co_await in_->readable.wait(deadline);
      if (ended_) co_return *ended_;
      if (!readable)
        co_return Error{readable.error().code, "waiting for " + peer() + ": " + readable.error().message};
    }
  }

  void close() override {
    end(Error{Errc::kCancelled, "the connection to " + peer() + " was closed by this node"});
  }
  bool is_open() const override { return !ended_; }
  uint64_t bytes_sent() const override { return bytes_sent_; }
  uint64_t bytes_received() const override { return bytes_received_; }
  size_t queued_messages() const override {
    const std::lock_guard lock(out_->mutex);
    return out_->frames.size();
  }
  void set_limits(const FrameLimits& limits) override { limits_ = limits; }
  asio::any_io_executor get_executor() override { return executor_; }

 private:
  static Result<LocalFrame> encode(const OutgoingMessage& outgoing) {
    Result<EncodedFrame> encoded = encode_frame(outgoing);
    if (!encoded) return encoded.error();
    LocalFrame frame;
    frame.payload.assign((outgoing.payload.size() + 7) / 8, 0);
    if (!outgoing.payload.empty()) {
      std::memcpy(frame.payload.data(), outgoing.payload.data(), outgoing.payload.size());
    }
    frame.frame = std::move(*encoded);
    frame.frame.payload = {};
    frame.frame.keep_alive.reset();
    return frame;
  }

  Result<void> push(LocalFrame& frame) {
    const size_t bytes = kFrameHeaderBytes + frame.frame.metadata.size() * 8 + frame.payload.size() * 8;
    {
      const std::lock_guard lock(out_->mutex);
      if (out_->receiver_closed) return Error{Errc::kPeerLost, peer() + " closed the connection"};
      if (out_->frames.size() >= options_.send_queue_max) {
        return Error{Errc::kQueueFull,
                     std::to_string(out_->frames.size()) + " messages wait to be sent to " + peer()};
      }
      out_->frames.push_back(std::move(frame));
    }
    bytes_sent_ += bytes;
    out_->readable.wake();
    return {};
  }

  // False when there is no frame yet; what was sent before the peer closed is still delivered.
  Result<bool> pop(LocalFrame& frame) {
    {
      const std::lock_guard lock(in_->mutex);
      if (in_->frames.empty()) {
        if (in_->sender_closed) return Error{Errc::kPeerLost, peer() + " closed the connection"};
        return false;
      }
      frame = std::move(in_->frames.front());
      in_->frames.pop_front();
    }
    in_->writable.wake();
    return true;
  }

  Result<IncomingMessage> decode(const LocalFrame& frame, BufferSource& source) {
    const Result<FrameHeader> header = decode_header(frame.frame.header, limits_);
    if (!header) return end(header.error());
    IncomingMessage incoming;
    const size_t padded = header->padded_payload_bytes();
    if (padded > 0) {
      Result<PayloadBuffer> buffer = source.acquire(padded);
      if (!buffer) return end(buffer.error());
      SHOAL_CHECK(buffer->bytes.size() >= padded);
      SHOAL_CHECK(reinterpret_cast<uintptr_t>(buffer->bytes.data()) % kPayloadAlignment == 0);
      incoming.payload = std::move(*buffer);
      incoming.payload.bytes = incoming.payload.bytes.first(padded);
      std::memcpy(incoming.payload.bytes.data(), frame.payload.data(), padded);
    }
    Result<Message> message = decode_frame(*header, frame.frame.metadata, incoming.payload.bytes);
    if (!message) return end(message.error());
    incoming.message = std::move(*message);
    incoming.payload.bytes = incoming.payload.bytes.first(header->payload_bytes);
    bytes_received_ += kFrameHeaderBytes + header->metadata_bytes + padded;
    return incoming;
  }

  Error end(Error reason) {
    if (ended_) return *ended_;
    ended_ = std::move(reason);
    {
      const std::lock_guard lock(out_->mutex);
      out_->sender_closed = true;
    }
    {
      const std::lock_guard lock(in_->mutex);
      in_->receiver_closed = true;
      in_->frames.clear();
    }
    out_->readable.wake();
    in_->writable.wake();
    // Own waiters too.
    out_->writable.wake();
    in_->readable.wake();
    return *ended_;
  }

  asio::any_io_executor executor_;
  std::shared_ptr<Pipe> out_, in_;
  ChannelOptions options_;
  FrameLimits limits_;
  std::optional<Error> ended_;
  bool receiving_ = false;
  uint64_t bytes_sent_ = 0, bytes_received_ = 0;
};

}  // namespace

std::pair<ChannelPtr, ChannelPtr> make_local_channels(asio::any_io_executor a, asio::any_io_executor b,
                                                      const ChannelOptions& options) {
  const auto forward = std::make_shared<Pipe>(a, b);
  const auto backward = std::make_shared<Pipe>(b, a);
  return {std::make_shared<LocalChannel>(a, forward, backward, options),
          std::make_shared<LocalChannel>(b, backward, forward, options)};
}

}  // namespace shoal
