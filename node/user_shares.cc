#include "node/user_shares.h"

#include <algorithm>

namespace shoal {

void UserShares::set_waiting(const std::set<std::string>& users) {
  if (users.empty()) {  // what was read while nobody else wanted anything is no debt
    rows_.clear();
    least_ = 0;
    return;
  }
  double least = -1;
  for (const std::string& user : users) {
    const double rows = rows_.try_emplace(user, least_).first->second;
    least = least < 0 ? rows : std::min(least, rows);
  }
  least_ = std::max(least_, least);
  std::erase_if(rows_,
                [&](const auto& entry) { return entry.second <= least_ && !users.contains(entry.first); });
}

void UserShares::charge(const std::string& user, double rows) {
  rows_.try_emplace(user, least_).first->second += rows;
}

int UserShares::turn(const std::string& user, double rows_before) const {
  const auto found = rows_.find(user);
  const double rows = found == rows_.end() ? least_ : found->second;
  return static_cast<int>(std::max(0.0, rows + rows_before - least_) / kTurnRows);
}

}  // namespace shoal
