#include "transport/tcp_channel.h"

#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <string>

#include "base/check.h"

namespace shoal {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr std::chrono::milliseconds kFarewell{200};  // for a peer that is refused to read why

// The buffers of a frame without its first `skip` bytes.
std::array<asio::const_buffer, 4> rest_of(const EncodedFrame& frame, size_t skip) {
  std::array<asio::const_buffer, 4> buffers = frame.buffers();
  for (asio::const_buffer& buffer : buffers) {
    const size_t skipped = std::min(skip, buffer.size());
    buffer += skipped;
    skip -= skipped;
  }
  return buffers;
}

// Options that a kernel lacks make a link slower or a loss noticed later, not wrong: errors are ignored.
void set_socket_options(tcp::socket& socket, const ChannelOptions& options) {
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
#ifdef TCP_USER_TIMEOUT
  const auto timeout_ms = static_cast<unsigned>(options.tcp_user_timeout.count());
  ::setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
#endif
#ifdef TCP_KEEPIDLE
  // An idle link to a node that vanished is noticed after about 5 + 3 * 2 seconds.
  const int idle_s = 5, interval_s = 2, probes = 3;
  ::setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  ::setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
  ::setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
#endif
  socket.non_blocking(true, ignored);
}

}  // namespace

std::chrono::milliseconds TcpChannel::deadline_for(size_t frame_bytes, std::chrono::milliseconds base) {
  return base + std::chrono::milliseconds(frame_bytes / 128);
}

void TcpChannel::Watchdog::arm(TcpChannel& channel, std::chrono::milliseconds timeout, const char* what) {
  if (armed_) return;
  armed_ = true;
  timer_.expires_after(timeout);
  // A handler that was already queued when the frame got done is told apart by its generation.
  timer_.async_wait([this, weak = channel.weak_from_this(), generation = ++generation_, timeout,
                     what](const error_code& ec) {
    const std::shared_ptr<TcpChannel> channel = weak.lock();
    if (ec || !channel || !armed_ || generation != generation_) return;
    channel->end(Error{Errc::kTimeout,
                       channel->peer() + " " + what + " for " + std::to_string(timeout.count()) + " ms"});
  });
}

void TcpChannel::Watchdog::disarm() {
  if (!armed_) return;
  armed_ = false;
  timer_.cancel();
}

std::shared_ptr<TcpChannel> TcpChannel::create(tcp::socket socket, const ChannelOptions& options,
                                               TlsSide side) {
  return std::shared_ptr<TcpChannel>(new TcpChannel(std::move(socket), options, side));
}

TcpChannel::TcpChannel(tcp::socket socket, const ChannelOptions& options, TlsSide side)
    : socket_(std::move(socket)),
      options_(options),
      stream_(options.tls ? make_tls_stream(socket_, options.tls, side) : make_plain_stream(socket_)),
      write_watchdog_(socket_.get_executor()),
      read_watchdog_(socket_.get_executor()) {
  set_socket_options(socket_, options);
  error_code ec;
  const tcp::endpoint remote = socket_.remote_endpoint(ec);
  peer_address_ =
      ec ? "a peer that has gone" : remote.address().to_string() + ":" + std::to_string(remote.port());
}

size_t TcpChannel::unacknowledged_bytes() const {
  int bytes = 0;
#ifdef SIOCOUTQ
  if (ended_ || ::ioctl(const_cast<tcp::socket&>(socket_).native_handle(), SIOCOUTQ, &bytes) != 0) return 0;
#endif
  return static_cast<size_t>(bytes);
}

Error TcpChannel::end(Error reason) {
  if (ended_) return *ended_;
  ended_ = std::move(reason);
  watch_.reset();
  error_code ignored;
  socket_.close(ignored);
  write_watchdog_.disarm();
  read_watchdog_.disarm();
  // Nobody reads the queued buffers any more: the kernel copied what it took.
  std::deque<Pending> dropped;
  dropped.swap(queue_);
  for (Pending& pending : dropped) {
    if (pending.completion) pending.completion->finish(*ended_);
  }
  return *ended_;
}

Error TcpChannel::end_by(const error_code& ec, const char* doing) {
  if (ended_) return *ended_;
  if (ec == asio::error::operation_aborted) {
    return end(Error{Errc::kCancelled, std::string(doing) + " " + peer() + " was cancelled"});
  }
  if (ec == asio::error::eof) return end(Error{Errc::kPeerLost, peer() + " closed the connection"});
  const std::string reason = stream_->reason();
  // TLS has refused a record: what a frame's checksums do where there is no TLS.
  return end(Error{reason.empty() ? Errc::kPeerLost : Errc::kBadFrame,
                   "lost the connection while " + std::string(doing) + " " + peer() + ": " +
                       (reason.empty() ? ec.message() : reason)});
}

void TcpChannel::close() {
  end(Error{Errc::kCancelled, "the connection to " + peer() + " was closed by this node"});
}

void TcpChannel::abort() {
  error_code ignored;
  if (!ended_) socket_.set_option(asio::socket_base::linger(true, 0), ignored);
  close();
}

asio::awaitable<error_code> TcpChannel::wait_for_stream() {
  const auto what =
      stream_->wants() == ByteStream::Wants::kRead ? tcp::socket::wait_read : tcp::socket::wait_write;
  error_code ec;
  co_await socket_.async_wait(what, asio::redirect_error(asio::use_awaitable, ec));
  co_return ec;
}

asio::awaitable<Result<void>> TcpChannel::handshake(std::chrono::milliseconds timeout) {
  const std::shared_ptr<TcpChannel> self = shared_from_this();
  Watchdog watchdog(socket_.get_executor());
  watchdog.arm(*this, timeout, "did not show who it is");
  while (true) {
    if (ended_) co_return *ended_;
    error_code ec;
    if (stream_->handshake(ec)) break;
    if (!ec) ec = co_await wait_for_stream();
    if (!ec || ended_) continue;
    if (stream_->reason().empty()) co_return end_by(ec, "greeting");
    const Error refused{Errc::kRefused, peer() + " was not let in: " + stream_->reason()};
    co_await let_refusal_arrive();
    co_return end(refused);
  }
  watchdog.disarm();
  co_return watch_peer();
}

Result<void> TcpChannel::watch_peer() {
  const CertificateInfo* shown = stream_->peer_certificate();
  if (shown == nullptr) return {};
  const Error revoked{Errc::kRefused,
                      "its certificate (of node " + shown->node + ") was revoked (shoal revoke)"};
  watch_ = options_.tls->watch(
      shown->node, peer_address_, [weak = weak_from_this(), executor = socket_.get_executor(), revoked] {
        asio::post(executor, [weak, revoked] {
          if (const std::shared_ptr<TcpChannel> channel = weak.lock())
            channel->end(Error{revoked.code, channel->peer() + " is not believed any more: " +
                                                 revoked.message + ", or has ended"});
        });
      });
  if (watch_) return {};
  return end(Error{revoked.code, peer() + " was not let in: " + revoked.message});
}

asio::awaitable<void> TcpChannel::let_refusal_arrive() {
  error_code ec;
  socket_.shutdown(tcp::socket::shutdown_send, ec);
  const Deadline deadline = after(kFarewell);
  std::array<char, 1024> scrap;
  for (size_t bytes = 0; !ec && bytes < kHandshakeBytesMax;) {
    if (!co_await wait_readable(deadline)) break;
    bytes += socket_.read_some(asio::buffer(scrap), ec);
  }
}

Result<void> TcpChannel::post(OutgoingMessage outgoing) {
  return enqueue(std::move(outgoing), nullptr);
}

asio::awaitable<Result<void>> TcpChannel::send(OutgoingMessage outgoing) {
  const std::shared_ptr<TcpChannel> self = shared_from_this();
  const auto completion = std::make_shared<Completion>(socket_.get_executor());
  Result<void> queued = enqueue(std::move(outgoing), completion);
  if (!queued) co_return queued;
  if (!completion->outcome) {
    error_code ec;
    co_await completion->event.async_wait(asio::redirect_error(asio::use_awaitable, ec));
  }
  if (!completion->outcome) {
    // The caller was cancelled and its payload may vanish: half a frame may be out, so the channel ends.
    end(Error{Errc::kCancelled, "sending to " + peer() + " was cancelled"});
  }
  co_return *completion->outcome;
}

Result<void> TcpChannel::enqueue(OutgoingMessage&& outgoing, std::shared_ptr<Completion> completion) {
  if (ended_) return *ended_;
  if (queue_.size() >= options_.send_queue_max) {
    return Error{Errc::kQueueFull, std::to_string(queue_.size()) + " messages wait to be sent to " + peer()};
  }
  Result<EncodedFrame> frame = encode_frame(outgoing);
  if (!frame) return frame.error();
  queue_.push_back(Pending{std::move(*frame), 0, std::move(completion)});
  if (writing_) return {};
  const Result<bool> written = write_now(queue_.back());
  if (!written) return written.error();
  if (*written) return {};
  writing_ = true;
  asio::co_spawn(socket_.get_executor(), write_queue(shared_from_this()), asio::detached);
  return {};
}

Result<bool> TcpChannel::write_now(Pending& pending) {
  const size_t size = pending.frame.size_bytes();
  while (pending.written < size) {
    error_code ec;
    pending.written += stream_->write_some(rest_of(pending.frame, pending.written), ec);
    if (would_block(ec)) return false;
    if (ec) return end_by(ec, "sending to");
  }
  bytes_sent_ += size;
  const Pending done = std::move(pending);
  queue_.pop_front();
  if (done.completion) done.completion->finish({});
  return true;
}

asio::awaitable<void> TcpChannel::write_queue(std::shared_ptr<TcpChannel> self) {
  while (!self->ended_ && !self->queue_.empty()) {
    // References into a deque survive push_back; end() takes the queue away, so nothing is kept over the
    // wait.
    const size_t size = self->queue_.front().frame.size_bytes();
    self->write_watchdog_.arm(*self, deadline_for(size, self->options_.write_deadline),
                              "took too little data");
    const error_code ec = co_await self->wait_for_stream();
    if (ec || self->ended_) {
      self->end_by(ec, "sending to");
      break;
    }
    const Result<bool> written = self->write_now(self->queue_.front());
    if (!written) break;
    if (*written) self->write_watchdog_.disarm();
  }
  self->writing_ = false;
}

}  // namespace shoal
