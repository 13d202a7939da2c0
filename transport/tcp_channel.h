// A Channel over a connected TCP socket. Made by Listener::accept and dial (channel.h); internal to
// transport/.
//
// Writing: post() hands the frame to the kernel at once where it takes it; what is left waits in a bounded
// queue that a writer coroutine empties, under a write deadline. Reading: the header, the metadata and the
// first bytes of the payload usually arrive in one read into a small read-ahead buffer; the rest of the
// payload is read straight into the receiver's buffer.
#pragma once

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "transport/channel.h"
#include "transport/tls.h"

namespace shoal {

class TcpChannel final : public Channel, public std::enable_shared_from_this<TcpChannel> {
 public:
  // Takes a connected socket and sets its options. `side` matters where the options have TLS.
  static std::shared_ptr<TcpChannel> create(boost::asio::ip::tcp::socket socket,
                                            const ChannelOptions& options, TlsSide side);

  boost::asio::awaitable<Result<void>> handshake(std::chrono::milliseconds timeout) override;
  const CertificateInfo* peer_certificate() const override { return stream_->peer_certificate(); }

  Result<void> post(OutgoingMessage outgoing) override;
  boost::asio::awaitable<Result<void>> send(OutgoingMessage outgoing) override;
  boost::asio::awaitable<Result<IncomingMessage>> receive(BufferSource& source, Deadline deadline) override;
  void close() override;
  void abort() override;
  bool is_open() const override { return !ended_; }
  uint64_t bytes_sent() const override { return bytes_sent_; }
  uint64_t bytes_received() const override { return bytes_received_; }
  size_t queued_messages() const override { return queue_.size(); }
  size_t unacknowledged_bytes() const override;
  void set_limits(const FrameLimits& limits) override { limits_ = limits; }
  boost::asio::any_io_executor get_executor() override { return socket_.get_executor(); }

 private:
  // What a send() waits for.
  struct Completion {
    explicit Completion(const boost::asio::any_io_executor& executor) : event(executor, Deadline::max()) {}
    void finish(const Result<void>& result) {
      outcome = result;
      event.cancel();
    }
    boost::asio::steady_timer event;
    std::optional<Result<void>> outcome;
  };
  struct Pending {
    EncodedFrame frame;
    size_t written = 0;  // bytes
    std::shared_ptr<Completion> completion;
  };
  // Closes the channel when a frame is not done in time. Armed per frame, only if the frame has to wait.
  class Watchdog {
   public:
    explicit Watchdog(const boost::asio::any_io_executor& executor) : timer_(executor) {}
    void arm(TcpChannel& channel, std::chrono::milliseconds timeout, const char* what);
    void disarm();
    bool armed() const { return armed_; }

   private:
    boost::asio::steady_timer timer_;
    uint64_t generation_ = 0;
    bool armed_ = false;
  };

  TcpChannel(boost::asio::ip::tcp::socket socket, const ChannelOptions& options, TlsSide side);

  // A large frame gets more time than a small one: what a link of 1 Mbit/s needs.
  static std::chrono::milliseconds deadline_for(size_t frame_bytes, std::chrono::milliseconds base);

  // The channel ends when its peer is revoked.
  Result<void> watch_peer();
  // After a refusal: gives the peer the time to read why. Closing over what it has sent meanwhile would reset
  // the connection, and lose the alert.
  boost::asio::awaitable<void> let_refusal_arrive();
  // Waits until the socket is ready for what the stream wants.
  boost::asio::awaitable<boost::system::error_code> wait_for_stream();

  // Writes or queues a frame. The completion is null for post().
  Result<void> enqueue(OutgoingMessage&& outgoing, std::shared_ptr<Completion> completion);
  // Gives the front of the queue to the kernel as far as it takes it without waiting; true when all of it
  // went.
  Result<bool> write_now(Pending& pending);
  static boost::asio::awaitable<void> write_queue(std::shared_ptr<TcpChannel> self);

  boost::asio::awaitable<Result<IncomingMessage>> receive_frame(BufferSource& source, Deadline deadline);
  // Fills the read-ahead buffer up to a header.
  boost::asio::awaitable<Result<void>> read_header_bytes(Deadline deadline);
  // Waits until the socket has something to read.
  boost::asio::awaitable<Result<void>> wait_readable(Deadline deadline);
  boost::asio::awaitable<Result<void>> read_exactly(std::span<std::byte> to);

  // Ends the channel for this reason, unless it has ended before; returns the reason that holds.
  Error end(Error reason);
  Error end_by(const boost::system::error_code& ec, const char* doing);

  boost::asio::ip::tcp::socket socket_;
  ChannelOptions options_;
  std::unique_ptr<ByteStream> stream_;  // over socket_
  FrameLimits limits_ = kHandshakeLimits;
  std::optional<Error> ended_;
  TlsContext::Watch watch_;  // of the peer, that may be revoked
  uint64_t bytes_sent_ = 0, bytes_received_ = 0;

  std::deque<Pending> queue_;
  bool writing_ = false;
  Watchdog write_watchdog_;

  bool receiving_ = false;
  Watchdog read_watchdog_;
  std::chrono::milliseconds frame_timeout_{0};  // for the rest of the frame being read
  std::array<std::byte, 512> ahead_;
  size_t ahead_begin_ = 0, ahead_end_ = 0;
  std::vector<uint64_t> metadata_;
};

}  // namespace shoal
