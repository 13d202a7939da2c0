// Which rows go into the next step. Pure logic: no clock, no sockets, no model; the coordinator tells it what
// happened and asks what to send.
//
// Rules (docs/decisions.md says why): decoding sequences form as many groups as there are stages, so that
// each stage has a group to compute; a sequence has at most one decode row in flight. Prompts are read in
// chunks, back to back when nobody decodes, and beside decode rows otherwise. At most `steps_in_flight_max`
// steps travel at once, oldest sequence first.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <vector>

namespace shoal {

struct SchedulerLimits {
  int stages = 1;
  int steps_in_flight_max = 2;  // stages + 1: one on its way to each stage and one coming home
  int chunk_rows = 512;         // prompt rows of a step when nobody decodes
  int mixed_chunk_rows = 32;    // prompt rows beside decode rows
  int rows_max = 512;           // rows of any step
};

// Consecutive rows of one sequence in a step.
struct StepPart {
  uint64_t sequence;
  int first_position;
  int rows;
  bool wants_logits;  // the last row's logits are wanted: its token is to be sampled
};

struct ScheduledStep {
  std::vector<StepPart> parts;
  bool decodes = false;  // carries decode rows, and so counts as a group under way
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  // A sequence whose positions [computed, length) are known tokens, still to be computed.
  void add(uint64_t sequence, int computed, int length);
  // A token was sampled and appended: there is one more position to compute.
  void extend(uint64_t sequence);
  void remove(uint64_t sequence);

  // The next step, or nothing if there is none to send now. The caller numbers it and reports step_done()
  // later.
  std::optional<ScheduledStep> next_step();
  void step_done(const ScheduledStep& step);

  int steps_in_flight() const { return steps_in_flight_; }
  size_t sequences() const { return sequences_.size(); }

 private:
  struct Entry {
    uint64_t id;
    int sent;       // positions sent so far
    int length;     // positions known
    bool decoding;  // its prompt has been sent whole
    int in_flight = 0;
  };
  void add_decode_rows(std::vector<StepPart>& parts, int& room);
  void add_prompt_rows(std::vector<StepPart>& parts, int room);

  SchedulerLimits limits_;
  std::list<Entry> sequences_;  // by age
  int steps_in_flight_ = 0;
  int decode_steps_in_flight_ = 0;
};

}  // namespace shoal
