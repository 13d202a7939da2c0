// Listening and dialing: how TcpChannels come to be.
#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <string>

#include "transport/endpoint_text.h"
#include "transport/tcp_channel.h"

namespace shoal {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

class TcpListener final : public Listener {
 public:
  TcpListener(tcp::acceptor acceptor, const ChannelOptions& options)
      : acceptor_(std::move(acceptor)), options_(options), endpoint_(acceptor_.local_endpoint()) {}

  asio::awaitable<Result<ChannelPtr>> accept() override {
    for (;;) {
      if (!acceptor_.is_open()) co_return Error{Errc::kCancelled, "listening on " + address() + " has ended"};
      error_code ec;
      tcp::socket socket(acceptor_.get_executor());
      co_await acceptor_.async_accept(socket, asio::redirect_error(asio::use_awaitable, ec));
      if (!ec) co_return ChannelPtr(TcpChannel::create(std::move(socket), options_, TlsSide::kAccepted));
      if (ec == asio::error::operation_aborted) {
        co_return Error{Errc::kCancelled, "listening on " + address() + " has ended"};
      }
      // A caller that hung up before it was served is not this listener's trouble.
      if (ec == asio::error::connection_aborted || ec == asio::error::connection_reset) continue;
      co_return Error{Errc::kIo, "cannot take a connection on " + address() + ": " + ec.message()};
    }
  }

  void close() override {
    error_code ignored;
    acceptor_.close(ignored);
  }
  uint16_t port() const override { return endpoint_.port(); }
  std::string address() const override { return endpoint_text(endpoint_); }

 private:
  tcp::acceptor acceptor_;
  ChannelOptions options_;
  tcp::endpoint endpoint_;
};

tcp::endpoint endpoint_to_bind(const asio::any_io_executor& executor, const std::string& address,
                               uint16_t port) {
  error_code ec;
  const asio::ip::address number = asio::ip::make_address(address, ec);
  if (!ec) return tcp::endpoint(number, port);
  tcp::resolver resolver(executor);
  const auto found = resolver.resolve(address, std::to_string(port), ec);
  if (ec || found.empty()) {
    throw SetupError("cannot listen on '" + address + "': no such address (" + ec.message() +
                     "); give an IP address of this machine, or 127.0.0.1");
  }
  return found.begin()->endpoint();
}

std::string way_out(const error_code& ec) {
  if (ec == asio::error::address_in_use) {
    return "; stop the program that uses it, or choose another port (0 takes any free one)";
  }
  if (ec == asio::error::access_denied) return "; ports below 1024 need root, choose a higher one";
  if (ec.value() == EADDRNOTAVAIL) return "; give an IP address of this machine, or 127.0.0.1";
  return "";
}

// One attempt at one endpoint. The channel, or why not.
asio::awaitable<Result<ChannelPtr>> connect_once(tcp::endpoint endpoint, Deadline deadline,
                                                 ChannelOptions options) {
  using namespace asio::experimental::awaitable_operators;
  constexpr auto token = asio::as_tuple(asio::use_awaitable);
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  tcp::socket socket(executor);
  asio::steady_timer timer(executor, deadline);
  auto first = co_await (socket.async_connect(endpoint, token) || timer.async_wait(token));
  if (first.index() == 1) co_return Error{Errc::kTimeout, "no answer"};
  const auto& [ec] = std::get<0>(first);
  if (ec) co_return Error{Errc::kPeerLost, ec.message()};
  // On loopback a socket that tries a free ephemeral port can connect to itself.
  error_code ignored;
  if (socket.local_endpoint(ignored) == socket.remote_endpoint(ignored)) {
    co_return Error{Errc::kPeerLost, "nobody listens"};
  }
  co_return ChannelPtr(TcpChannel::create(std::move(socket), options, TlsSide::kConnected));
}

asio::awaitable<Result<std::vector<tcp::endpoint>>> resolve(const std::string& host, uint16_t port,
                                                            Deadline deadline) {
  using namespace asio::experimental::awaitable_operators;
  error_code ec;
  const asio::ip::address number = asio::ip::make_address(host, ec);
  if (!ec) co_return std::vector<tcp::endpoint>{tcp::endpoint(number, port)};
  constexpr auto token = asio::as_tuple(asio::use_awaitable);
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  tcp::resolver resolver(executor);
  asio::steady_timer timer(executor, deadline);
  auto first =
      co_await (resolver.async_resolve(host, std::to_string(port), token) || timer.async_wait(token));
  if (first.index() == 1) co_return Error{Errc::kTimeout, "its name was not resolved in time"};
  const auto& [resolve_ec, found] = std::get<0>(first);
  if (resolve_ec) co_return Error{Errc::kIo, resolve_ec.message()};
  std::vector<tcp::endpoint> endpoints;
  for (const auto& entry : found) endpoints.push_back(entry.endpoint());
  co_return endpoints;
}

}  // namespace

std::unique_ptr<Listener> listen_on(asio::any_io_executor executor, const std::string& address, uint16_t port,
                                    const ChannelOptions& options) {
  const tcp::endpoint endpoint = endpoint_to_bind(executor, address, port);
  tcp::acceptor acceptor(executor);
  error_code ec;
  acceptor.open(endpoint.protocol(), ec);
  if (!ec) acceptor.set_option(asio::socket_base::reuse_address(true), ec);
  if (!ec) acceptor.bind(endpoint, ec);
  if (!ec) acceptor.listen(asio::socket_base::max_listen_connections, ec);
  if (ec) {
    const bool not_ours = ec.value() == EADDRNOTAVAIL;  // no such address here: the configuration is wrong
    throw SetupError("cannot listen on " + endpoint_text(endpoint) + ": " + ec.message() + way_out(ec),
                     not_ours ? kExitUsage : kExitFailed);
  }
  return std::make_unique<TcpListener>(std::move(acceptor), options);
}

asio::awaitable<Result<ChannelPtr>> dial(std::string host, uint16_t port, Deadline deadline,
                                         ChannelOptions options) {
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  std::string reason = "no time was given";
  std::chrono::milliseconds pause{20};
  while (Clock::now() < deadline) {
    const Result<std::vector<tcp::endpoint>> endpoints = co_await resolve(host, port, deadline);
    if (endpoints) {
      for (const tcp::endpoint& endpoint : *endpoints) {
        Result<ChannelPtr> channel = co_await connect_once(endpoint, deadline, options);
        if (channel) co_return channel;
        reason = channel.error().message;
      }
    } else {
      reason = endpoints.error().message;
    }
    asio::steady_timer timer(executor, std::min(deadline, Clock::now() + pause));
    error_code ec;
    co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ec));
    if (ec) co_return Error{Errc::kCancelled, "connecting to " + host + " was cancelled"};
    pause = std::min(pause * 2, std::chrono::milliseconds(500));
  }
  co_return Error{Errc::kPeerLost, "cannot connect to " + host + ":" + std::to_string(port) + ": " + reason +
                                       "; is shoal running there, and does a firewall let it through?"};
}

}  // namespace shoal
