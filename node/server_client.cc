#include "node/server_client.h"

#include <fmt/format.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/json.hpp>
#include <chrono>
#include <vector>

#include "base/error.h"
#include "node/http/api_keys.h"

namespace shoal {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
namespace json = boost::json;

constexpr size_t kAnswerBytesMax = size_t{4} << 20;
constexpr auto kDeadline = std::chrono::seconds(5);

// The first key of a key file.
std::string first_key(const std::string& path) {
  if (path.empty()) return "";
  const std::vector<KeyLine> keys = read_keys(path);
  if (keys.empty()) throw SetupError(fmt::format("{}: holds no key", path));
  return keys.front().key;
}

}  // namespace

ServerClient::ServerClient(const std::string& url, const std::string& key_file) : key_(first_key(key_file)) {
  std::string rest = url.starts_with("http://") ? url.substr(7) : url;
  const bool other_scheme = rest.find("://") != std::string::npos;
  rest = rest.substr(0, rest.find('/'));
  const size_t colon = rest.rfind(':');
  if (rest.empty() || other_scheme) throw SetupError("--url: write it like http://127.0.0.1:8080");
  const bool has_port = colon != std::string::npos && !rest.ends_with(']');
  host_ = has_port ? rest.substr(0, colon) : rest;
  port_ = has_port ? rest.substr(colon + 1) : "80";
}

ServerClient::Answer ServerClient::ask(const std::string& path, const std::string* body) const {
  asio::io_context io;
  boost::beast::tcp_stream stream(io);
  boost::beast::flat_buffer buffer;
  http::request<http::string_body> request(body == nullptr ? http::verb::get : http::verb::post, path, 11);
  request.set(http::field::host, host_ + ":" + port_);
  request.set(http::field::connection, "close");
  if (!key_.empty()) request.set(http::field::authorization, "Bearer " + key_);
  if (body != nullptr) {
    request.set(http::field::content_type, "application/json");
    request.body() = *body;
    request.prepare_payload();
  }
  http::response_parser<http::string_body> parser;
  parser.body_limit(kAnswerBytesMax);
  boost::system::error_code failed;
  auto done = [&](const boost::system::error_code& error) { failed = error; };
  asio::ip::tcp::resolver resolver(io);
  std::string host = host_;
  if (host.starts_with('[')) host = host.substr(1, host.size() - 2);
  const auto found = resolver.resolve(host, port_, failed);
  // Each step with its deadline: tcp_stream keeps time only for asynchronous calls.
  auto step = [&](auto start) {
    if (failed) return;
    stream.expires_after(kDeadline);
    start();
    io.restart();
    io.run();
  };
  step([&] { stream.async_connect(found, [&](const auto& error, const auto&) { done(error); }); });
  step([&] { http::async_write(stream, request, [&](const auto& error, size_t) { done(error); }); });
  step([&] { http::async_read(stream, buffer, parser, [&](const auto& error, size_t) { done(error); }); });
  if (failed) {
    throw SetupError(fmt::format("no server answers at {}:{}: {} (shoal serve starts one)", host_, port_,
                                 failed.message()),
                     kExitFailed);
  }
  if (parser.get().result() == http::status::unauthorized)
    throw SetupError("the server asks for an API key: give --api-key-file FILE", kExitFailed);
  boost::system::error_code malformed;
  Answer answer{static_cast<int>(parser.get().result_int()), json::parse(parser.get().body(), malformed)};
  if (malformed || !answer.body.is_object())
    throw SetupError(fmt::format("{}:{} is no Shoal server", host_, port_), kExitFailed);
  return answer;
}

json::value ServerClient::status() const {
  Answer answer = ask("/status.json", nullptr);
  if (answer.status != 200)
    throw SetupError(fmt::format("{}:{} is no Shoal server", host_, port_), kExitFailed);
  return std::move(answer.body);
}

ServerClient::Answer ServerClient::post(const std::string& path, const json::value& body) const {
  const std::string text = json::serialize(body);
  return ask(path, &text);
}

}  // namespace shoal
