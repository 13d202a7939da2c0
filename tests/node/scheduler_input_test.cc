// Steps of an encoder's whole inputs and of texts whose embedding is wanted: whole or in chunks, of one kind
// each, and at most one beside decoders.
#include <doctest/doctest.h>

#include <deque>
#include <set>
#include <vector>

#include "node/scheduler.h"

namespace shoal::test {
namespace {

PipelineModel even_model(int stages) {
  std::array<double, StageModel::kRows.size()> seconds;
  for (size_t i = 0; i < seconds.size(); ++i) seconds[i] = 10e-3 + 0.3e-3 * StageModel::kRows[i];
  return PipelineModel(std::vector<StageModel>(static_cast<size_t>(stages), StageModel(seconds)), 1e-3, 0);
}

int rows_of(const ScheduledStep& step) {
  int rows = 0;
  for (const StepPart& part : step.parts) rows += part.rows;
  return rows;
}

}  // namespace

TEST_CASE("an input goes whole into one step, then its decoder's first row may follow at once") {
  Scheduler scheduler({.steps_in_flight_max = 4, .rows_max = 128}, even_model(2));
  scheduler.add_input(1, StepKind::kEncode, 100, 1, 0);
  const auto input = scheduler.next_step(0);
  REQUIRE(input);
  CHECK(input->kind == StepKind::kEncode);
  CHECK(input->whole_inputs);
  REQUIRE(input->parts.size() == 1);
  CHECK(input->parts[0].rows == 100);
  CHECK_FALSE(input->parts[0].wants_logits);
  const auto first = scheduler.next_step(0);
  REQUIRE(first);
  CHECK(first->kind == StepKind::kDecode);
  CHECK_FALSE(first->whole_inputs);
  REQUIRE(first->parts.size() == 1);
  CHECK(first->parts[0].first_position == 0);
  CHECK(first->parts[0].rows == 1);
  CHECK(first->parts[0].wants_logits);
  CHECK_FALSE(scheduler.next_step(0));
  scheduler.step_done(*input);
  scheduler.step_done(*first);
  scheduler.extend(1);
  const auto second = scheduler.next_step(0);
  REQUIRE(second);
  CHECK(second->decodes);
  CHECK(second->parts[0].first_position == 1);
}

TEST_CASE("inputs share a step as far as they fit whole") {
  Scheduler scheduler({.steps_in_flight_max = 4, .rows_max = 128}, even_model(2));
  for (const auto& [id, rows] : std::vector<std::pair<uint64_t, int>>{{1, 60}, {2, 50}, {3, 40}, {4, 18}})
    scheduler.add_input(id, StepKind::kEmbed, rows, 0, 0);
  std::multiset<uint64_t> sent;
  while (const auto step = scheduler.next_step(0)) {
    CHECK(rows_of(*step) <= 128);
    CHECK(step->kind == StepKind::kEmbed);
    for (const StepPart& part : step->parts) {
      CHECK(part.first_position == 0);
      CHECK(part.wants_logits);
      sent.insert(part.sequence);
    }
    scheduler.step_done(*step);
  }
  CHECK(sent == std::multiset<uint64_t>{1, 2, 3, 4});
}

// Decoders that always have a row ready, inputs that keep coming, faster than they can be read or not: no
// step mixes kinds, and decoders have at least half of the time.
TEST_CASE("beside decoders one step of another kind is under way at most, for half of the time") {
  for (const int stages : {1, 3}) {
    for (const int every : {1, 3}) {
      CAPTURE(stages);
      CAPTURE(every);
      Scheduler scheduler({.steps_in_flight_max = 2 * stages, .rows_max = 128}, even_model(stages));
      for (uint64_t id = 1; id <= 4; ++id) scheduler.add(id, 9, 10, 0);
      std::deque<ScheduledStep> in_flight;
      uint64_t next = 100;
      int others = 0, decoded = 0, inputs_done = 0;
      double decoders_s = 0, others_s = 0;  // of the slowest stage
      for (int round = 0; round < 400; ++round) {
        if (round % every == 0) {
          if (next % 2 == 0) {
            scheduler.add_input(next++, StepKind::kEmbed, 120, 0, 0.001 * round);
          } else {
            scheduler.add_embedding(next++, 40, 0.001 * round);
          }
        }
        while (const auto step = scheduler.next_step(0.001 * round)) {
          others += step->kind != StepKind::kDecode;
          CHECK(others <= 1);
          if (step->kind != StepKind::kDecode) CHECK_FALSE(step->decodes);
          (step->kind == StepKind::kDecode ? decoders_s : others_s) += step->predicted_s;
          in_flight.push_back(*step);
        }
        REQUIRE_FALSE(in_flight.empty());
        const ScheduledStep done = in_flight.front();
        in_flight.pop_front();
        scheduler.step_done(done);
        others -= done.kind != StepKind::kDecode;
        for (const StepPart& part : done.parts) {
          if (done.kind == StepKind::kDecode) {
            ++decoded;
            scheduler.extend(part.sequence);
          } else if (part.wants_logits) {
            ++inputs_done;
            scheduler.remove(part.sequence);
          }
        }
      }
      CHECK(others_s < decoders_s + 0.1);
      CHECK(others_s > 0.7 * decoders_s);
      CHECK(decoded > 150);
      CHECK(inputs_done > 60);
    }
  }
}

// Whether the slot is a decoder's or that of a text's first row: a stream of inputs must not keep it waiting.
TEST_CASE("a decoder's first row gets its turn among inputs that keep coming") {
  Scheduler scheduler({.steps_in_flight_max = 2, .rows_max = 128}, even_model(1));
  uint64_t next = 100;
  scheduler.add_input(next++, StepKind::kEmbed, 120, 0, 0);
  scheduler.add(1, 0, 20, 0);
  for (int round = 0; round < 20; ++round) {
    scheduler.add_input(next++, StepKind::kEmbed, 120, 0, 0);
    const auto step = scheduler.next_step(0);
    REQUIRE(step);
    if (step->kind == StepKind::kDecode) return;
    scheduler.step_done(*step);
    for (const StepPart& part : step->parts) scheduler.remove(part.sequence);
  }
  FAIL("20 inputs went before it");
}

TEST_CASE("a long text whose embedding is wanted travels in chunks and its last row asks") {
  Scheduler scheduler({.steps_in_flight_max = 8, .rows_max = 64}, even_model(2));
  scheduler.add_embedding(5, 150, 0);
  int position = 0;
  while (const auto step = scheduler.next_step(0)) {
    CHECK(step->kind == StepKind::kEmbed);
    CHECK_FALSE(step->whole_inputs);
    CHECK(step->parts[0].first_position == position);
    position += step->parts[0].rows;
    CHECK(step->parts[0].wants_logits == (position == 150));
    scheduler.step_done(*step);
  }
  CHECK(position == 150);
}

}  // namespace shoal::test
