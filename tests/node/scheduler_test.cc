#include "node/scheduler.h"

#include <doctest/doctest.h>

#include <deque>
#include <map>
#include <random>
#include <set>

#include "tests/node/simulated_pipeline.h"

namespace shoal {
namespace {

// `stages` equal ones, each as fast for 32 rows as for one: groups and chunks have clear best sizes.
PipelineModel even_model(int stages, double stage_s = 10e-3, double row_s = 0.3e-3, double hops_s = 1e-3) {
  std::array<double, StageModel::kRows.size()> seconds;
  for (size_t i = 0; i < seconds.size(); ++i) seconds[i] = std::max(stage_s, row_s * StageModel::kRows[i]);
  return PipelineModel(std::vector<StageModel>(static_cast<size_t>(stages), StageModel(seconds)), hops_s, 0);
}

int rows_of(const ScheduledStep& step) {
  int rows = 0;
  for (const StepPart& part : step.parts) rows += part.rows;
  return rows;
}

// Sequences that have their prompts behind them.
void start_decoding(Scheduler& scheduler, int count) {
  for (int id = 1; id <= count; ++id) scheduler.add(static_cast<uint64_t>(id), 9, 10, 0);
  while (const auto step = scheduler.next_step(0)) scheduler.step_done(*step);
  for (int id = 1; id <= count; ++id) scheduler.extend(static_cast<uint64_t>(id));
}

}  // namespace

TEST_CASE("a prompt alone is read in even chunks, back to back, and only its last row wants logits") {
  Scheduler scheduler({.steps_in_flight_max = 8, .rows_max = 64}, even_model(3));
  scheduler.add(7, 0, 100, 0);
  int position = 0;
  std::deque<ScheduledStep> in_flight;
  while (position < 100) {
    const auto step = scheduler.next_step(0);
    if (!step) {  // as many under way as keep the stages busy
      REQUIRE(in_flight.size() >= 3);
      scheduler.step_done(in_flight.front());
      in_flight.pop_front();
      continue;
    }
    REQUIRE(step->parts.size() == 1);
    CHECK(step->parts[0].first_position == position);
    CHECK(step->parts[0].rows <= 34);  // three stages: not all rows in one or two steps
    CHECK_FALSE(step->decodes);
    position += step->parts[0].rows;
    CHECK(step->parts[0].wants_logits == (position == 100));
    in_flight.push_back(*step);
  }
  CHECK(position == 100);
}

TEST_CASE("one stage reads a prompt in as few steps as it may") {
  Scheduler scheduler({.steps_in_flight_max = 2, .rows_max = 512}, even_model(1));
  scheduler.add(1, 0, 500, 0);
  const auto step = scheduler.next_step(0);
  REQUIRE(step);
  CHECK(rows_of(*step) == 500);
}

TEST_CASE("a sequence has one decode row in flight; sequences form groups that keep the stages busy") {
  Scheduler scheduler({.steps_in_flight_max = 4, .rows_max = 128}, even_model(2, 10e-3, 5e-3));
  start_decoding(scheduler, 4);
  const auto first = scheduler.next_step(0), second = scheduler.next_step(0);
  REQUIRE(first);
  REQUIRE(second);
  CHECK(first->parts.size() == 2);
  CHECK(second->parts.size() == 2);
  CHECK(first->decodes);
  CHECK_FALSE(scheduler.next_step(0));  // two groups are under way
  scheduler.step_done(*first);
  CHECK_FALSE(scheduler.next_step(0));  // their tokens are not known yet
  scheduler.extend(first->parts[0].sequence);
  scheduler.extend(first->parts[1].sequence);
  CHECK(scheduler.next_step(0)->parts.size() == 2);
}

TEST_CASE("those whose tokens are known are shared evenly among the groups that are not under way") {
  Scheduler scheduler({.steps_in_flight_max = 4, .rows_max = 128}, even_model(2, 10e-3, 3e-3));
  start_decoding(scheduler, 6);
  const auto first = scheduler.next_step(0), second = scheduler.next_step(0);
  REQUIRE(second);
  CHECK(first->parts.size() == 3);
  CHECK(second->parts.size() == 3);
  scheduler.step_done(*first);
  scheduler.step_done(*second);
  for (const size_t i : {0, 1}) {  // of each group one is still being sampled
    scheduler.extend(first->parts[i].sequence);
    scheduler.extend(second->parts[i].sequence);
  }
  CHECK(scheduler.next_step(0)->parts.size() == 2);
  CHECK(scheduler.next_step(0)->parts.size() == 2);
}

TEST_CASE("on one stage all decode together") {
  Scheduler scheduler({.steps_in_flight_max = 2, .rows_max = 128}, even_model(1));
  start_decoding(scheduler, 8);
  const auto step = scheduler.next_step(0);
  REQUIRE(step);
  CHECK(step->parts.size() == 8);
}

TEST_CASE("a prompt rides on the steps of those who decode, a bounded number of rows at a time") {
  Scheduler scheduler({.steps_in_flight_max = 2, .rows_max = 512}, even_model(1));
  start_decoding(scheduler, 1);
  scheduler.add(2, 0, 400, 0);
  const auto mixed = scheduler.next_step(0);
  REQUIRE(mixed);
  REQUIRE(mixed->parts.size() == 2);
  CHECK(mixed->parts[0].rows == 1);
  CHECK(mixed->parts[1].rows >= 16);
  CHECK(mixed->parts[1].rows <= 80);  // 20 ms of a bottleneck that takes 10 ms for up to 33 rows
}

TEST_CASE("however much has been sent ahead, each step that decodes takes a row of a prompt along") {
  Scheduler scheduler({.steps_in_flight_max = 8, .rows_max = 128}, even_model(4, 10e-3, 5e-3));
  start_decoding(scheduler, 8);
  scheduler.add(9, 0, 4000, 0);
  int decoding = 0, with_prompt = 0;
  while (const auto step = scheduler.next_step(0)) {
    decoding += step->decodes;
    with_prompt += step->decodes && step->parts.back().sequence == 9;
  }
  CHECK(decoding >= 3);
  CHECK(with_prompt == decoding);
}

TEST_CASE("the shortest prompt goes first, a long one is not starved, and priority goes before both") {
  Scheduler scheduler({.steps_in_flight_max = 1, .rows_max = 16}, even_model(1));
  scheduler.add(1, 0, 400, 0);
  scheduler.add(2, 0, 20, 0);
  CHECK(scheduler.next_step(0)->parts[0].sequence == 2);

  Scheduler aged({.steps_in_flight_max = 1, .rows_max = 16}, even_model(1));
  aged.add(1, 0, 400, 0);
  aged.add(2, 0, 20, 60);
  CHECK(aged.next_step(60)->parts[0].sequence == 1);  // has waited a minute

  Scheduler ranked({.steps_in_flight_max = 1, .rows_max = 16}, even_model(1));
  ranked.add(1, 0, 20, 0, /*priority=*/0);
  ranked.add(2, 0, 400, 0, /*priority=*/1);
  CHECK(ranked.next_step(0)->parts[0].sequence == 2);
}

TEST_CASE("a prompt does not run ahead of the bottleneck: the scheduler says when to ask again") {
  Scheduler scheduler({.steps_in_flight_max = 12, .rows_max = 128}, even_model(4));
  start_decoding(scheduler, 2);
  scheduler.add(9, 0, 4000, 0);
  while (scheduler.next_step(0)) continue;
  REQUIRE(scheduler.steps_in_flight() < 5);
  const double wake_s = scheduler.wake_s();
  REQUIRE(wake_s > 0);
  REQUIRE(wake_s < 0.1);
  CHECK_FALSE(scheduler.next_step(0));
  const auto step = scheduler.next_step(wake_s + 1e-3);
  REQUIRE(step);
  CHECK_FALSE(step->decodes);
  CHECK(step->parts[0].sequence == 9);
}

TEST_CASE("decoders' gaps with and without a long prompt beside them; the prompt gains from stages") {
  for (const bool wifi : {false, true}) {
    for (const size_t stages : {size_t{1}, size_t{2}, size_t{4}, size_t{8}}) {
      SimulatedHardware hardware;
      hardware.shares.assign(stages, 1.0 / static_cast<double>(stages));
      if (wifi) hardware.hop_s = 3e-3, hardware.hop_row_s = 0.4e-3;
      const SchedulerLimits limits{.steps_in_flight_max = 4 * static_cast<int>(stages) + 2, .rows_max = 512};
      for (const int decoders : {7, 16}) {
        CAPTURE(wifi);
        CAPTURE(stages);
        CAPTURE(decoders);
        const SimulatedRequest decoder{0, 512, 300, Scheduler::kNever, /*decoding=*/true};
        std::vector<SimulatedRequest> requests(static_cast<size_t>(decoders), decoder);
        auto p99 = [&](const SimulatedRun& run) {
          std::vector<double> gaps;
          for (int i = 0; i < decoders; ++i) {
            const auto more = token_gaps(run.answers[static_cast<size_t>(i)]);
            gaps.insert(gaps.end(), more.begin(), more.end());
          }
          return percentile(gaps, 0.99);
        };
        const double alone = p99(simulate(hardware, limits, hardware.model(), requests));
        requests.push_back({1.0, 4096, 1});
        const SimulatedRun run = simulate(hardware, limits, hardware.model(), requests);
        CHECK(p99(run) <= 2.0 * alone);
        // One stage alone needs 16.5 s for this prompt with nobody beside it.
        if (!wifi && stages == 4) CHECK(run.answers.back().token_s.at(0) - 1.0 < 0.4 * 16.5);
      }
    }
  }
}

TEST_CASE(
    "prompts get on beside many decoders, though one stage is much slower and its time was overestimated") {
  SimulatedHardware hardware;
  hardware.shares = {0.1, 0.1, 0.1, 0.5};
  const SchedulerLimits limits{.steps_in_flight_max = 8, .rows_max = 128};
  std::vector<SimulatedRequest> requests(48, {0, 64, 200, Scheduler::kNever, true});
  for (int i = 0; i < 16; ++i) requests.push_back({0.5, 1, 200});
  const SimulatedRun run = simulate(hardware, limits, hardware.model(3), requests);
  for (size_t i = 48; i < requests.size(); ++i) CHECK(run.answers[i].token_s.at(0) < 2.0);
}

TEST_CASE("the model follows the truth: throughput is found again from wrong estimates") {
  for (const double error : {0.5, 2.0}) {
    SimulatedHardware hardware;
    hardware.shares.assign(4, 0.25);
    const SchedulerLimits limits{.steps_in_flight_max = 18, .rows_max = 512};
    const std::vector<SimulatedRequest> requests(24, {0, 512, 200, Scheduler::kNever, true});
    const double right = simulate(hardware, limits, hardware.model(), requests).end_s;
    CHECK(simulate(hardware, limits, hardware.model(error), requests).end_s < 1.1 * right);
  }
}

}  // namespace shoal
