#include "node/lifeline.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <sstream>

namespace shoal {
namespace {

using std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kJoinDeadline = 3s;        // for all to have come
constexpr auto kConnectDeadline = 500ms;  // for one address of rank 0
constexpr int kSilentMs = 15'000;         // after which a machine that is off counts as lost
constexpr size_t kSecretBytes = 16;

std::string random_secret() {
  std::random_device device;
  std::string secret;
  for (size_t i = 0; i < kSecretBytes; ++i) secret += fmt::format("{:02x}", device() & 0xff);
  return secret;
}

// All addresses of this machine, loopback last, each once.
std::string addresses_of_this_machine() {
  ifaddrs* list = nullptr;
  std::string text;
  if (getifaddrs(&list) != 0) return "127.0.0.1";
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET) continue;
    const in_addr address = reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr;
    char shown[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &address, shown, sizeof shown);
    if (ntohl(address.s_addr) >> 24 != 127) text += std::string(shown) + " ";
  }
  freeifaddrs(list);
  return text + "127.0.0.1";
}

int listen_anywhere(int& port) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener < 0) return -1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t length = sizeof address;
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener, SOMAXCONN) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    close(listener);
    return -1;
  }
  port = ntohs(address.sin_port);
  return listener;
}

bool wait_until(int socket, short events, steady_clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - steady_clock::now());
  pollfd one{socket, events, 0};
  return left.count() > 0 && poll(&one, 1, static_cast<int>(left.count())) > 0;
}

// A process that ends closes its connection; a machine that goes off does not, and is asked now and then.
void watch_machine(int socket) {
  const int on = 1, idle_s = 3, every_s = 3, silent_ms = kSilentMs;
  setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
  setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &silent_ms, sizeof silent_ms);
}

bool read_exactly(int socket, void* data, size_t size, steady_clock::time_point deadline) {
  auto* at = static_cast<char*>(data);
  while (size > 0) {
    if (!wait_until(socket, POLLIN, deadline)) return false;
    const ssize_t n = recv(socket, at, size, MSG_DONTWAIT);
    if (n <= 0) return false;
    at += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

bool send_all(int socket, const void* data, size_t size) {  // a few bytes: they fit the socket's buffer
  return send(socket, data, size, MSG_NOSIGNAL) == static_cast<ssize_t>(size);
}

}  // namespace

Lifeline::Lifeline(int rank, int size, const std::function<std::string(const std::string&)>& broadcast)
    : rank_(rank), size_(size) {
  int port = 0;
  const int listener = rank == 0 ? listen_anywhere(port) : -1;
  const std::string secret = rank == 0 ? random_secret() : "";
  const std::string invitation =
      broadcast(fmt::format("{} {} {}", listener < 0 ? 0 : port, secret, addresses_of_this_machine()));
  if (rank == 0 && listener >= 0) {
    gather(listener, secret);
    close(listener);
  } else if (rank != 0) {
    join(invitation);
  }
}

Lifeline::~Lifeline() {
  for (const Peer& peer : peers_) close(peer.socket);
}

// Until all have come, or the deadline has. A stranger does not know the secret.
void Lifeline::gather(int listener, const std::string& secret) {
  const auto deadline = steady_clock::now() + kJoinDeadline;
  while (static_cast<int>(peers_.size()) < size_ - 1 && wait_until(listener, POLLIN, deadline)) {
    const int socket = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket < 0) continue;
    std::string said(secret.size(), '\0');
    int32_t peer = -1;
    const auto soon = std::min(deadline, steady_clock::now() + kConnectDeadline);
    if (!read_exactly(socket, said.data(), said.size(), soon) || said != secret ||
        !read_exactly(socket, &peer, sizeof peer, soon) || peer < 1 || peer >= size_) {
      close(socket);
      continue;
    }
    watch_machine(socket);
    peers_.push_back({peer, socket});
  }
  if (static_cast<int>(peers_.size()) < size_ - 1)
    spdlog::warn(
        "{} of {} processes could not open a second connection to this one: should one of them end while the "
        "cluster starts, it would be waited for",
        size_ - 1 - static_cast<int>(peers_.size()), size_);
}

void Lifeline::join(const std::string& invitation) {
  std::istringstream words(invitation);
  int port = 0;
  std::string secret, host;
  words >> port >> secret;
  if (port <= 0 || port > 65535) return;
  while (words >> host) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    if (inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) continue;
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (socket < 0) return;
    int failed = connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 ? 0 : errno;
    if (failed == EINPROGRESS && wait_until(socket, POLLOUT, steady_clock::now() + kConnectDeadline)) {
      socklen_t length = sizeof failed;
      getsockopt(socket, SOL_SOCKET, SO_ERROR, &failed, &length);
    }
    const auto rank = static_cast<int32_t>(rank_);
    if (failed == 0 && send_all(socket, secret.data(), secret.size()) &&
        send_all(socket, &rank, sizeof rank)) {
      watch_machine(socket);
      peers_.push_back({0, socket});
      return;
    }
    close(socket);
  }
}

std::optional<int> Lifeline::lost() {
  for (const Peer& peer : peers_) {
    if (lost_) break;
    int32_t told = peer.rank;
    const ssize_t n = recv(peer.socket, &told, sizeof told, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) continue;
    lost_ = n == sizeof told ? told : peer.rank;  // told of another, or closed by its end
    if (rank_ != 0) break;
    for (const Peer& other : peers_) {
      const auto rank = static_cast<int32_t>(*lost_);
      if (other.rank != *lost_) send_all(other.socket, &rank, sizeof rank);
    }
  }
  return lost_;
}

}  // namespace shoal
