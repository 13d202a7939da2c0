#include "node/http/http_connection.h"

#include <fmt/format.h>
#include <linux/sockios.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/buffers_to_string.hpp>
#include <boost/beast/http/read.hpp>
#include <charconv>

namespace shoal {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::awaitable;
using asio::redirect_error;
using asio::use_awaitable;
using boost::system::error_code;

namespace {

constexpr size_t kReadAheadMax = size_t{64} << 10;  // of the next request while this one is being answered
constexpr size_t kReadBytes = size_t{8} << 10;

std::string head_of(const HttpResponse& response, bool keep_alive, const std::string& framing) {
  std::string text =
      fmt::format("HTTP/1.1 {} {}\r\nServer: shoal\r\nX-Content-Type-Options: nosniff\r\n", response.status,
                  std::string_view(http::obsolete_reason(static_cast<http::status>(response.status))));
  if (!response.content_type.empty()) text += fmt::format("Content-Type: {}\r\n", response.content_type);
  for (const auto& [name, value] : response.headers) text += fmt::format("{}: {}\r\n", name, value);
  return text + framing + (keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n");
}

}  // namespace

HttpConnection::HttpConnection(HttpServer& server, asio::ip::tcp::socket socket)
    : server_(server),
      socket_(std::move(socket)),
      buffer_(server.limits_.header_bytes + kReadAheadMax + kReadBytes),
      watch_ended_(server.io_.executor()) {}

HttpConnection::~HttpConnection() = default;

void HttpConnection::close() {
  error_code ignored;
  socket_.close(ignored);
}

void HttpConnection::set_deadline(std::chrono::milliseconds from_now) {
  deadline_ = std::chrono::steady_clock::now() + from_now;
}

bool HttpConnection::stalled(std::chrono::steady_clock::time_point now) {
  int waiting = 0;  // bytes that the client's system has not acknowledged
  if (!streaming_ || !socket_.is_open() || ioctl(socket_.native_handle(), SIOCOUTQ, &waiting) != 0)
    return false;
  const uint64_t taken = written_ - static_cast<uint64_t>(waiting);
  if (waiting == 0 || taken != taken_) took_at_ = now;
  taken_ = taken;
  return now - took_at_ > server_.limits_.stream_stall;
}

void HttpConnection::lose() {
  gone_ = true;
  if (on_gone_) std::exchange(on_gone_, {})();
}

awaitable<void> HttpConnection::run() {
  const std::shared_ptr<HttpConnection> self = shared_from_this();
  Then then = Then::kNext;
  while (then == Then::kNext) {
    then = co_await serve_one();
    server_.bodies_bytes_ -= std::exchange(body_counted_, 0);
    request_ = {};
    streaming_ = false;
    if (server_.stopping_ && then == Then::kNext) then = Then::kClose;
  }
  if (then == Then::kLinger) co_await linger();
  close();
}

// One request, from its first byte to the end of its answer.
awaitable<HttpConnection::Then> HttpConnection::serve_one() {
  if (buffer_.size() == 0 && !co_await wait_for_request()) co_return Then::kClose;
  state_ = State::kReceiving;
  set_deadline(server_.limits_.header);
  Parser parser;
  parser.header_limit(static_cast<uint32_t>(server_.limits_.header_bytes));
  parser.body_limit(server_.limits_.body_bytes);
  error_code error;
  co_await http::async_read_header(socket_, buffer_, parser, redirect_error(use_awaitable, error));
  if (error == http::error::header_limit || error == http::error::buffer_overflow)
    co_return co_await refuse(431, "the header is too large");
  if (error == http::error::body_limit) co_return co_await refuse(413, "the body is too large");
  if (error.category() == http::make_error_code(http::error::bad_method).category() &&
      error != http::error::end_of_stream && error != http::error::partial_message)
    co_return co_await refuse(400, "not a valid HTTP request: " + error.message());
  if (error) co_return Then::kClose;

  take_head(parser);
  keep_alive_ = false;  // until the body is read
  if (const std::optional<Refusal> problem = ambiguous(parser))
    co_return co_await refuse(problem->status, problem->text);
  if (std::optional<HttpResponse> refused = server_.handler_.refuse_early(request_)) {
    keep_alive_ = parser.is_done() && parser.keep_alive();
    co_return co_await refuse(std::move(*refused));
  }
  if (const std::optional<Then> end = co_await read_body(parser)) co_return *end;
  request_.body = std::move(parser.get().body());
  keep_alive_ = parser.keep_alive();

  state_ = State::kAnswering;
  deadline_ = std::chrono::steady_clock::time_point::max();
  watching_ = true;
  stop_watch_ = answered_ = false;
  asio::co_spawn(
      socket_.get_executor(), [self = shared_from_this()] { return self->watch(); }, asio::detached);
  bool failed = false;
  try {
    co_await server_.handler_.handle(*this);
  } catch (const std::exception& fault) {  // one request must not end the server, nor its client wait
    spdlog::error("a request to {} failed: {}", request_.path, fault.what());
    failed = true;
  }
  on_gone_ = {};
  co_await stop_watching();
  if (failed && !answered_) co_return co_await refuse(500, "the server failed to answer this request");
  if (failed) co_return Then::kClose;
  co_return gone_ || !keep_alive_ ? Then::kClose : Then::kNext;
}

awaitable<bool> HttpConnection::wait_for_request() {
  if (server_.stopping_) co_return false;
  state_ = State::kIdle;
  set_deadline(server_.limits_.idle);
  error_code error;
  const size_t n =
      co_await socket_.async_read_some(buffer_.prepare(kReadBytes), redirect_error(use_awaitable, error));
  buffer_.commit(n);
  co_return !error;
}

// What a proxy in front might read in another way than this server does, so that a request hides in the body
// of another (RFC 9112, sections 3.2, 6.1 and 11.2).
std::optional<HttpConnection::Refusal> HttpConnection::ambiguous(const Parser& parser) {
  const auto& head = parser.get();
  const size_t hosts = head.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && head.version() >= 11))
    return Refusal{400, "a request of HTTP/1.1 has exactly one Host"};
  if (head.count(http::field::transfer_encoding) > 0 &&
      !boost::beast::iequals(head[http::field::transfer_encoding], "chunked"))
    return Refusal{501, "no Transfer-Encoding but chunked is understood"};
  const std::string_view coding(head[http::field::content_encoding]);
  if (!coding.empty() && !boost::beast::iequals(coding, "identity"))
    return Refusal{415, "the body must not be compressed (Content-Encoding)"};
  return std::nullopt;
}

namespace {

// "%2D" becomes '-' (RFC 3986, 2.1); what is no escape stays.
std::string without_escapes(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned char byte = 0;
    const std::string_view digits = text.substr(i + 1, 2);
    if (text[i] == '%' && digits.size() == 2 &&
        std::from_chars(digits.data(), digits.data() + 2, byte, 16).ptr == digits.data() + 2) {
      plain += static_cast<char>(byte);
      i += 2;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

}  // namespace

void HttpConnection::take_head(const Parser& parser) {
  const auto& head = parser.get();
  auto field = [&](http::field name) { return std::string(head[name]); };
  request_ = {};
  request_.method = std::string(head.method_string());
  request_.host = field(http::field::host);
  std::string_view target(head.target());
  // A target that is a whole URI is to be understood, and its authority counts, not Host (RFC 9112, 3.2.2).
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!boost::beast::iequals(target.substr(0, scheme.size()), scheme)) continue;
    target.remove_prefix(scheme.size());
    const size_t end = std::min(target.find_first_of("/?"), target.size());
    request_.host = std::string(target.substr(0, end));
    target.remove_prefix(end);
    break;
  }
  const size_t mark = target.find('?');
  request_.path = without_escapes(target.substr(0, mark));
  if (request_.path.empty()) request_.path = "/";
  if (mark != std::string_view::npos) request_.query = std::string(target.substr(mark + 1));
  request_.authorization = field(http::field::authorization);
  request_.content_type = field(http::field::content_type);
  request_.origin = field(http::field::origin);
  request_.asked_headers = field(http::field::access_control_request_headers);
  error_code gone;
  const boost::asio::ip::tcp::endpoint peer = socket_.remote_endpoint(gone);
  const std::string address = peer.address().to_string();
  request_.peer = fmt::format("{}:{}", peer.address().is_v6() ? "[" + address + "]" : address, peer.port());
  request_.from_this_device = peer.address().is_loopback() && !head.count(http::field::forwarded) &&
                              !head.count(http::field::via) && !head.count("X-Forwarded-For") &&
                              !head.count("X-Real-IP");
  request_.version = head.version();
}

// Nothing when all of it is there.
awaitable<std::optional<HttpConnection::Then>> HttpConnection::read_body(Parser& parser) {
  const std::string_view expect(parser.get()[http::field::expect]);
  if (!expect.empty()) {
    if (!boost::beast::iequals(expect, "100-continue"))
      co_return co_await refuse(417, "an expectation that is not met: only 100-continue is");
    if (!parser.is_done() && !co_await write("HTTP/1.1 100 Continue\r\n\r\n")) co_return Then::kClose;
  }
  set_deadline(server_.limits_.body);
  while (!parser.is_done()) {
    error_code error;
    co_await http::async_read_some(socket_, buffer_, parser, redirect_error(use_awaitable, error));
    if (error == http::error::body_limit) co_return co_await refuse(413, "the body is too large");
    if (error.category() == http::make_error_code(http::error::bad_chunk).category() &&
        error != http::error::end_of_stream && error != http::error::partial_message &&
        error != http::error::need_more)
      co_return co_await refuse(400, "not a valid HTTP body: " + error.message());
    if (error && error != http::error::need_more) co_return Then::kClose;
    const size_t grown = parser.get().body().size() - body_counted_;
    server_.bodies_bytes_ += grown;
    body_counted_ += grown;
    if (server_.bodies_bytes_ > server_.limits_.bodies_bytes)
      co_return co_await refuse(503, "too much is being received at once; try again");
  }
  co_return std::nullopt;
}

awaitable<HttpConnection::Then> HttpConnection::refuse(int status, std::string problem) {
  keep_alive_ = false;
  co_return co_await refuse(server_.handler_.refusal(status, problem));
}

awaitable<HttpConnection::Then> HttpConnection::refuse(HttpResponse response) {
  const bool kept = keep_alive_;
  if (!co_await respond(std::move(response))) co_return Then::kClose;
  co_return kept ? Then::kNext : Then::kLinger;
}

// Reads ahead while a request is being answered: the only way to see at once that a client is gone.
awaitable<void> HttpConnection::watch() {
  while (!stop_watch_ && buffer_.size() < kReadAheadMax) {
    error_code error;
    const size_t n =
        co_await socket_.async_read_some(buffer_.prepare(kReadBytes), redirect_error(use_awaitable, error));
    buffer_.commit(n);
    if (error == asio::error::operation_aborted && stop_watch_) break;
    if (error) {
      lose();
      break;
    }
  }
  watching_ = false;
  watch_ended_.notify();
}

awaitable<void> HttpConnection::stop_watching() {
  stop_watch_ = true;
  error_code ignored;
  socket_.cancel(ignored);
  while (watching_) co_await watch_ended_.wait();
}

// Lets a refused client finish sending, so that it reads the refusal before the connection is reset.
awaitable<void> HttpConnection::linger() {
  error_code error;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, error);
  set_deadline(server_.limits_.linger);
  std::array<char, kReadBytes> thrown_away;
  while (!error) {
    co_await socket_.async_read_some(asio::buffer(thrown_away), redirect_error(use_awaitable, error));
  }
}

awaitable<bool> HttpConnection::write(std::string text) {
  if (gone_) co_return false;
  set_deadline(server_.limits_.write);
  error_code error;
  for (size_t done = 0; done < text.size() && !error;) {
    const size_t n =
        co_await socket_.async_write_some(asio::buffer(text) + done, redirect_error(use_awaitable, error));
    done += n;
    written_ += n;
  }
  deadline_ = std::chrono::steady_clock::time_point::max();
  if (error) lose();
  co_return !error;
}

void HttpConnection::add_common_headers(HttpResponse& response) {
  for (auto& header : server_.handler_.common_headers(request_))
    response.headers.push_back(std::move(header));
}

awaitable<bool> HttpConnection::respond(HttpResponse response) {
  answered_ = true;
  keep_alive_ = keep_alive_ && !server_.stopping_;
  add_common_headers(response);
  const bool bodiless = response.status == 204;
  std::string text = head_of(response, keep_alive_,
                             bodiless ? "" : fmt::format("Content-Length: {}\r\n", response.body.size()));
  if (request_.method != "HEAD" && !bodiless) text += response.body;
  return write(std::move(text));
}

awaitable<bool> HttpConnection::begin_stream(std::string content_type) {
  HttpResponse response;
  response.content_type = std::move(content_type);
  response.headers = {{"Cache-Control", "no-store"}};
  add_common_headers(response);
  answered_ = streaming_ = true;
  took_at_ = std::chrono::steady_clock::now();
  chunked_ = request_.version >= 11;  // for HTTP/1.0 the end of the connection is the end of the stream
  keep_alive_ = keep_alive_ && chunked_ && !server_.stopping_;
  return write(head_of(response, keep_alive_, chunked_ ? "Transfer-Encoding: chunked\r\n" : ""));
}

awaitable<bool> HttpConnection::send(std::string part) {
  if (part.empty()) co_return !gone_;  // an empty chunk would end the stream
  if (chunked_) part = fmt::format("{:x}\r\n{}\r\n", part.size(), part);
  co_return co_await write(std::move(part));
}

awaitable<bool> HttpConnection::end_stream() {
  if (!chunked_) co_return !gone_;
  co_return co_await write("0\r\n\r\n");
}

}  // namespace shoal
