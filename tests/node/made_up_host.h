// A host for a coordinator whose pipeline is made up, on the test's own thread: the next token is the
// position. Behind an adapter the row of kOverflows overflows, and what is computed from what the cache holds
// of it is kWorthless, as finite and wrong as it would be.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "node/pipeline_host.h"

namespace shoal::test {

class MadeUpHost : public PipelineHost {
 public:
  static constexpr int32_t kOverflows = 301, kWorthless = 302;

  double now_s() const override { return now_s_; }
  void post(std::function<void()> work) override { work(); }
  void call(std::function<void()> work) override { work(); }
  void set_timer(Timer, double, std::function<void()>) override {}
  void send_step(std::unique_ptr<StepJob> job) override { jobs_.push_back(std::move(job)); }
  StepBuffer take_buffer() override { return std::make_shared<AlignedBuffer>(); }
  void set_on_outcome(std::function<void(StepOutcome)> on_outcome) override { told_ = std::move(on_outcome); }
  void ask_clocks() override {}
  std::optional<double> clock_ahead_s(const std::string&) const override { return std::nullopt; }

  // Answers the oldest step, and counts.
  bool compute_one() {
    if (jobs_.empty()) return false;
    const std::unique_ptr<StepJob> job = std::move(jobs_.front());
    jobs_.pop_front();
    now_s_ += 0.01;
    StepOutcome outcome;
    outcome.step_id = job->step_id;
    for (const CacheOp& op : job->ops) apply(op);
    for (size_t i = 0; i < job->rows.size(); ++i) {
      const BatchRow& row = job->rows[i];
      ++rows;
      int& worthless_from = worthless_from_.try_emplace(row.slot, kNone).first->second;
      if (worthless_from >= row.position) worthless_from = kNone;  // what lies there is computed anew
      const bool worthless = worthless_from < row.position;
      if (row.adapter > 0 && row.token == kOverflows) {
        outcome.overflowed.push_back(static_cast<int32_t>(i));
        worthless_from = std::min(worthless_from, row.position);
      }
      if (row.wants_logits)
        outcome.rows.push_back(
            {static_cast<int32_t>(i), 0, {{worthless ? kWorthless : row.position % 300, 1.0f}}});
    }
    told_(std::move(outcome));
    return true;
  }
  void forget_all() { jobs_.clear(); }

  int rows = 0, forked = 0;

 private:
  static constexpr int kNone = std::numeric_limits<int>::max();

  void apply(const CacheOp& op) {
    int& worthless_from = worthless_from_.try_emplace(op.slot, kNone).first->second;
    if (op.kind == CacheOpKind::kFork) {
      forked += op.length;
      worthless_from = worthless_from_.try_emplace(op.from_slot, kNone).first->second;
    }
    if (op.kind == CacheOpKind::kFree || worthless_from >= op.length) worthless_from = kNone;
  }

  double now_s_ = 1;
  std::deque<std::unique_ptr<StepJob>> jobs_;
  std::map<int, int> worthless_from_;  // by slot: the first position
  std::function<void(StepOutcome)> told_;
};

}  // namespace shoal::test
