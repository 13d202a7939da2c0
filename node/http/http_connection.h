// One client's connection: requests one after the other, each with its deadlines. Belongs to the io thread.
#pragma once

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "node/http/http_server.h"
#include "node/http/notifier.h"

namespace shoal {

class HttpConnection : public HttpExchange, public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(HttpServer& server, boost::asio::ip::tcp::socket socket);
  ~HttpConnection() override;

  boost::asio::awaitable<void> run();  // until the client, a limit or the server ends it
  void close();
  bool is_open() const { return socket_.is_open(); }
  enum class State { kIdle, kReceiving, kAnswering };  // kIdle: before the first byte of a request
  State state() const { return state_; }
  bool overdue(std::chrono::steady_clock::time_point now) const { return now > deadline_; }
  // Whether the client of a stream has taken nothing of what waits for it for too long. To be asked
  // repeatedly: it compares with the last time.
  bool stalled(std::chrono::steady_clock::time_point now);

  const HttpRequest& request() const override { return request_; }
  bool gone() const override { return gone_; }
  void on_gone(std::function<void()> callback) override { on_gone_ = std::move(callback); }
  boost::asio::awaitable<bool> respond(HttpResponse response) override;
  boost::asio::awaitable<bool> begin_stream(std::string content_type) override;
  boost::asio::awaitable<bool> send(std::string part) override;
  boost::asio::awaitable<bool> end_stream() override;

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  enum class Then { kNext, kLinger, kClose };
  struct Refusal {
    int status;
    const char* text;
  };

  boost::asio::awaitable<Then> serve_one();
  boost::asio::awaitable<bool> wait_for_request();
  boost::asio::awaitable<Then> refuse(int status, std::string problem);
  boost::asio::awaitable<Then> refuse(HttpResponse response);
  boost::asio::awaitable<std::optional<Then>> read_body(Parser& parser);
  boost::asio::awaitable<void> watch();
  boost::asio::awaitable<void> stop_watching();
  boost::asio::awaitable<void> linger();
  boost::asio::awaitable<bool> write(std::string text);
  static std::optional<Refusal> ambiguous(const Parser& parser);
  void take_head(const Parser& parser);
  void add_common_headers(HttpResponse& response);
  void set_deadline(std::chrono::milliseconds from_now);
  void lose();

  HttpServer& server_;
  boost::asio::ip::tcp::socket socket_;
  boost::beast::flat_buffer buffer_;
  HttpRequest request_;
  std::function<void()> on_gone_;
  std::chrono::steady_clock::time_point deadline_ = std::chrono::steady_clock::time_point::max();
  Notifier watch_ended_;
  size_t body_counted_ = 0;  // of this request, in the server's sum
  uint64_t written_ = 0;     // bytes given to the system on this connection
  uint64_t taken_ = 0;       // of them, by the client's system, when last asked
  std::chrono::steady_clock::time_point took_at_;
  State state_ = State::kIdle;
  bool gone_ = false, keep_alive_ = false, chunked_ = false, streaming_ = false;
  bool watching_ = false, stop_watch_ = false, answered_ = false;
};

}  // namespace shoal
