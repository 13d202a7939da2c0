// What the coordinator computes again after a loss, with a host whose pipeline is made up: the next token is
// the position.
#include <doctest/doctest.h>

#include <algorithm>
#include <deque>

#include "node/coordinator.h"
#include "tests/node/local_cluster.h"

namespace shoal::test {
namespace {

class MadeUpHost : public PipelineHost {
 public:
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
    for (const CacheOp& op : job->ops) {
      if (op.kind == CacheOpKind::kFork) forked += op.length;
    }
    for (size_t i = 0; i < job->rows.size(); ++i) {
      ++rows;
      if (job->rows[i].wants_logits)
        outcome.rows.push_back({static_cast<int32_t>(i), 0, {{job->rows[i].position % 300, 1.0f}}});
    }
    told_(std::move(outcome));
    return true;
  }
  void forget_all() { jobs_.clear(); }

  int rows = 0, forked = 0;

 private:
  double now_s_ = 1;
  std::deque<std::unique_ptr<StepJob>> jobs_;
  std::function<void(StepOutcome)> told_;
};

}  // namespace

TEST_CASE("after a loss what answers begin alike is computed once, for the same user alone") {
  ClusterShape shape;
  shape.context = 512;
  const PipelineLayout layout = layout_of(shape);
  for (const bool same_user : {true, false}) {
    CAPTURE(same_user);
    MadeUpHost host;
    Coordinator coordinator(host, layout, {.steps_in_flight_max = 2, .rows_max = 32}, any_model(layout),
                            nullptr);
    std::vector<int> tokens(3), ends(3);
    const std::vector<int32_t> beginning = prompt_of(200, 5);
    for (size_t i = 0; i < 3; ++i) {
      GenerationRequest request = greedy(beginning, 60);
      request.prompt.push_back(static_cast<int32_t>(i));
      request.user = same_user ? "anna" : std::to_string(i);
      request.on_event = [&tokens, &ends, i](const GenerationEvent& event) {
        tokens[i] += event.token >= 0;
        ends[i] += event.finished;
      };
      coordinator.submit(std::move(request));
    }
    while (*std::min_element(tokens.begin(), tokens.end()) < 5) REQUIRE(host.compute_one());
    const int answered = tokens[0] + tokens[1] + tokens[2];
    coordinator.suspend();
    host.forget_all();
    host.rows = host.forked = 0;
    coordinator.resume(2, layout, {.steps_in_flight_max = 2, .rows_max = 32}, any_model(layout));
    while (host.compute_one()) continue;
    CHECK(tokens == std::vector<int>(3, 60));
    CHECK(ends == std::vector<int>(3, 1));
    const int prompts = same_user ? 200 + 3 : 3 * 201;
    CHECK(host.rows == prompts + 3 * 59);  // nothing follows an answer's last token
    CHECK(host.forked == (same_user ? 2 * 200 : 0));
    CHECK(coordinator.replayed() == static_cast<uint64_t>(prompts + answered));
  }
}

}  // namespace shoal::test
