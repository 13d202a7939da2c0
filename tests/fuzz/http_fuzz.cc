// The HTTP server over a real socket: whatever is sent, it answers or closes, and serves the next client.
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <string>

#include "node/http/http_server.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace shoal;
using boost::asio::ip::tcp;

// Tells what it was given, as one answer or as a stream.
class Echo : public HttpHandler {
 public:
  std::optional<HttpResponse> refuse_early(const HttpRequest& head) override {
    if (head.path == "/refused") return HttpResponse{404, "text/plain", "refused", {}};
    return std::nullopt;
  }
  boost::asio::awaitable<void> handle(HttpExchange& exchange) override {
    const HttpRequest& request = exchange.request();
    fuzz::require(request.body.size() <= limits().body_bytes, "a body is bounded");
    if (request.path != "/stream") {
      HttpResponse response{200, "text/plain", request.body, {}};
      co_await exchange.respond(std::move(response));
      co_return;
    }
    const bool open = co_await exchange.begin_stream("text/plain");
    if (open) co_await exchange.send("part");
    if (open) co_await exchange.end_stream();
  }
  HttpResponse refusal(int status, const std::string& problem) override {
    return {status, "text/plain", problem, {}};
  }
  static HttpLimits limits() {
    HttpLimits limits;
    limits.header_bytes = 2048;
    limits.body_bytes = 8192;
    limits.linger = std::chrono::milliseconds(50);
    return limits;
  }
};

struct Running {
  Running() { port = server.listen({boost::asio::ip::make_address("127.0.0.1"), 0}).port(); }
  IoThread io;
  Echo echo;
  HttpServer server{io, echo, Echo::limits()};
  uint16_t port = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Running& running = *[] {
    spdlog::set_level(spdlog::level::off);
    return new Running;
  }();
  boost::asio::io_context io;
  tcp::socket socket(io);
  // From a hundred addresses in turn: those of one would run out, as each connection's stays taken for a
  // minute.
  static unsigned count = 0;
  socket.open(tcp::v4());
  socket.bind({boost::asio::ip::make_address_v4(0x7f000002 + count++ % 100), 0});
  boost::system::error_code connected;
  socket.connect({boost::asio::ip::make_address("127.0.0.1"), running.port}, connected);
  if (connected == boost::asio::error::interrupted) {  // by libFuzzer's clock; the connecting goes on
    pollfd ready{socket.native_handle(), POLLOUT, 0};
    while (poll(&ready, 1, 5000) < 0 && errno == EINTR) {
    }
    connected = {};
  }
  fuzz::require(!connected, "the server takes a connection");
  const timeval limit{5, 0};
  setsockopt(socket.native_handle(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  boost::system::error_code ignored;
  boost::asio::write(socket, boost::asio::buffer(data, size), ignored);
  socket.shutdown(tcp::socket::shutdown_send, ignored);
  std::string answer;
  char part[4096];
  ssize_t n = 0;
  while ((n = recv(socket.native_handle(), part, sizeof part, 0)) > 0 || (n < 0 && errno == EINTR)) {
    if (n > 0) answer.append(part, static_cast<size_t>(n));
  }
  fuzz::require(n == 0 || errno == ECONNRESET, "the server closes");
  fuzz::require(answer.empty() || answer.starts_with("HTTP/1.1 "), "an answer is one of HTTP");
  return 0;
}
