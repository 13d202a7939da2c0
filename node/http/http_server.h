// HTTP/1.1 over TCP for strangers: every count, size and time is bounded, and whoever is too slow, too large
// or one too many is refused or dropped. It knows nothing of models: requests go to an HttpHandler.
//
// All of it runs on the node's io thread as coroutines, one a connection. Public calls are made from another
// thread and return when the io thread has answered. A client that closes its side while its request is being
// answered is gone: the handler hears of it at once.
//
// Where the system lets no more files be opened, idle connections are closed for new ones; where none is idle
// the newcomer is told so and not left waiting.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "node/io_thread.h"

namespace shoal {

struct HttpLimits {
  size_t header_bytes = size_t{16} << 10;
  size_t body_bytes = size_t{4} << 20;
  size_t bodies_bytes = size_t{64} << 20;  // of all requests at once
  size_t connections = 1024;
  std::chrono::milliseconds idle{75'000};    // between requests
  std::chrono::milliseconds header{10'000};  // from a request's first byte to the end of its header
  std::chrono::milliseconds body{30'000};
  std::chrono::milliseconds write{30'000};  // for a client to take what is being written
  // A stream's client that takes nothing for so long, while something waits for it, is dropped: what computes
  // its answer is wanted by others.
  std::chrono::milliseconds stream_stall{5'000};
  std::chrono::milliseconds linger{2'000};  // for a refused client to stop sending and read why
};

struct HttpRequest {
  std::string method;
  std::string path;   // before '?'
  std::string query;  // after it
  std::string authorization, content_type, host, origin;
  std::string asked_headers;      // Access-Control-Request-Headers
  bool from_this_device = false;  // as far as can be told: over loopback, and no proxy says it is another's
  std::string peer;               // address:port of who is connected: a client, or a proxy
  unsigned version = 11;
  std::string body;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

// One request and the way back to its client. Lives until handle() returns.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual const HttpRequest& request() const = 0;
  virtual bool gone() const = 0;  // the client has closed or cannot be written to
  // Called once, on the io thread, when the client goes while it waits.
  virtual void on_gone(std::function<void()> callback) = 0;

  // Either one response, or the beginning of a stream, parts of it and its end. False: the client is gone.
  virtual boost::asio::awaitable<bool> respond(HttpResponse response) = 0;
  virtual boost::asio::awaitable<bool> begin_stream(std::string content_type) = 0;
  virtual boost::asio::awaitable<bool> send(std::string part) = 0;
  virtual boost::asio::awaitable<bool> end_stream() = 0;
};

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Looks at a request before its body is read; a response here refuses it.
  virtual std::optional<HttpResponse> refuse_early(const HttpRequest& head) = 0;
  // Answers. Must respond or stream exactly once, unless the client is gone.
  virtual boost::asio::awaitable<void> handle(HttpExchange& exchange) = 0;
  // What every response to this request says besides, refusals and streams included.
  virtual std::vector<std::pair<std::string, std::string>> common_headers(const HttpRequest&) { return {}; }
  // The server itself refuses: malformed, too large.
  virtual HttpResponse refusal(int status, const std::string& problem) = 0;
};

struct HttpCounters {
  size_t connections = 0;  // open now
  uint64_t accepted = 0;
  uint64_t refused = 0;  // connections beyond the limit
  uint64_t dropped = 0;  // too slow, or silent for too long
};

// "127.0.0.1:8080", "[::1]:8080" or "localhost:8080". Throws SetupError naming `what`.
boost::asio::ip::tcp::endpoint parse_listen(const std::string& text, const std::string& what);

// Throws SetupError if a server could not listen there now, so that it is said before long work and not
// after.
void check_free(const boost::asio::ip::tcp::endpoint& endpoint);

class HttpConnection;

class HttpServer {
 public:
  // The handler outlives the server.
  HttpServer(IoThread& io, HttpHandler& handler, const HttpLimits& limits);
  ~HttpServer();  // stop(0)
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Returns where it listens (port 0 takes a free one). Throws SetupError if it cannot.
  boost::asio::ip::tcp::endpoint listen(const boost::asio::ip::tcp::endpoint& endpoint);
  // No new connections; idle ones are closed, requests under way may finish for as long as `grace`, then
  // `on_hurry` is called on the io thread and a second later what is left is cut off. Returns when all have
  // ended.
  void stop(std::chrono::milliseconds grace, const std::function<void()>& on_hurry = {});

  // From any thread: the grace of stop() is over now.
  void hurry() { hurried_ = true; }

  HttpCounters counters() const { return counters_; }  // on the io thread

 private:
  friend class HttpConnection;
  boost::asio::awaitable<void> accept_loop();
  boost::asio::awaitable<void> sweep();  // drops those whose deadline has passed
  boost::asio::awaitable<void> serve(std::shared_ptr<HttpConnection> connection);
  void refuse_connection(boost::asio::ip::tcp::socket socket);
  bool make_room();
  boost::asio::awaitable<void> after_failed_accept(boost::system::error_code error);
  bool all_ended(bool cut_off);

  IoThread& io_;
  HttpHandler& handler_;
  const HttpLimits limits_;
  boost::asio::ip::tcp::acceptor acceptor_;
  boost::asio::steady_timer sweep_timer_;
  std::list<std::shared_ptr<HttpConnection>> connections_;  // oldest first
  HttpCounters counters_;
  size_t bodies_bytes_ = 0;
  int spare_file_;  // given up for a moment to refuse a connection when no file is left; -1: gone
  std::chrono::steady_clock::time_point warned_{};  // of accepts that failed
  int loops_ = 0;                                   // coroutines of the server itself that still run
  bool stopping_ = false, stopped_ = false;
  std::atomic<bool> hurried_{false};
};

}  // namespace shoal
