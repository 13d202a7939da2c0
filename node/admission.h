// Requests that wait for a cache slot: which comes next, which are refused, which have waited too long. Pure
// logic: no clock, no threads. All times are seconds of one monotonic clock.
//
// Order: the user with the fewest requests running, so that nobody fills the pipeline by asking more often or
// more urgently; of users with as many, the one who has had none or whose last turn is longest ago, so that a
// backlog of short prompts does not keep a long one waiting; of those who have had none, whose next prompt is
// shortest. A user's next is the one of the highest priority, and of those the shortest, less what it has
// waited. A request is refused when the queue is full or holds a great many of the same user, or when what
// goes before it predicts that it would wait longer than the queue may take: a caller who is told at once can
// go elsewhere, one who waits a minute in silence cannot. What goes before it are its user's own, and as many
// turns of each other user as these leave room for, so nobody is refused for another's backlog: their
// prompts' rows; or, where answers are long, as long as it took lately for so many turns to end while others
// waited. One that asks for fewer tokens than those answers had counts as so much less of a turn.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace shoal {

struct AdmissionLimits {
  size_t waiting_max = 1024;
  size_t waiting_of_user_max = 256;  // of one user who is named: nobody fills the queue alone
  size_t waiting_of_user_kept = 16;  // so many find a place in a queue that others have filled
  double wait_max_s = 60;  // predicted; a prompt that alone takes longer may wait for twice its own time
  double ageing = 0.1;     // seconds of prompt work forgiven for each second of waiting
};

struct WaitingRequest {
  uint64_t id = 0;
  std::string user;  // whose turn it is counted as; empty: anybody
  int priority = 0;
  int prompt_rows = 0;
  double since_s = 0;
  double deadline_s = std::numeric_limits<double>::infinity();  // to be done with; no use afterwards
  int together = 1;       // places that are needed for it and for those that come with it
  bool follows = false;   // one that came with it found time for all of them
  int answer_tokens = 0;  // that it asks for, at most; 0: not known
};

class AdmissionQueue {
 public:
  explicit AdmissionQueue(const AdmissionLimits& limits) : limits_(limits) {}

  // `row_s`: seconds a prompt row takes the pipeline. Errc::kQueueFull with a sentence for the caller.
  Result<void> offer(const WaitingRequest& request, double row_s);
  // Seconds until such a request of this user would be taken, as predicted; 0 where it would be now. At most
  // wait_max_s: who asks again then finds out more.
  double retry_after_s(const std::string& user, int prompt_rows, double row_s) const;
  // The request that should have the next free slot; it stays in the queue until take().
  std::optional<uint64_t> next(double now_s, double row_s) const;
  // It runs now. ended() when it is over.
  void take(uint64_t id);
  void ended(const std::string& user, double now_s, int answer_tokens);
  // Since then nothing was computed; now it is. Those who wait have not had their turns meanwhile.
  void stood_still(double since_s, double now_s);
  bool remove(uint64_t id);  // false: it does not wait
  // Those whose deadline has passed leave the queue.
  std::vector<uint64_t> expire(double now_s);

  size_t size() const { return waiting_.size(); }
  // Of one more of this user's.
  double predicted_wait_s(const std::string& user, double row_s) const;

 private:
  static constexpr int kTurnsRemembered = 32;  // of which the mean time between two ends is taken
  double wait_allowed_s(double own_s) const { return std::max(limits_.wait_max_s, 2 * own_s); }
  static constexpr double kMargin = 1.3;  // decoders beside the prompts slow them down
  std::list<WaitingRequest>::const_iterator find(uint64_t id) const;
  int running_of(const std::string& user) const;
  uint64_t last_turn_of(const std::string& user) const;
  bool is_full_for(const std::string& user, size_t places) const;
  size_t waiting_of(const std::string& user) const;
  double turns_of(const WaitingRequest& request) const;

  AdmissionLimits limits_;
  std::list<WaitingRequest> waiting_;  // by arrival
  std::map<std::string, int> running_;
  std::map<std::string, uint64_t> last_turn_;  // of users who have had one: as many as there are keys
  uint64_t turns_taken_ = 0;
  double turn_s_ = 0;       // between two ends while others waited
  double turn_tokens_ = 0;  // of the answers that ended so
  int turns_ = 0;           // that these are the means of
  double turns_since_ = 0;  // the last end, or when somebody began to wait after nobody had
};

}  // namespace shoal
