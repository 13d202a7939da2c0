// Channels: two-way, ordered, reliable message links between two nodes, over TCP or inside one process.
//
// Threads: a channel belongs to one io_context that one thread runs; every call is made on that thread
// (another thread posts to it). Coroutines are boost::asio::awaitable. Ownership: channels live in
// shared_ptr; a running operation keeps its channel alive. At most one receive at a time. Errors are Results;
// after any error except kQueueFull, kInvalidInput of a send, and a kTimeout of receive before a frame began,
// the channel is closed.
//
// Deadlines: waiting for a frame to begin has none unless the caller gives one (idle links are normal,
// heartbeats are the session's business); once a frame has begun its rest must come within
// ChannelOptions::frame_deadline and a frame being written must be taken by the peer within write_deadline,
// both plus a second per 128 kB of frame.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/error.h"
#include "transport/frame.h"
#include "transport/messages.h"
#include "transport/tls.h"

namespace shoal {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;
inline constexpr Deadline kNoDeadline = Deadline::max();
inline Deadline after(std::chrono::milliseconds duration) {
  return Clock::now() + duration;
}

// Messages that may wait in a channel's outgoing queue, the one being written included.
inline constexpr size_t kSendQueueMax = 256;

struct ChannelOptions {
  std::chrono::milliseconds frame_deadline{5000};
  std::chrono::milliseconds write_deadline{10000};
  // TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged, or a full receiver take nothing, before
  // the kernel gives the peer up. So a receiver keeps reading, and what is in flight towards it is bounded by
  // the sender.
  std::chrono::milliseconds tcp_user_timeout{5000};
  size_t send_queue_max = kSendQueueMax;
  std::shared_ptr<const TlsContext> tls;  // null: plain TCP
};

class Channel {
 public:
  virtual ~Channel() = default;

  // Where the link has TLS: both sides show who they are. Comes before the first message; the hello functions
  // do it. kRefused: a certificate is missing, expired, revoked or of another authority. A pair in one
  // process, and plain TCP, have nothing to show.
  virtual boost::asio::awaitable<Result<void>> handshake(std::chrono::milliseconds timeout) = 0;
  // Whose certificate the other end has shown; null where the link has no TLS.
  virtual const CertificateInfo* peer_certificate() const = 0;

  // Queues the message for the channel's writer and returns at once. kQueueFull: the peer is too slow,
  // nothing was queued, the channel lives on.
  virtual Result<void> post(OutgoingMessage outgoing) = 0;
  // Queues the message and waits until its bytes left this node's memory (not until the peer has them).
  // The payload may be reused then.
  virtual boost::asio::awaitable<Result<void>> send(OutgoingMessage outgoing) = 0;
  // The next message, its payload in a buffer from `source`. The deadline is for the frame to begin; a
  // receive that ends with kTimeout before that leaves the channel usable.
  virtual boost::asio::awaitable<Result<IncomingMessage>> receive(BufferSource& source,
                                                                  Deadline deadline = kNoDeadline) = 0;
  // Ends the channel now: queued messages are dropped, waiting operations return kCancelled here and
  // kPeerLost at the peer. May be called twice.
  virtual void close() = 0;
  // The same towards a peer that is given up: it is told by a reset, which does not wait behind bytes that it
  // has not acknowledged. Where only its own words are lost on the way, it learns at once that it was lost.
  virtual void abort() { close(); }
  virtual bool is_open() const = 0;

  // Bytes of whole frames, headers included.
  virtual uint64_t bytes_sent() const = 0;
  virtual uint64_t bytes_received() const = 0;
  virtual size_t queued_messages() const = 0;
  // Bytes that left this node's memory and that the peer's system has not acknowledged. 0 where that is not
  // known.
  virtual size_t unacknowledged_bytes() const { return 0; }
  // Larger frames are refused. Channels begin with kHandshakeLimits; the hello functions lift them.
  virtual void set_limits(const FrameLimits& limits) = 0;
  virtual boost::asio::any_io_executor get_executor() = 0;

  // For messages to people: "pi-1 at 10.0.0.5:7000", or the address alone before the hello.
  std::string peer() const;
  void set_peer_name(std::string name) { peer_name_ = std::move(name); }
  const std::string& peer_name() const { return peer_name_; }

 protected:
  std::string peer_address_;

 private:
  std::string peer_name_;
};

using ChannelPtr = std::shared_ptr<Channel>;

// Two ends of an in-process channel, each used on its own executor's thread (the two may be the same). A
// payload is copied into the receiver's buffer, and messages pass through the same encoding as over a socket.
// No hello is needed: the limits are the full ones from the start. Both executors' contexts outlive both
// channels.
std::pair<ChannelPtr, ChannelPtr> make_local_channels(boost::asio::any_io_executor a,
                                                      boost::asio::any_io_executor b,
                                                      const ChannelOptions& options = {});

// Waits for TCP connections. Loopback unless the cluster file says otherwise.
class Listener {
 public:
  virtual ~Listener() = default;
  // A connected channel that has not said hello yet.
  virtual boost::asio::awaitable<Result<ChannelPtr>> accept() = 0;
  virtual void close() = 0;
  virtual uint16_t port() const = 0;
  virtual std::string address() const = 0;  // "127.0.0.1:7000"
};

// Port 0 takes any free port. Throws SetupError naming address and port when they cannot be had.
std::unique_ptr<Listener> listen_on(boost::asio::any_io_executor executor,
                                    const std::string& address = "127.0.0.1", uint16_t port = 0,
                                    const ChannelOptions& options = {});

// Connects to host:port (a name or a number), trying again until the deadline: nodes start in any order.
boost::asio::awaitable<Result<ChannelPtr>> dial(std::string host, uint16_t port, Deadline deadline,
                                                ChannelOptions options = {});

}  // namespace shoal
