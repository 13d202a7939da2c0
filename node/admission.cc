#include "node/admission.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <tuple>
#include <utility>

#include "base/check.h"

namespace shoal {

Result<void> AdmissionQueue::offer(const WaitingRequest& request, double row_s) {
  const auto places = static_cast<size_t>(request.together);
  if (is_full_for(request.user, places))
    return Error{Errc::kQueueFull, fmt::format("{} requests wait already: try again later", waiting_.size())};
  const size_t own = waiting_of(request.user);
  if (!request.user.empty() && own + places > limits_.waiting_of_user_max)
    return Error{Errc::kQueueFull, fmt::format("{} of your answers wait already: try again later", own)};
  const double own_s = kMargin * request.prompt_rows * row_s;
  const double wait_s = predicted_wait_s(request.user, row_s);
  const bool asks = !waiting_.empty() && !request.follows;
  if (asks && wait_s + own_s > wait_allowed_s(own_s)) {
    return Error{Errc::kQueueFull,
                 fmt::format("about {:.0f} s of work wait already: try again later", std::ceil(wait_s))};
  }
  const double left_s = request.deadline_s - request.since_s;
  if (asks && wait_s + own_s > left_s) {
    return Error{
        Errc::kQueueFull,
        fmt::format("about {:.0f} s of work wait already, and this request gives up after {:.3g} s: try "
                    "again later or allow it more time",
                    std::ceil(wait_s), left_s)};
  }
  if (waiting_.empty()) turns_since_ = request.since_s;
  waiting_.push_back(request);
  return {};
}

// Another user's go before it as long as that user has no more running than this one: one for each of this
// user's, fewer by what they have running more.
double AdmissionQueue::predicted_wait_s(const std::string& user, double row_s) const {
  struct Line {
    int64_t requests = 0, rows = 0;
    double turns = 0;
  };
  std::map<std::string_view, Line> lines;
  for (const WaitingRequest& r : waiting_) {
    Line& line = lines[r.user];
    ++line.requests, line.rows += r.prompt_rows, line.turns += turns_of(r);
  }
  const auto own = lines.find(user);
  const int64_t before = own == lines.end() ? 0 : own->second.requests;
  double turns = 0, rows = 0;
  for (const auto& [name, line] : lines) {
    const int64_t level = before + 1 + running_of(user) - running_of(std::string(name));
    const int64_t ahead = name == user ? line.requests : std::clamp<int64_t>(level, 0, line.requests);
    const double share = static_cast<double>(ahead) / static_cast<double>(line.requests);
    turns += line.turns * share;
    rows += static_cast<double>(line.rows) * share;
  }
  return std::max(kMargin * rows * row_s, turns * turn_s_);
}

double AdmissionQueue::turns_of(const WaitingRequest& request) const {
  const bool shorter = request.answer_tokens > 0 && request.answer_tokens < turn_tokens_;
  return shorter ? request.answer_tokens / turn_tokens_ : 1;
}

bool AdmissionQueue::is_full_for(const std::string& user, size_t places) const {
  if (waiting_.size() + places <= limits_.waiting_max) return false;
  return user.empty() || waiting_of(user) + places > limits_.waiting_of_user_kept;
}

double AdmissionQueue::retry_after_s(const std::string& user, int prompt_rows, double row_s) const {
  if (waiting_.empty()) return 0;
  const double own_s = kMargin * prompt_rows * row_s;
  const double predicted_s = predicted_wait_s(user, row_s);
  double wait_s = std::max(0.0, predicted_s + own_s - wait_allowed_s(own_s));
  // Until one of those that fill the queue has had its turn.
  const auto turn_s = [&](size_t count) { return predicted_s / static_cast<double>(count); };
  if (is_full_for(user, 1)) wait_s = std::max(wait_s, turn_s(waiting_.size()));
  const size_t own = waiting_of(user);
  if (!user.empty() && own >= limits_.waiting_of_user_max) wait_s = std::max(wait_s, turn_s(own));
  return std::min(wait_s, limits_.wait_max_s);
}

size_t AdmissionQueue::waiting_of(const std::string& user) const {
  return static_cast<size_t>(std::count_if(waiting_.begin(), waiting_.end(),
                                           [&](const WaitingRequest& r) { return r.user == user; }));
}

int AdmissionQueue::running_of(const std::string& user) const {
  const auto found = running_.find(user);
  return found == running_.end() ? 0 : found->second;
}

uint64_t AdmissionQueue::last_turn_of(const std::string& user) const {
  const auto found = last_turn_.find(user);
  return found == last_turn_.end() ? 0 : found->second;
}

std::optional<uint64_t> AdmissionQueue::next(double now_s, double row_s) const {
  auto work_s = [&](const WaitingRequest& r) {
    return r.prompt_rows * row_s - limits_.ageing * (now_s - r.since_s);
  };
  std::map<std::string_view, const WaitingRequest*> best_of_user;
  for (const WaitingRequest& r : waiting_) {
    const WaitingRequest*& best = best_of_user[r.user];
    if (best == nullptr || std::pair(-r.priority, work_s(r)) < std::pair(-best->priority, work_s(*best)))
      best = &r;
  }
  // Between users no priority: one with urgent requests would be first at each tie, for as long as it has
  // them.
  const auto first =
      std::min_element(best_of_user.begin(), best_of_user.end(), [&](const auto& a, const auto& b) {
        const WaitingRequest &one = *a.second, &other = *b.second;
        return std::tuple(running_of(one.user), last_turn_of(one.user), work_s(one), one.id) <
               std::tuple(running_of(other.user), last_turn_of(other.user), work_s(other), other.id);
      });
  if (first == best_of_user.end()) return std::nullopt;
  return first->second->id;
}

std::list<WaitingRequest>::const_iterator AdmissionQueue::find(uint64_t id) const {
  return std::find_if(waiting_.begin(), waiting_.end(), [&](const auto& r) { return r.id == id; });
}

void AdmissionQueue::take(uint64_t id) {
  const auto found = find(id);
  SHOAL_CHECK(found != waiting_.end());
  ++running_[found->user];
  last_turn_[found->user] = ++turns_taken_;
  waiting_.erase(found);
}

void AdmissionQueue::ended(const std::string& user, double now_s, int answer_tokens) {
  const auto found = running_.find(user);
  SHOAL_CHECK(found != running_.end());
  if (--found->second == 0) running_.erase(found);  // users come and go: no entry for those who left
  if (waiting_.empty()) return;
  turns_ = std::min(turns_ + 1, kTurnsRemembered);
  turn_s_ += (now_s - turns_since_ - turn_s_) / turns_;
  turn_tokens_ += (answer_tokens - turn_tokens_) / turns_;
  turns_since_ = now_s;
}

void AdmissionQueue::stood_still(double since_s, double now_s) {
  turns_since_ += std::max(0.0, now_s - std::max(since_s, turns_since_));
}

bool AdmissionQueue::remove(uint64_t id) {
  const auto found = find(id);
  if (found == waiting_.end()) return false;
  waiting_.erase(found);
  return true;
}

std::vector<uint64_t> AdmissionQueue::expire(double now_s) {
  std::vector<uint64_t> expired;
  for (auto it = waiting_.cbegin(); it != waiting_.cend();) {
    const auto here = it++;
    if (here->deadline_s > now_s) continue;
    expired.push_back(here->id);
    waiting_.erase(here);
  }
  return expired;
}

}  // namespace shoal
