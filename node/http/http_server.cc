#include "node/http/http_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <charconv>
#include <thread>

#include "base/error.h"
#include "node/http/http_connection.h"
#include "transport/endpoint_text.h"

namespace shoal {

namespace asio = boost::asio;
using asio::awaitable;
using asio::redirect_error;
using asio::use_awaitable;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::steady_clock;
using namespace std::chrono_literals;

namespace {

constexpr auto kAcceptPause = 100ms;  // after an accept that failed
constexpr auto kWarnAgain = 10s;      // one line stands for many that failed
constexpr auto kCutOffAfterHurry = 1s;
constexpr int kSendBufferBytes = 64 << 10;  // so that a reader that stops is noticed

int open_spare() {
  return ::open("/dev/null", O_RDONLY | O_CLOEXEC);
}

// Throws SetupError.
void bind_to(tcp::acceptor& acceptor, const tcp::endpoint& endpoint) {
  error_code error;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(tcp::acceptor::max_listen_connections, error);
  if (!error) return;
  const char* way_out =
      error == asio::error::address_in_use
          ? ": another program has it; choose another port (--listen, or serve.listen in the "
            "cluster file; port 0 takes a free one)"
          : "";
  throw SetupError(
      fmt::format("cannot listen on {}: {}{}", endpoint_text(endpoint), error.message(), way_out),
      kExitFailed);
}

}  // namespace

void check_free(const tcp::endpoint& endpoint) {
  asio::io_context io;
  tcp::acceptor acceptor(io);
  bind_to(acceptor, endpoint);
}

tcp::endpoint parse_listen(const std::string& text, const std::string& what) {
  const auto fail = [&](const std::string& why) {
    throw SetupError(fmt::format("{}: '{}' {}: write it like 127.0.0.1:8080", what, text, why));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || text.ends_with(']')) fail("names no port");
  std::string host = text.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (host == "localhost") host = "127.0.0.1";
  uint16_t port = 0;
  const auto [rest, errc] = std::from_chars(text.data() + colon + 1, text.data() + text.size(), port);
  if (errc != std::errc() || rest != text.data() + text.size()) fail("has no port from 0 to 65535");
  error_code error;
  const asio::ip::address address = asio::ip::make_address(host, error);
  if (error) fail("names no IP address");
  return {address, port};
}

HttpServer::HttpServer(IoThread& io, HttpHandler& handler, const HttpLimits& limits)
    : io_(io),
      handler_(handler),
      limits_(limits),
      acceptor_(io.executor()),
      sweep_timer_(io.executor()),
      spare_file_(open_spare()) {}

HttpServer::~HttpServer() {
  stop(0ms);
  if (spare_file_ >= 0) ::close(spare_file_);
}

tcp::endpoint HttpServer::listen(const tcp::endpoint& endpoint) {
  return io_.call([&] {
    bind_to(acceptor_, endpoint);
    loops_ = 2;
    asio::co_spawn(io_.executor(), accept_loop(), asio::detached);
    asio::co_spawn(io_.executor(), sweep(), asio::detached);
    return acceptor_.local_endpoint();
  });
}

awaitable<void> HttpServer::accept_loop() {
  while (!stopping_) {
    error_code error;
    tcp::socket socket = co_await acceptor_.async_accept(redirect_error(use_awaitable, error));
    if (stopping_) break;
    if (error) {
      co_await after_failed_accept(error);
      continue;
    }
    ++counters_.accepted;
    if (connections_.size() >= limits_.connections && !make_room()) {
      refuse_connection(std::move(socket));
      continue;
    }
    socket.set_option(tcp::no_delay(true), error);
    socket.set_option(asio::socket_base::send_buffer_size(kSendBufferBytes), error);
    auto connection = std::make_shared<HttpConnection>(*this, std::move(socket));
    connections_.push_back(connection);
    ++counters_.connections;
    asio::co_spawn(io_.executor(), serve(std::move(connection)), asio::detached);
  }
  --loops_;
}

// The reason may last, as when no file is left to open: then a connection that idles gives up its own, or the
// newcomer is refused over the spare one.
awaitable<void> HttpServer::after_failed_accept(error_code error) {
  const auto now = steady_clock::now();
  if (now - warned_ > kWarnAgain) {
    warned_ = now;
    spdlog::warn("accepting HTTP connections fails: {}{}", error.message(),
                 error == error_code(EMFILE, boost::system::system_category())
                     ? " (ulimit -n says how many this process may have)"
                     : "");
  }
  const bool no_file = error.value() == EMFILE || error.value() == ENFILE;
  if (no_file && make_room()) co_return;
  if (no_file && spare_file_ >= 0) {
    ::close(std::exchange(spare_file_, -1));
    tcp::socket socket(io_.executor());
    error_code again;
    acceptor_.non_blocking(true, again);
    acceptor_.accept(socket, again);
    if (!again) {
      ++counters_.accepted;
      refuse_connection(std::move(socket));
    }
  }
  if (spare_file_ < 0) spare_file_ = open_spare();
  if (no_file && spare_file_ >= 0) co_return;
  asio::steady_timer pause(io_.executor(), kAcceptPause);
  co_await pause.async_wait(redirect_error(use_awaitable, error));
}

awaitable<void> HttpServer::serve(std::shared_ptr<HttpConnection> connection) {
  try {
    co_await connection->run();
  } catch (const std::exception& error) {
    spdlog::error("an HTTP connection failed: {}", error.what());
    connection->close();
  }
  connections_.remove(connection);
  --counters_.connections;
}

// The oldest connection that is idle is closed for a new one; where none is, the oldest whose request is
// still being received: so those who send slowly on purpose keep nobody out for long.
bool HttpServer::make_room() {
  using State = HttpConnection::State;
  for (const State state : {State::kIdle, State::kReceiving}) {
    const auto found = std::find_if(connections_.begin(), connections_.end(),
                                    [&](const auto& c) { return c->is_open() && c->state() == state; });
    if (found == connections_.end()) continue;
    (*found)->close();
    return true;
  }
  return false;
}

// Without a coroutine or a wait: one that is refused must cost nothing.
void HttpServer::refuse_connection(tcp::socket socket) {
  ++counters_.refused;
  const HttpResponse response = handler_.refusal(503, "too many connections; try again");
  const std::string text = fmt::format(
      "HTTP/1.1 503 Service Unavailable\r\nContent-Type: {}\r\nRetry-After: 1\r\nContent-Length: {}\r\n"
      "Connection: close\r\n\r\n{}",
      response.content_type, response.body.size(), response.body);
  error_code ignored;
  socket.non_blocking(true, ignored);
  socket.write_some(asio::buffer(text), ignored);
  socket.shutdown(tcp::socket::shutdown_send, ignored);
  // What is unread when a socket is closed makes the system reset the connection, and the refusal is lost.
  std::array<char, 16 << 10> thrown_away;
  for (int parts = 0; parts < 4 && !ignored; ++parts) socket.read_some(asio::buffer(thrown_away), ignored);
}

awaitable<void> HttpServer::sweep() {
  const auto shortest = std::min(
      {limits_.idle, limits_.header, limits_.body, limits_.write, limits_.linger, limits_.stream_stall});
  const auto period = std::clamp(shortest / 4, std::chrono::milliseconds(20), std::chrono::milliseconds(500));
  while (!stopped_) {
    sweep_timer_.expires_after(period);
    error_code ignored;
    co_await sweep_timer_.async_wait(redirect_error(use_awaitable, ignored));
    const auto now = steady_clock::now();
    for (const std::shared_ptr<HttpConnection>& connection : connections_) {
      if (!connection->overdue(now) && !connection->stalled(now)) continue;
      ++counters_.dropped;
      connection->close();
    }
  }
  --loops_;
}

bool HttpServer::all_ended(bool cut_off) {
  if (cut_off) {
    for (const std::shared_ptr<HttpConnection>& connection : connections_) connection->close();
  }
  if (!connections_.empty()) return false;
  stopped_ = true;
  sweep_timer_.cancel();
  return loops_ == 0;
}

void HttpServer::stop(std::chrono::milliseconds grace, const std::function<void()>& on_hurry) {
  io_.call([this] {
    stopping_ = true;
    error_code ignored;
    acceptor_.close(ignored);
    for (const std::shared_ptr<HttpConnection>& connection : connections_) {
      if (connection->state() == HttpConnection::State::kIdle) connection->close();
    }
    return 0;
  });
  auto end_of_grace = steady_clock::now() + grace;
  bool told = false;
  while (
      !io_.call([&] { return all_ended(told && steady_clock::now() > end_of_grace + kCutOffAfterHurry); })) {
    if (!told && (hurried_ || steady_clock::now() >= end_of_grace)) {
      told = true;
      end_of_grace = steady_clock::now();
      if (on_hurry) io_.call([&] { return on_hurry(), 0; });
    }
    std::this_thread::sleep_for(10ms);
  }
}

}  // namespace shoal
