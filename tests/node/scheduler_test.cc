#include "node/scheduler.h"

#include <doctest/doctest.h>

#include <deque>
#include <map>
#include <random>
#include <set>

namespace shoal {
namespace {

int rows_of(const ScheduledStep& step) {
  int rows = 0;
  for (const StepPart& part : step.parts) rows += part.rows;
  return rows;
}

}  // namespace

TEST_CASE("a prompt is read in chunks, back to back, and only its last row wants logits") {
  Scheduler scheduler(
      {.stages = 3, .steps_in_flight_max = 4, .chunk_rows = 32, .mixed_chunk_rows = 16, .rows_max = 64});
  scheduler.add(7, 0, 100);
  int position = 0;
  for (const int rows : {32, 32, 32, 4}) {
    const auto step = scheduler.next_step();
    REQUIRE(step);
    REQUIRE(step->parts.size() == 1);
    CHECK(step->parts[0].first_position == position);
    CHECK(step->parts[0].rows == rows);
    CHECK(step->parts[0].wants_logits == (rows == 4));
    CHECK_FALSE(step->decodes);
    position += rows;
  }
  CHECK_FALSE(scheduler.next_step());  // four under way, and nothing left
}

TEST_CASE("a sequence has one decode row in flight; sequences form a group for each stage") {
  Scheduler scheduler(
      {.stages = 2, .steps_in_flight_max = 3, .chunk_rows = 64, .mixed_chunk_rows = 32, .rows_max = 128});
  for (uint64_t id = 1; id <= 4; ++id) scheduler.add(id, 9, 10);
  const auto prompts = scheduler.next_step();
  REQUIRE(prompts);
  CHECK(prompts->parts.size() == 4);
  scheduler.step_done(*prompts);
  for (uint64_t id = 1; id <= 4; ++id) scheduler.extend(id);
  const auto first = scheduler.next_step(), second = scheduler.next_step();
  REQUIRE(first);
  REQUIRE(second);
  CHECK(first->parts.size() == 2);
  CHECK(second->parts.size() == 2);
  CHECK(first->decodes);
  CHECK_FALSE(scheduler.next_step());  // two groups are under way
  scheduler.step_done(*first);
  CHECK_FALSE(scheduler.next_step());  // their tokens are not known yet
  scheduler.extend(first->parts[0].sequence);
  scheduler.extend(first->parts[1].sequence);
  CHECK(scheduler.next_step()->parts.size() == 2);
}

TEST_CASE("a prompt rides on the steps of those who decode") {
  Scheduler scheduler(
      {.stages = 1, .steps_in_flight_max = 2, .chunk_rows = 128, .mixed_chunk_rows = 32, .rows_max = 128});
  scheduler.add(1, 0, 1);
  const auto prompt = scheduler.next_step();
  scheduler.step_done(*prompt);
  scheduler.extend(1);
  scheduler.add(2, 0, 100);
  const auto mixed = scheduler.next_step();
  REQUIRE(mixed);
  REQUIRE(mixed->parts.size() == 2);
  CHECK(mixed->parts[0].rows == 1);
  CHECK(mixed->parts[1].rows == 32);
  CHECK_FALSE(scheduler.next_step());
}

TEST_CASE("random arrivals, cancels and slow answers: nothing is lost, repeated or out of order") {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    auto up_to = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    const SchedulerLimits limits{.stages = 1 + up_to(4),
                                 .steps_in_flight_max = 1 + up_to(6),
                                 .chunk_rows = 1 + up_to(40),
                                 .mixed_chunk_rows = 1 + up_to(10),
                                 .rows_max = 48};
    Scheduler scheduler(limits);
    struct Life {
      int known, sent = 0, to_decode;
    };
    std::map<uint64_t, Life> lives;
    std::deque<ScheduledStep> in_flight;
    uint64_t next_id = 1;
    int arrivals = 30, rounds = 0;
    while (arrivals > 0 || !lives.empty()) {
      REQUIRE(++rounds < 100000);
      if (arrivals > 0 && up_to(4) == 0) {
        --arrivals;
        const int length = 1 + up_to(90);
        lives[next_id] = {length, 0, 1 + up_to(12)};
        scheduler.add(next_id++, 0, length);
      }
      if (!lives.empty() && up_to(60) == 0) {
        const uint64_t victim = lives.begin()->first;
        scheduler.remove(victim);
        lives.erase(victim);
      }
      while (const auto step = scheduler.next_step()) {
        CHECK(rows_of(*step) <= limits.rows_max);
        std::set<uint64_t> seen;
        for (const StepPart& part : step->parts) {
          CHECK(seen.insert(part.sequence).second);
          Life& life = lives.at(part.sequence);
          CHECK(part.first_position == life.sent);
          life.sent += part.rows;
          CHECK(life.sent <= life.known);
          CHECK(part.wants_logits == (life.sent == life.known));
        }
        in_flight.push_back(*step);
        CHECK(static_cast<int>(in_flight.size()) <= limits.steps_in_flight_max);
      }
      CHECK(scheduler.steps_in_flight() == static_cast<int>(in_flight.size()));
      if (in_flight.empty() || up_to(3) == 0) continue;
      const ScheduledStep done = in_flight.front();
      in_flight.pop_front();
      scheduler.step_done(done);
      for (const StepPart& part : done.parts) {
        const auto life = lives.find(part.sequence);
        if (life == lives.end() || !part.wants_logits) continue;
        if (--life->second.to_decode == 0) {
          scheduler.remove(part.sequence);
          lives.erase(life);
        } else {
          ++life->second.known;
          scheduler.extend(part.sequence);
        }
      }
    }
    CHECK(scheduler.sequences() == 0);
  }
}

}  // namespace shoal
