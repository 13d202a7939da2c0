// Whose prompts are read next, where several users wait: fair queueing by start tags (P. Goyal, H. Vin, H.
// Cheng, SFQ, SIGCOMM 1996). A user's tag grows by the rows of each prompt that was read; who has the least
// goes first, and users within one turn of it are equals, so that a short prompt need not wait for a long one
// that is a few rows behind. Who comes after a pause starts at the least tag of those who wait: pauses save
// nothing up. Plain arithmetic: no clock, no threads.
#pragma once

#include <map>
#include <set>
#include <string>

namespace shoal {

class UserShares {
 public:
  static constexpr double kTurnRows = 1024;

  // Those who have prompts to be read now. Of others only those are remembered who have had more.
  void set_waiting(const std::set<std::string>& users);
  // Rows of a user's prompt are read now.
  void charge(const std::string& user, double rows);
  // 0 for the first in turn and its equals, more for those who have had more; `rows_before`: of the same
  // user's prompts that go before the one in question.
  int turn(const std::string& user, double rows_before) const;

 private:
  std::map<std::string, double> rows_;  // tags
  double least_ = 0;                    // of those who wait, or waited last
};

}  // namespace shoal
