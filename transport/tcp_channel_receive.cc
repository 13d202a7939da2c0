// The receiving half of a TcpChannel.
#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>

#include "base/check.h"
#include "transport/tcp_channel.h"

namespace shoal {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

// A receive buffer for large metadata (a plan, whole vocabularies) is given back after use.
constexpr size_t kKeptMetadataWords = size_t{1} << 16;
constexpr size_t kFirstMetadataWords = size_t{1} << 13;  // that a header alone gets

}  // namespace

asio::awaitable<Result<IncomingMessage>> TcpChannel::receive(BufferSource& source, Deadline deadline) {
  const std::shared_ptr<TcpChannel> self = shared_from_this();
  SHOAL_CHECK(!receiving_);
  struct Guard {
    bool& flag;
    ~Guard() { flag = false; }
  } guard{receiving_};
  receiving_ = true;
  Result<IncomingMessage> incoming = co_await receive_frame(source, deadline);
  read_watchdog_.disarm();
  if (metadata_.size() > kKeptMetadataWords) metadata_ = {};
  co_return incoming;
}

asio::awaitable<Result<IncomingMessage>> TcpChannel::receive_frame(BufferSource& source, Deadline deadline) {
  Result<void> read = co_await read_header_bytes(deadline);
  if (!read) co_return read.error();
  const auto header_bytes = std::span(ahead_).subspan(ahead_begin_).first<kFrameHeaderBytes>();
  const Result<FrameHeader> header = decode_header(header_bytes, limits_);
  if (!header) co_return end(Error{header.error().code, peer() + ": " + header.error().message});
  ahead_begin_ += kFrameHeaderBytes;
  const size_t padded = header->padded_payload_bytes();
  read_watchdog_.disarm();
  frame_timeout_ = deadline_for(header->metadata_bytes + padded, options_.frame_deadline);

  const size_t words = header->metadata_bytes / 8;
  // Room comes as the bytes do: a header alone must not take it.
  for (size_t have = 0; have < words;) {
    const size_t next = std::min(words, std::max(have * 2, kFirstMetadataWords));
    if (metadata_.size() < next) metadata_.resize(next);
    read = co_await read_exactly(std::as_writable_bytes(std::span(metadata_).subspan(have, next - have)));
    if (!read) co_return read.error();
    have = next;
  }
  const std::span<uint64_t> metadata = std::span(metadata_).first(words);

  IncomingMessage incoming;
  if (padded > 0) {
    const Result<void> intact = check_metadata(*header, metadata);
    if (!intact) co_return end(Error{intact.error().code, peer() + ": " + intact.error().message});
    Result<PayloadBuffer> buffer = source.acquire(padded);
    if (!buffer) co_return end(Error{buffer.error().code, peer() + ": " + buffer.error().message});
    SHOAL_CHECK(buffer->bytes.size() >= padded);
    SHOAL_CHECK(reinterpret_cast<uintptr_t>(buffer->bytes.data()) % kPayloadAlignment == 0);
    incoming.payload = std::move(*buffer);
    incoming.payload.bytes = incoming.payload.bytes.first(padded);
    read = co_await read_exactly(incoming.payload.bytes);
    if (!read) co_return read.error();
  }
  Result<Message> message = decode_frame(*header, metadata, incoming.payload.bytes);
  if (!message) co_return end(Error{message.error().code, peer() + ": " + message.error().message});
  incoming.message = std::move(*message);
  incoming.payload.bytes = incoming.payload.bytes.first(header->payload_bytes);
  bytes_received_ += kFrameHeaderBytes + header->metadata_bytes + padded;
  co_return incoming;
}

asio::awaitable<Result<void>> TcpChannel::read_header_bytes(Deadline deadline) {
  if (ahead_begin_ > 0) {
    std::memmove(ahead_.data(), ahead_.data() + ahead_begin_, ahead_end_ - ahead_begin_);
    ahead_end_ -= ahead_begin_;
    ahead_begin_ = 0;
  }
  while (ahead_end_ < kFrameHeaderBytes) {
    if (ended_) co_return *ended_;
    const auto room = asio::buffer(ahead_.data() + ahead_end_, ahead_.size() - ahead_end_);
    error_code ec;
    ahead_end_ += stream_->read_some(room, ec);
    if (would_block(ec)) {
      const bool begun = ahead_end_ > 0;
      if (begun) read_watchdog_.arm(*this, options_.frame_deadline, "stalled");
      if (!begun && deadline != kNoDeadline) {
        const Result<void> readable = co_await wait_readable(deadline);
        if (!readable) co_return readable;
        continue;
      }
      ec = co_await wait_for_stream();
      // A caller that stops waiting between frames loses nothing, and the channel goes on.
      if (ec == asio::error::operation_aborted && !ended_ && !begun) {
        co_return Error{Errc::kCancelled, "waiting for " + peer() + " was cancelled"};
      }
    }
    if (ec) co_return end_by(ec, "receiving from");
  }
  co_return Result<void>();
}

asio::awaitable<Result<void>> TcpChannel::wait_readable(Deadline deadline) {
  using namespace asio::experimental::awaitable_operators;
  constexpr auto token = asio::as_tuple(asio::use_awaitable);
  asio::steady_timer timer(socket_.get_executor(), deadline);
  // Waiting reads no byte, so none is lost when the timer is first.
  auto first = co_await (socket_.async_wait(tcp::socket::wait_read, token) || timer.async_wait(token));
  if (ended_) co_return *ended_;
  if (first.index() == 1) {
    const auto& [ec] = std::get<1>(first);
    if (ec) co_return Error{Errc::kCancelled, "waiting for " + peer() + " was cancelled"};
    co_return Error{Errc::kTimeout, peer() + " sent nothing in time"};
  }
  const auto& [ec] = std::get<0>(first);
  if (ec == asio::error::operation_aborted) {
    co_return Error{Errc::kCancelled, "waiting for " + peer() + " was cancelled"};
  }
  co_return Result<void>();
}

asio::awaitable<Result<void>> TcpChannel::read_exactly(std::span<std::byte> to) {
  const size_t buffered = std::min(to.size(), ahead_end_ - ahead_begin_);
  if (buffered > 0) std::memcpy(to.data(), ahead_.data() + ahead_begin_, buffered);
  ahead_begin_ += buffered;
  to = to.subspan(buffered);
  while (!to.empty()) {
    if (ended_) co_return *ended_;
    error_code ec;
    const size_t n = stream_->read_some(asio::buffer(to.data(), to.size()), ec);
    if (would_block(ec)) {
      read_watchdog_.arm(*this, frame_timeout_, "stalled");
      ec = co_await wait_for_stream();
    }
    if (ec) co_return end_by(ec, "receiving from");
    to = to.subspan(n);
  }
  co_return Result<void>();
}

}  // namespace shoal
