// shoal top: the live page's figures in a terminal, from /status.json of a running server.
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "base/units.h"
#include "node/commands.h"

namespace shoal {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
namespace json = boost::json;

constexpr size_t kStatusBytesMax = size_t{4} << 20;
constexpr auto kDeadline = std::chrono::seconds(5);
constexpr auto kPeriodMs = 1000;

struct Address {
  std::string host, port;
};

Address address_of(std::string url) {
  if (url.starts_with("http://")) url = url.substr(7);
  url = url.substr(0, url.find('/'));
  const size_t colon = url.rfind(':');
  if (url.empty() || url.find("://") != std::string::npos)
    throw SetupError("--url: write it like http://127.0.0.1:8080");
  if (colon == std::string::npos || url.ends_with(']')) return {url, "80"};
  return {url.substr(0, colon), url.substr(colon + 1)};
}

// The first key of a key file.
std::string first_key(const std::string& path) {
  if (path.empty()) return "";
  std::ifstream in(path);
  std::string line;
  while (std::getline(in, line)) {
    if (!line.empty() && line.front() != '#') return line;
  }
  throw SetupError(fmt::format("{}: holds no key", path));
}

// One GET, bounded in time and size.
json::value fetch_status(const Address& address, const std::string& key) {
  asio::io_context io;
  boost::beast::tcp_stream stream(io);
  boost::beast::flat_buffer buffer;
  http::request<http::empty_body> request(http::verb::get, "/status.json", 11);
  request.set(http::field::host, address.host + ":" + address.port);
  request.set(http::field::connection, "close");
  if (!key.empty()) request.set(http::field::authorization, "Bearer " + key);
  http::response_parser<http::string_body> parser;
  parser.body_limit(kStatusBytesMax);
  boost::system::error_code failed;
  auto done = [&](const boost::system::error_code& error) { failed = error; };
  asio::ip::tcp::resolver resolver(io);
  std::string host = address.host;
  if (host.starts_with('[')) host = host.substr(1, host.size() - 2);
  const auto found = resolver.resolve(host, address.port, failed);
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
    throw SetupError(fmt::format("no server answers at {}:{}: {} (shoal serve starts one)", address.host,
                                 address.port, failed.message()),
                     kExitFailed);
  }
  if (parser.get().result() == http::status::unauthorized)
    throw SetupError("the server asks for an API key: give --api-key-file FILE", kExitFailed);
  boost::system::error_code malformed;
  json::value status = json::parse(parser.get().body(), malformed);
  if (parser.get().result() != http::status::ok || malformed || !status.is_object())
    throw SetupError(fmt::format("{}:{} is no Shoal server", address.host, address.port), kExitFailed);
  return status;
}

// Reads what a server says without trusting it: what is missing counts as 0 or "".
double number(const json::value& object, const char* key) {
  const json::object* fields = object.if_object();
  const json::value* value = fields == nullptr ? nullptr : fields->if_contains(key);
  return value != nullptr && value->is_number() ? value->to_number<double>() : 0;
}
uint64_t bytes(const json::value& object, const char* key) {
  return static_cast<uint64_t>(std::clamp(number(object, key), 0.0, 1e18));
}
std::string text(const json::value& object, const char* key) {
  const json::object* fields = object.if_object();
  const json::value* value = fields == nullptr ? nullptr : fields->if_contains(key);
  std::string result = value != nullptr && value->is_string() ? std::string(value->get_string()) : "";
  std::erase_if(result, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  return result;
}
bool flag(const json::value& object, const char* key) {
  const json::object* fields = object.if_object();
  const json::value* value = fields == nullptr ? nullptr : fields->if_contains(key);
  return value != nullptr && value->is_bool() && value->get_bool();
}
json::array list(const json::value& object, const char* key) {
  const json::object* fields = object.if_object();
  const json::value* value = fields == nullptr ? nullptr : fields->if_contains(key);
  return value != nullptr && value->is_array() ? value->get_array() : json::array();
}

std::string busy_bar(double busy) {
  constexpr int kWidth = 20;
  const int filled = static_cast<int>(std::lround(std::clamp(busy, 0.0, 1.0) * kWidth));
  return std::string(static_cast<size_t>(filled), '#') +
         std::string(static_cast<size_t>(kWidth - filled), '.');
}

std::string layers_of(const json::value& stage) {
  std::string what = flag(stage, "embedding") ? "embedding " : "";
  const auto begin = static_cast<int>(number(stage, "layer_begin")),
             end = static_cast<int>(number(stage, "layer_end"));
  if (end > begin) what += fmt::format("{}-{} ", begin, end - 1);
  if (flag(stage, "output")) what += "output";
  return what;
}

std::string render(const json::value& status) {
  const json::array requests = list(status, "requests"), nodes = list(status, "nodes");
  std::string out = fmt::format("{}  cluster {}  up {:.0f} s\n", text(status, "model"),
                                text(status, "cluster"), number(status, "uptime_s"));
  out += fmt::format("{:.1f} tokens/s  {} requests  {:.0f} tokens generated  {:.0f} connections\n\n",
                     number(status, "tokens_per_s"), requests.size(), number(status, "tokens_generated"),
                     number(status, "connections"));
  out += fmt::format("{:>5}  {:<16} {:<24} {:<20} {:>5}  {:>8}  {:>21}\n", "stage", "node", "layers", "busy",
                     "", "rows/s", "memory");
  for (const json::value& stage : list(status, "stages")) {
    const std::string name = text(stage, "node");
    const auto node =
        std::find_if(nodes.begin(), nodes.end(), [&](const auto& n) { return text(n, "name") == name; });
    const std::string memory = node == nodes.end() ? ""
                               : !flag(*node, "heard")
                                   ? "silent"
                                   : fmt::format("{} / {}", format_bytes(bytes(*node, "resident")),
                                                 format_bytes(bytes(*node, "memory_budget")));
    out += fmt::format("{:>5.0f}  {:<16.16} {:<24.24} {} {:>4.0f}%  {:>8.0f}  {:>21}\n",
                       number(stage, "stage"), name, layers_of(stage), busy_bar(number(stage, "busy")),
                       number(stage, "busy") * 100, number(stage, "rows_per_s"), memory);
  }
  for (const json::value& link : list(status, "links")) {
    out += fmt::format("       {} -> {}: {}/s, {} in all\n", text(link, "from"), text(link, "to"),
                       format_bytes(bytes(link, "bytes_per_s")), format_bytes(bytes(link, "sent_bytes")));
  }
  if (requests.empty()) return out;
  out += fmt::format("\n{:>6}  {:<6} {:<12} {:>7}  {:>7}  {:>7}\n", "no.", "kind", "state", "age", "prompt",
                     "answer");
  for (const json::value& request : requests) {
    out +=
        fmt::format("{:>6.0f}  {:<6.6} {:<12.12} {:>5.0f} s  {:>7.0f}  {:>7.0f}\n", number(request, "number"),
                    text(request, "kind"), text(request, "state"), number(request, "age_s"),
                    number(request, "prompt_tokens"), number(request, "completion_tokens"));
  }
  return out;
}

// As much of the page as the terminal shows without wrapping or scrolling, each line erased to its end.
std::string fitted(const std::string& page) {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) return page;
  std::istringstream lines(page);
  std::string out, line;
  int left = size.ws_row - 1;
  while (left > 0 && std::getline(lines, line)) {
    const bool cut_here = --left == 0 && lines.peek() != EOF;
    if (cut_here) line = "...";
    int columns = 0;
    for (const char c : line) {
      const bool begins = (static_cast<unsigned char>(c) & 0xc0) != 0x80;  // a character, not a part of one
      if (begins && ++columns > size.ws_col) break;
      out += c;
    }
    out += "\033[K\n";
  }
  return out;
}

// A second's pause; true when the user pressed q.
bool pause_or_quit(bool keys) {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  if (::poll(&input, keys ? 1 : 0, kPeriodMs) <= 0) return false;
  char line[256];
  const ssize_t n = read(STDIN_FILENO, line, sizeof line);
  return n <= 0 || std::find(line, line + n, 'q') != line + n;
}

}  // namespace

int top_command(const TopFlags& flags) {
  const Address address = address_of(flags.url);
  const std::string key = first_key(flags.api_key_file);
  if (flags.once) {  // the server tells rates from one asking to the next
    (void)fetch_status(address, key);
    std::this_thread::sleep_for(std::chrono::milliseconds(kPeriodMs));
  }
  const bool live = !flags.once && isatty(STDOUT_FILENO) == 1;
  while (true) {
    const std::string page = render(fetch_status(address, key));
    if (live) {
      std::fputs(("\033[H" + fitted("q and Enter, or Ctrl-C, ends.\n\n" + page) + "\033[J").c_str(), stdout);
    } else {
      std::fputs(page.c_str(), stdout);
    }
    if (std::fflush(stdout) != 0 || !live) return kExitDone;
    if (pause_or_quit(isatty(STDIN_FILENO) == 1)) return kExitDone;
  }
}

}  // namespace shoal
