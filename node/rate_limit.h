// How much may happen in a minute: requests of an API key, lines of the log about a stranger. A bucket for
// each user that holds a minute's worth and refills evenly, so that a burst is possible and a flood is not.
// Pure logic: no clock, no threads; times are seconds of one monotonic clock. Bounded by the number of users,
// which the caller knows.
#pragma once

#include <cmath>
#include <map>
#include <optional>
#include <string>

namespace shoal {

class RateLimit {
 public:
  explicit RateLimit(int per_minute) : per_minute_(per_minute) {}  // 0: no limit

  // Takes one from the user's bucket; where it is empty, the seconds until there is one again, at least 1.
  std::optional<int> take(const std::string& user, double now_s) {
    if (per_minute_ <= 0) return std::nullopt;
    const auto [found, is_new] = buckets_.try_emplace(user, Bucket{static_cast<double>(per_minute_), now_s});
    Bucket& bucket = found->second;
    const double per_second = per_minute_ / 60.0;
    bucket.left = std::fmin(per_minute_, bucket.left + (now_s - bucket.at_s) * per_second);
    bucket.at_s = now_s;
    if (bucket.left >= 1) {
      bucket.left -= 1;
      return std::nullopt;
    }
    return static_cast<int>(std::fmax(1, std::ceil((1 - bucket.left) / per_second)));
  }

  // Whether take() would give none now.
  bool is_empty(const std::string& user, double now_s) const {
    const auto found = buckets_.find(user);
    if (per_minute_ <= 0 || found == buckets_.end()) return false;
    return found->second.left + (now_s - found->second.at_s) * per_minute_ / 60.0 < 1;
  }

  size_t users() const { return buckets_.size(); }

 private:
  struct Bucket {
    double left, at_s;
  };
  int per_minute_;
  std::map<std::string, Bucket> buckets_;
};

}  // namespace shoal
