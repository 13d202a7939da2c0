#include "node/pull/http_client.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>

#include <algorithm>
#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <charconv>

#include "base/version.h"
#include "model/gguf_reader.h"

namespace shoal {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::awaitable;
using asio::redirect_error;
using asio::use_awaitable;
using boost::system::error_code;
using Parser = http::response_parser<http::buffer_body>;

constexpr int kRedirectsMax = 5;
constexpr uint32_t kHeaderBytesMax = 64 << 10;
constexpr size_t kPieceBytes = size_t{256} << 10;

Error broken(const Url& url, const error_code& error) {
  if (error == beast::error::timeout) return {Errc::kTimeout, url.origin() + " does not answer"};
  const std::string why = error == http::error::end_of_stream || error == http::error::partial_message
                              ? "the connection ended early"
                              : error.message();
  return {Errc::kPeerLost, fmt::format("{}: {}", url.origin(), why)};
}

// A server may not send what is no HTTP; a connection that ends early is another matter.
Error unreadable(const Url& url, const error_code& error) {
  const bool cut = error == http::error::end_of_stream || error == http::error::partial_message ||
                   error == asio::ssl::error::stream_truncated;
  if (!cut && error.category() == make_error_code(http::error::bad_version).category())
    return {Errc::kInvalidInput,
            fmt::format("{} answers what is no HTTP: {}", url.origin(), error.message())};
  return broken(url, error);
}

std::optional<uint64_t> number_of(std::string_view text) {
  uint64_t value = 0;
  const auto [rest, errc] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (errc != std::errc() || rest != text.data() + text.size()) return std::nullopt;
  return value;
}

// "bytes 100-199/200".
void read_range(std::string_view text, HttpHead& head) {
  const size_t dash = text.find('-'), slash = text.find('/');
  if (!text.starts_with("bytes ") || dash == std::string_view::npos || slash == std::string_view::npos)
    return;
  head.range_first = number_of(text.substr(6, dash - 6));
  head.range_total = number_of(text.substr(slash + 1));
}

// <https://...>; rel="next"
std::string next_of(std::string_view link) {
  const size_t open = link.find('<'), close = link.find('>');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) return {};
  const std::string_view rest = link.substr(close);
  if (rest.find("rel=\"next\"") == std::string_view::npos && rest.find("rel=next") == std::string_view::npos)
    return {};
  return std::string(link.substr(open + 1, close - open - 1));
}

HttpHead head_of(const Parser& parser, const Url& url) {
  const auto& message = parser.get();
  HttpHead head;
  head.status = message.result_int();
  head.url = url;
  if (const auto length = parser.content_length()) head.length = *length;
  read_range(std::string_view(message[http::field::content_range]), head);
  if (const auto wait = number_of(std::string_view(message[http::field::retry_after])))
    head.retry_after_s = static_cast<int>(std::min<uint64_t>(*wait, 3600));
  head.next_page = next_of(std::string_view(message[http::field::link]));
  return head;
}

http::request<http::empty_body> request_for(const HttpGetOptions& options, const Url& url,
                                            uint64_t first_byte) {
  http::request<http::empty_body> request(http::verb::get, url.target, 11);
  request.set(http::field::host, url.host_header());
  request.set(http::field::user_agent, fmt::format("shoal/{}", kVersion));
  request.set(http::field::accept_encoding, "identity");
  request.set(http::field::connection, "close");
  if (first_byte > 0) request.set(http::field::range, fmt::format("bytes={}-", first_byte));
  // Not to another host that a redirect leads to, nor where the network could read it.
  const bool trusted = options.token_origin && url.same_origin(*options.token_origin);
  if (!options.token.empty() && trusted && (url.tls || is_loopback(url)))
    request.set(http::field::authorization, "Bearer " + options.token);
  return request;
}

// What the last exchange said besides the head.
struct Exchange {
  HttpHead head;
  std::string location;
};

template <class Stream>
awaitable<Result<Exchange>> exchange(const HttpGetOptions& options, Stream& stream, const Url& url,
                                     uint64_t first_byte, BodySink& sink) {
  auto& lowest = beast::get_lowest_layer(stream);
  error_code error;
  http::request<http::empty_body> request = request_for(options, url, first_byte);
  lowest.expires_after(options.idle_timeout);
  co_await http::async_write(stream, request, redirect_error(use_awaitable, error));
  if (error) co_return broken(url, error);

  Parser parser;
  parser.header_limit(kHeaderBytesMax);
  parser.body_limit(boost::none);  // the sink counts
  beast::flat_buffer buffer(kPieceBytes + kHeaderBytesMax);
  lowest.expires_after(options.idle_timeout);
  co_await http::async_read_header(stream, buffer, parser, redirect_error(use_awaitable, error));
  if (error) co_return unreadable(url, error);
  Exchange result;
  result.head = head_of(parser, url);
  result.location = std::string(parser.get()[http::field::location]);
  if (result.head.status != 200 && result.head.status != 206) co_return result;

  if (Result<void> begun = sink.begin(result.head); !begun) co_return begun.error();
  std::vector<char> piece(kPieceBytes);
  while (!parser.is_done()) {
    parser.get().body().data = piece.data();
    parser.get().body().size = piece.size();
    lowest.expires_after(options.idle_timeout);
    co_await http::async_read_some(stream, buffer, parser, redirect_error(use_awaitable, error));
    const size_t got = piece.size() - parser.get().body().size;
    if (got > 0) {
      if (Result<void> written = sink.write({piece.data(), got}); !written) co_return written.error();
    }
    if (error && error != http::error::need_buffer) co_return unreadable(url, error);
  }
  co_return result;
}

awaitable<Result<void>> connect(const HttpGetOptions& options, beast::tcp_stream& stream, const Url& url) {
  error_code error;
  asio::ip::tcp::resolver resolver(co_await asio::this_coro::executor);
  auto found = co_await resolver.async_resolve(url.host, url.port, redirect_error(use_awaitable, error));
  if (error == asio::error::host_not_found || error == asio::error::service_not_found)
    co_return Error{Errc::kRefused, fmt::format("there is no host '{}' (is this machine online?)", url.host)};
  if (error) co_return Error{Errc::kPeerLost, fmt::format("host '{}': {}", url.host, error.message())};
  if (!url.tls && !options.allow_http) {  // the name promised this machine
    const bool here = std::all_of(found.begin(), found.end(),
                                  [](const auto& entry) { return entry.endpoint().address().is_loopback(); });
    if (!here) co_return Error{Errc::kRefused, fmt::format("host '{}' is not this machine", url.host)};
  }
  stream.expires_after(options.connect_timeout);
  co_await stream.async_connect(found, redirect_error(use_awaitable, error));
  if (error) co_return broken(url, error);
  co_return boost::system::in_place_value;
}

Error handshake_failed(const Url& url, SSL* ssl, const error_code& error) {
  const long verdict = SSL_get_verify_result(ssl);
  if (verdict != X509_V_OK) {
    return {
        Errc::kRefused,
        fmt::format(
            "{}: its certificate is not trusted ({}); authorities come from the package ca-certificates, or "
            "from the file that SSL_CERT_FILE names",
            url.origin(), X509_verify_cert_error_string(verdict))};
  }
  if (error.category() == asio::error::get_ssl_category())
    return {Errc::kRefused, fmt::format("{}: no TLS connection: {}", url.origin(), error.message())};
  return broken(url, error);
}

awaitable<Result<Exchange>> exchange_tls(const HttpGetOptions& options, const Url& url, uint64_t first_byte,
                                         BodySink& sink) {
  error_code error;
  asio::ssl::context context(asio::ssl::context::tls_client);
  SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_2_VERSION);
  context.set_default_verify_paths(error);
  if (error) co_return Error{Errc::kRefused, "the system's certificates cannot be read: " + error.message()};
  context.set_verify_mode(asio::ssl::verify_peer);
  beast::ssl_stream<beast::tcp_stream> stream(co_await asio::this_coro::executor, context);
  stream.set_verify_callback(asio::ssl::host_name_verification(url.host));
  error_code not_an_address;
  asio::ip::make_address(url.host, not_an_address);
  if (not_an_address && SSL_set_tlsext_host_name(stream.native_handle(), url.host.c_str()) != 1)
    co_return Error{Errc::kRefused, url.origin() + ": no TLS connection"};
  if (Result<void> connected = co_await connect(options, beast::get_lowest_layer(stream), url); !connected)
    co_return connected.error();
  beast::get_lowest_layer(stream).expires_after(options.connect_timeout);
  co_await stream.async_handshake(asio::ssl::stream_base::client, redirect_error(use_awaitable, error));
  if (error) co_return handshake_failed(url, stream.native_handle(), error);
  co_return co_await exchange(options, stream, url, first_byte, sink);
}

awaitable<Result<Exchange>> exchange_plain(const HttpGetOptions& options, const Url& url, uint64_t first_byte,
                                           BodySink& sink) {
  if (!options.allow_http && !is_loopback(url)) {
    co_return Error{Errc::kRefused,
                    fmt::format("{} is not encrypted: use https, or pass --allow-http where the network "
                                "between is trusted",
                                url.origin())};
  }
  beast::tcp_stream stream(co_await asio::this_coro::executor);
  if (Result<void> connected = co_await connect(options, stream, url); !connected)
    co_return connected.error();
  co_return co_await exchange(options, stream, url, first_byte, sink);
}

bool is_redirect(unsigned status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

}  // namespace

awaitable<Result<HttpHead>> http_get(const HttpGetOptions& options, Url url, uint64_t first_byte,
                                     BodySink& sink) {
  for (int redirects = 0;; ++redirects) {
    Result<Exchange> done = Error{};
    if (url.tls) {
      done = co_await exchange_tls(options, url, first_byte, sink);
    } else {
      done = co_await exchange_plain(options, url, first_byte, sink);
    }
    if (!done) co_return done.error();
    if (!is_redirect(done->head.status)) co_return done->head;
    if (redirects == kRedirectsMax)
      co_return Error{Errc::kRefused, fmt::format("{}: more than {} redirects", url.shown(), kRedirectsMax)};
    Result<Url> next = resolve_url(url, done->location);
    if (!next)
      co_return Error{Errc::kRefused,
                      fmt::format("{} redirects wrongly: {}", url.shown(), next.error().message)};
    if (url.tls && !next->tls)
      co_return Error{Errc::kRefused, fmt::format("{} redirects to {}, which is not encrypted; refused",
                                                  url.shown(), next->origin())};
    url = std::move(*next);
  }
}

}  // namespace shoal
