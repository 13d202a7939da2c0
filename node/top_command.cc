// shoal top: the live page's figures in a terminal, from /status.json of a running server.
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "base/units.h"
#include "node/commands.h"
#include "node/server_client.h"

namespace shoal {
namespace {

namespace json = boost::json;

constexpr auto kPeriodMs = 1000;

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
  const ServerClient server(flags.url, flags.api_key_file);
  if (flags.once) {  // the server tells rates from one asking to the next
    (void)server.status();
    std::this_thread::sleep_for(std::chrono::milliseconds(kPeriodMs));
  }
  const bool live = !flags.once && isatty(STDOUT_FILENO) == 1;
  while (true) {
    const std::string page = render(server.status());
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
