#include "node/scheduler.h"

#include <algorithm>

#include "base/check.h"

namespace shoal {

Scheduler::Scheduler(const SchedulerLimits& limits) : limits_(limits) {
  SHOAL_CHECK(limits.stages >= 1 && limits.steps_in_flight_max >= 1 && limits.chunk_rows >= 1 &&
              limits.mixed_chunk_rows >= 1 && limits.rows_max >= 1);
}

void Scheduler::add(uint64_t sequence, int computed, int length) {
  SHOAL_CHECK(computed < length);
  sequences_.push_back({sequence, computed, length, /*decoding=*/false});
}

void Scheduler::extend(uint64_t sequence) {
  for (Entry& entry : sequences_) {
    if (entry.id == sequence) ++entry.length;
  }
}

void Scheduler::remove(uint64_t sequence) {
  sequences_.remove_if([&](const Entry& entry) { return entry.id == sequence; });
}

std::optional<ScheduledStep> Scheduler::next_step() {
  if (steps_in_flight_ >= limits_.steps_in_flight_max) return std::nullopt;
  ScheduledStep step;
  int room = limits_.rows_max;
  add_decode_rows(step.parts, room);
  step.decodes = !step.parts.empty();
  const bool decoding =
      std::any_of(sequences_.begin(), sequences_.end(), [](const Entry& e) { return e.decoding; });
  // Beside decoders a prompt's rows ride on their steps: a step of its own would only make them wait.
  if (step.decodes || decode_steps_in_flight_ == 0) {
    add_prompt_rows(step.parts, std::min(room, decoding ? limits_.mixed_chunk_rows : limits_.chunk_rows));
  }
  if (step.parts.empty()) return std::nullopt;
  ++steps_in_flight_;
  decode_steps_in_flight_ += step.decodes;
  return step;
}

// Decode rows of one group: the sequences that wait for their next token, if no group's worth of steps is
// under way.
void Scheduler::add_decode_rows(std::vector<StepPart>& parts, int& room) {
  int decoding = 0, ready = 0;
  for (const Entry& entry : sequences_) {
    if (!entry.decoding) continue;
    ++decoding;
    ready += entry.in_flight == 0 && entry.sent < entry.length;
  }
  if (ready == 0) return;
  const int groups = std::min(decoding, limits_.stages);
  if (decode_steps_in_flight_ >= groups) return;
  // The waiting sequences are shared among the groups that are not under way, so that group sizes stay within
  // one row.
  const int idle_groups = groups - decode_steps_in_flight_;
  int rows = std::min({(ready + idle_groups - 1) / idle_groups, room});
  for (Entry& entry : sequences_) {
    if (rows == 0) break;
    if (!entry.decoding || entry.in_flight != 0 || entry.sent >= entry.length) continue;
    parts.push_back({entry.id, entry.sent, 1, /*wants_logits=*/true});
    ++entry.sent;
    ++entry.in_flight;
    --rows;
    --room;
  }
}

// Prompt rows of the oldest sequences still being read.
void Scheduler::add_prompt_rows(std::vector<StepPart>& parts, int room) {
  for (Entry& entry : sequences_) {
    if (room == 0) break;
    if (entry.decoding || entry.sent >= entry.length) continue;
    const int rows = std::min(room, entry.length - entry.sent);
    const bool last = entry.sent + rows == entry.length;
    parts.push_back({entry.id, entry.sent, rows, last});
    entry.sent += rows;
    ++entry.in_flight;
    entry.decoding = last;
    room -= rows;
  }
}

void Scheduler::step_done(const ScheduledStep& step) {
  --steps_in_flight_;
  decode_steps_in_flight_ -= step.decodes;
  for (const StepPart& part : step.parts) {
    for (Entry& entry : sequences_) {
      if (entry.id == part.sequence) --entry.in_flight;
    }
  }
}

}  // namespace shoal
