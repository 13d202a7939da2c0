// Which refused connections get a line in the log: every one where few come, and a share of them where many
// do, so that who calls again and again, or from many addresses, cannot fill the disk. What was left out is
// counted in the next line. Pure logic on one thread; times are seconds of one monotonic clock. Memory:
// kAddressesMax buckets.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "node/rate_limit.h"

namespace shoal {

class StrangerLines {
 public:
  static constexpr int kOfAddressPerMinute = 30, kPerMinute = 120;
  static constexpr size_t kAddressesMax = 256;  // then all are forgotten, and kPerMinute alone holds

  // `peer`: "address:port" or "name at address:port". Nothing: no line this time.
  std::optional<std::string> line(const std::string& peer, const std::string& what, double now_s) {
    if (of_address_.users() >= kAddressesMax) of_address_ = RateLimit(kOfAddressPerMinute);
    if (of_address_.take(address_of(peer), now_s) || all_.take("", now_s)) {
      ++left_out_;
      return std::nullopt;
    }
    const uint64_t more = std::exchange(left_out_, 0);
    return more == 0 ? what : fmt::format("{} ({} more since the last such line)", what, more);
  }

 private:
  // Without the name that the caller gave itself.
  static std::string address_of(const std::string& peer) {
    const size_t begin = peer.rfind(' ') + 1;  // 0 where there is none
    return peer.substr(begin, peer.rfind(':') - begin);
  }

  RateLimit of_address_{kOfAddressPerMinute}, all_{kPerMinute};
  uint64_t left_out_ = 0;
};

}  // namespace shoal
