// What is done about connections that nobody vouches for: which of them goes when too many wait, and which
// refused ones get a line in the log. The latter also for what a node of the cluster does wrong, as often as
// it likes. For one thread; times are seconds of one monotonic clock.
#pragma once

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "node/rate_limit.h"

namespace shoal {

// The address alone of "address:port" or "name at address:port": the name is what the caller calls itself.
inline std::string address_of(const std::string& peer) {
  const size_t begin = peer.rfind(' ') + 1;  // 0 where there is none
  return peer.substr(begin, peer.rfind(':') - begin);
}

// Which of those that wait, the oldest first, goes for a new one: the oldest of the address that has most of
// them. So one that opens many, and again as soon as they are closed, pushes out itself and not others.
inline size_t first_of_most_frequent(const std::vector<std::string>& addresses) {
  size_t found = 0;
  std::ptrdiff_t most = 0;
  for (size_t i = 0; i < addresses.size(); ++i) {
    const std::ptrdiff_t count = std::count(addresses.begin(), addresses.end(), addresses[i]);
    if (count > most) {
      most = count;
      found = i;
    }
  }
  return found;
}

// Every refused connection gets a line where few come, and a share of them where many do, so that who calls
// again and again, or from many addresses, cannot fill the disk. What was left out is counted in the next
// line. Memory: kAddressesMax buckets.
class StrangerLines {
 public:
  static constexpr int kOfAddressPerMinute = 30, kPerMinute = 120;
  static constexpr size_t kAddressesMax = 256;  // then all are forgotten, and kPerMinute alone holds

  // `peer`: "address:port" or "name at address:port", or a node's name. Nothing: no line this time.
  std::optional<std::string> line(const std::string& peer, const std::string& what, double now_s) {
    if (of_address_.users() >= kAddressesMax) of_address_ = RateLimit(kOfAddressPerMinute);
    if (of_address_.take(address_of(peer), now_s) || all_.take("", now_s)) {
      ++left_out_;
      return std::nullopt;
    }
    const uint64_t more = std::exchange(left_out_, 0);
    return more == 0 ? what : fmt::format("{} ({} more since the last such line)", what, more);
  }
  // Logs it as a warning, unless there is to be no line.
  void warn(const std::string& peer, const std::string& what, double now_s) {
    if (const std::optional<std::string> said = line(peer, what, now_s)) spdlog::warn(*said);
  }

 private:
  RateLimit of_address_{kOfAddressPerMinute}, all_{kPerMinute};
  uint64_t left_out_ = 0;
};

// Whose new connections are closed at once, before a handshake, which costs a fraction of a millisecond on
// the thread that also streams. A few a second and address are let in where callers show no certificate or
// say no hello, and far more of those who do: a cluster's nodes may share an address. A bucket holds a
// minute's worth (node/rate_limit.h), so a start with many links at once is not slowed. Memory: kAddressesMax
// buckets of each.
class ConnectionRates {
 public:
  static constexpr int kPerMinute = 3000, kUngreetedPerMinute = 600;
  static constexpr size_t kAddressesMax = 1024;  // then all are forgotten

  // Whether a new connection from `peer`, "address:port", is to be served.
  bool admits(const std::string& peer, double now_s) {
    const std::string address = address_of(peer);
    if (all_.users() >= kAddressesMax) all_ = RateLimit(kPerMinute);
    return !ungreeted_.is_empty(address, now_s) && !all_.take(address, now_s);
  }
  // One that was served has ended without a hello.
  void ungreeted(const std::string& peer, double now_s) {
    if (ungreeted_.users() >= kAddressesMax) ungreeted_ = RateLimit(kUngreetedPerMinute);
    (void)ungreeted_.take(address_of(peer), now_s);
  }

 private:
  RateLimit all_{kPerMinute}, ungreeted_{kUngreetedPerMinute};
};

}  // namespace shoal
