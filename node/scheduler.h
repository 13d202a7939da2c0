// Which rows go into the next step. Pure logic: no clock, no sockets, no model weights; the coordinator tells
// it the time and what happened, and asks what to send. All times are seconds of one monotonic clock.
//
// Decoding. The N decoding sequences form G groups, each one step; G is the smallest that minimises the time
// between two tokens, max(sum of the groups' bottleneck times, lap of the largest group), by the times that
// PipelineModel believes. At most G steps carry decode rows, and a sequence has at most one row in flight.
//
// Prompts. When nobody decodes, a prompt travels in chunks back to back, of the size that predicts the
// earliest first token. Beside decoders each step's bottleneck time is kept below a bound tau, which is
// chosen with the number W of steps in flight so that a decoder waits at most `decode_stretch` times what it
// would wait without prompts, and prompt rows are paced: they may not run ahead of the bottleneck by more
// than a step or two. Users take turns in having prompts read (user_shares.h). Of one turn the higher
// priority goes first, then the shortest remaining work, less what it has waited (ageing), chosen again at
// each step.
//
// Steps are of one kind. What an encoder reads goes whole into one step, with others as far as they fit; rows
// whose embedding is wanted travel in chunks. While sequences decode, one step of these kinds is under way at
// most, so that a decoder waits for no more than one between two tokens.
//
// docs/decisions.md says where these rules come from and what simulation showed of the simpler ones.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <list>
#include <optional>
#include <string>
#include <vector>

#include "model/batch.h"
#include "node/pipeline_model.h"
#include "node/user_shares.h"

namespace shoal {

struct SchedulerLimits {
  int steps_in_flight_max = 2;  // of all kinds; what the nodes have buffers for
  int rows_max = 512;           // rows of any step
  double decode_stretch = 1.8;  // how much longer a decoder may wait for a token because of prompts
  double ageing = 0.1;          // seconds of prompt work forgiven for each second of waiting
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
  StepKind kind = StepKind::kDecode;
  bool whole_inputs = false;  // its parts are whole inputs of an encoder
  bool decodes = false;       // carries decode rows, and so counts as a group under way
  double predicted_s = 0;     // what it was expected to take the slowest stage
  StepSize size() const;
};

class Scheduler {
 public:
  static constexpr double kNever = std::numeric_limits<double>::infinity();

  Scheduler(const SchedulerLimits& limits, PipelineModel model);

  // A sequence whose positions [computed, length) are known tokens, still to be computed.
  void add(uint64_t sequence, int computed, int length, double now_s, int priority = 0,
           const std::string& user = "");
  // A sequence whose `rows` rows of input an encoder reads first, all in one step; then it has the tokens of
  // positions [0, length) to compute, which may be none. `kind`: of that step.
  void add_input(uint64_t sequence, StepKind kind, int rows, int length, double now_s, int priority = 0,
                 const std::string& user = "");
  // A sequence of [0, length) known tokens whose embedding is wanted, not the next token.
  void add_embedding(uint64_t sequence, int length, double now_s, int priority = 0,
                     const std::string& user = "");
  // A token was sampled and appended: there is one more position to compute.
  void extend(uint64_t sequence);
  void remove(uint64_t sequence);

  // Takes room in the cache for positions [first, first + rows) of a sequence; for how many there was some.
  using Reserve = std::function<int(uint64_t sequence, int first, int rows)>;

  // The next step, or nothing if there is none to send now. The caller numbers it and reports step_done()
  // later. Without `reserve` there is always room.
  std::optional<ScheduledStep> next_step(double now_s, const Reserve& reserve = {});
  // A sequence that had rows to be sent in the last next_step() and found no room: somebody must give some
  // up.
  std::optional<uint64_t> needy() const { return needy_; }
  bool in_flight(uint64_t sequence) const;
  // After next_step() gave nothing: when it may give something although nothing happens until then.
  double wake_s() const { return wake_s_; }
  // `stage_seconds` in pipeline order, empty where unknown.
  void step_done(const ScheduledStep& step, const std::vector<double>& stage_seconds = {},
                 double hops_seconds = 0);

  int steps_in_flight() const { return steps_in_flight_; }
  size_t sequences() const { return sequences_.size(); }
  const PipelineModel& model() const { return model_; }

 private:
  struct Entry {
    uint64_t id;
    int sent;        // positions sent so far
    int length;      // positions known
    double since_s;  // when it arrived
    int priority;
    std::string user;
    int unread = 0;         // rows of its prompt, or input, that have not been sent
    bool decoding = false;  // its prompt has been sent whole
    int in_flight = 0;
    int input_rows = 0;  // still to be sent
    StepKind input_kind = StepKind::kEncode;
    StepKind kind = StepKind::kDecode;  // of its steps otherwise
    bool has_prompt() const { return !decoding && input_rows == 0 && sent < length; }
  };
  // How the decoding sequences are grouped, and what that leaves for prompts.
  struct Grouping {
    int decoding = 0;
    int groups = 0;
    int rows = 0;          // of the largest group
    int steps = 0;         // W
    double bound_s = 0;    // tau: of a step's bottleneck time
    double backlog_s = 0;  // how far issued work may run ahead of the bottleneck
  };
  Grouping grouping();
  double backlog_seconds(double now_s) const;
  void choose_steps(Grouping& grouping, double gap_s, const StepSize& group, int deepest_prompt) const;
  int reserve_rows(const Entry& entry, int rows, const Reserve& reserve);
  void add_others(const Grouping& grouping, double now_s, const Reserve& reserve, ScheduledStep& step);
  void add_inputs(double now_s, ScheduledStep& step);
  void add_embedding_rows(double now_s, const Reserve& reserve, ScheduledStep& step);
  void add_part(Entry& entry, int rows, ScheduledStep& step);
  void add_decode_rows(const Grouping& grouping, const Reserve& reserve, ScheduledStep& step);
  void add_prompt_rows(const Grouping& grouping, double now_s, const Reserve& reserve, ScheduledStep& step);
  std::vector<Entry*> prompts_by_urgency(double now_s, bool inputs);
  int chunk_alone(int rows, int position) const;
  int rows_within(double seconds, const StepSize& beside, int rows, int position) const;
  int steps_alone(const StepSize& chunk) const;

  SchedulerLimits limits_;
  PipelineModel model_;
  std::list<Entry> sequences_;  // by age
  UserShares shares_;
  int steps_in_flight_ = 0;
  int decode_steps_in_flight_ = 0;
  int other_steps_in_flight_ = 0;  // that are not of kind kDecode
  // Of the slowest stage, that steps of another kind took beside texts and that texts have not had since:
  // until then no other such step goes first, so that inputs and embeddings have half of the time at most.
  double owed_s_ = 0;
  int groups_ = 1;                // G as chosen last: kept until another is better by more than kTie
  double bottleneck_free_s_ = 0;  // when the slowest stage will have done all that was sent, as predicted
  double in_flight_s_ = 0;  // of the slowest stage, by all steps in flight, as predicted at their sending
  double wake_s_ = kNever;
  std::optional<uint64_t> needy_;
};

}  // namespace shoal
