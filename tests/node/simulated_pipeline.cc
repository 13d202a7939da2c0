#include "tests/node/simulated_pipeline.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace shoal {
namespace {

class Simulation {
 public:
  Simulation(const SimulatedHardware& hardware, const SchedulerLimits& limits, PipelineModel model,
             const std::vector<SimulatedRequest>& requests, const SimulatedCache& cache,
             const AdmissionLimits& admission)
      : hardware_(hardware),
        requests_(requests),
        cache_(cache.slots, cache.context, cache.cells),
        stage_cache_(ModelConfig{}, 0, 0, cache.context, cache.slots, KvType::kF16, cache.cells),
        held_(static_cast<size_t>(cache.slots)),
        queue_(admission),
        scheduler_(limits, std::move(model)),
        stage_free_(hardware.shares.size()),
        lives_(requests.size()) {
    run_.answers.resize(requests.size());
    run_.busy_s.resize(hardware.shares.size());
    for (size_t i = 0; i < requests.size(); ++i) at(requests[i].arrival_s, Event::kArrival, i);
    for (size_t i = 0; i < requests.size(); ++i) {
      if (requests[i].cancel_s < Scheduler::kNever) at(requests[i].cancel_s, Event::kCancel, i);
      if (requests[i].time_s < Scheduler::kNever) at(deadline_s(i), Event::kDeadline, i);
    }
  }

  SimulatedRun run() {
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.time;
      if (event.kind == Event::kArrival) arrive(event.index);
      if (event.kind == Event::kCancel) cancel(event.index);
      if (event.kind == Event::kDeadline) give_up(event.index);
      if (event.kind == Event::kDone) done(event.index);
      admit();
      pump();
    }
    if (scheduler_.sequences() > 0 || queue_.size() > 0 || taken_off_ > 0)
      throw std::logic_error("work was left lying");
    run_.end_s = now_;
    return std::move(run_);
  }

 private:
  struct Event {
    enum Kind { kArrival, kCancel, kDeadline, kDone, kWake } kind;
    double time;
    uint64_t order;
    size_t index;
    bool operator<(const Event& other) const {
      return time != other.time ? time > other.time : order > other.order;
    }
  };
  struct Life {
    int sent = 0, known = 0, answered = 0;
    int slot = -1;
    bool waiting = false, running = false, taken_off = false, over = false;
  };
  struct Flight {
    ScheduledStep step;
    std::vector<double> stage_seconds;
    double hops_s;
  };

  void at(double time, Event::Kind kind, size_t index) { events_.push({kind, time, order_++, index}); }

  // No two requests have a token alike, but for their common beginnings.
  int32_t token(size_t i, int position) const {
    return position < requests_[i].common ? position : static_cast<int32_t>(i) * 4096 + position;
  }

  std::vector<int32_t> tokens_of(size_t i, int length) const {
    std::vector<int32_t> tokens;
    for (int position = 0; position < length; ++position) tokens.push_back(token(i, position));
    return tokens;
  }

  double deadline_s(size_t i) const { return requests_[i].arrival_s + requests_[i].time_s; }

  double row_seconds() const { return scheduler_.model().bottleneck_seconds({32, 0}) / 32; }

  void arrive(size_t i) {
    const SimulatedRequest& request = requests_[i];
    lives_[i].known = request.prompt;
    const Result<void> queued = queue_.offer(
        {i, request.user, request.priority, request.prompt, now_, deadline_s(i), 1, false, request.output},
        row_seconds());
    lives_[i].waiting = queued.has_value();
    run_.answers[i].refused = lives_[i].over = queued.has_error();
  }

  // First those who were taken off, in their order.
  void admit() {
    while (readmit()) {
      const std::optional<uint64_t> next = queue_.next(now_, row_seconds());
      if (!next || !begin(*next)) return;
      queue_.take(*next);
      lives_[*next].waiting = false;
      run_.answers[*next].admitted_s = now_;
    }
  }

  // Whether there was room for it.
  bool begin(size_t i) {
    Life& life = lives_[i];
    const CacheSlots::Prefix prefix = cache_.best_prefix(tokens_of(i, life.known), requests_[i].user);
    if (prefix.slot < 0 || !cache_.has_room(prefix, life.known)) return false;
    cache_.take(prefix, requests_[i].user, life.known);
    life.running = true;
    life.slot = prefix.slot;
    life.sent = prefix.length;
    run_.reused += static_cast<size_t>(prefix.length);
    if (requests_[i].decoding && life.answered == 0) start_decoding(i);
    scheduler_.add(i, life.sent, life.known, now_, requests_[i].priority, requests_[i].user);
    return true;
  }

  // As if its prompt had been computed long ago.
  void start_decoding(size_t i) {
    Life& life = lives_[i];
    apply(cache_.take_ops());
    const int rows = life.known - 1 - life.sent;
    if (cache_.reserve(life.slot, life.sent, rows) != rows ||
        stage_cache_.extend(life.slot, rows).has_error())
      throw std::logic_error("a prompt that was there before does not fit the cache");
    for (; life.sent < life.known - 1; ++life.sent) hold(i, life.sent);
  }

  // Those that run and those taken off, as they rank.
  std::vector<Resident> residents() const {
    std::vector<Resident> all;
    for (size_t i = 0; i < lives_.size(); ++i) {
      const Life& life = lives_[i];
      if (!life.running && !life.taken_off) continue;
      all.push_back({i, requests_[i].user, requests_[i].priority, life.running, scheduler_.in_flight(i)});
    }
    return by_rank(std::move(all));
  }

  bool take_one_off(size_t needy) {
    const std::optional<uint64_t> chosen = victim(residents(), needy);
    if (!chosen) return false;
    leave(*chosen);
    lives_[*chosen].taken_off = true;
    ++taken_off_;
    ++run_.taken_off;
    ++run_.answers[*chosen].taken_off;
    return true;
  }

  // The first in rank of those taken off goes on first; whether none is left.
  bool readmit() {
    if (taken_off_ == 0) return true;
    for (const Resident& resident : residents()) {
      if (resident.holds) continue;
      if (!begin(resident.id)) return false;
      lives_[resident.id].taken_off = false;
      --taken_off_;
    }
    return true;
  }

  void leave(size_t i) {
    scheduler_.remove(i);
    cache_.give_back(lives_[i].slot);
    lives_[i].running = false;
  }

  void cancel(size_t i) {
    if (lives_[i].over) return;
    run_.answers[i].cancelled = true;
    end(i);
  }

  // Its deadline has passed. What waits leaves the queue by itself.
  void give_up(size_t i) {
    for (const uint64_t late : queue_.expire(now_)) run_.answers[late].late = lives_[late].over = true;
    if (lives_[i].over) return;
    run_.answers[i].late = true;
    end(i);
  }

  void end(size_t i) {
    Life& life = lives_[i];
    if (life.running) leave(i);
    if (life.waiting) {
      queue_.remove(i);
    } else {
      queue_.ended(requests_[i].user, now_, static_cast<int>(run_.answers[i].token_s.size()));
      taken_off_ -= life.taken_off;
      life.taken_off = false;
    }
    life.over = true;
  }

  void pump() {
    const Scheduler::Reserve reserve = [this](uint64_t id, int first, int rows) {
      return cache_.reserve(lives_[id].slot, first, rows);
    };
    while (true) {
      const auto step = scheduler_.next_step(now_, reserve);
      if (step) {
        send(*step);
      } else if (!scheduler_.needy() || !take_one_off(*scheduler_.needy())) {
        break;
      }
    }
    const double wake = scheduler_.wake_s();
    if (wake < wake_at_ || wake_at_ <= now_) {
      wake_at_ = wake;
      if (wake < Scheduler::kNever) at(wake, Event::kWake, 0);
    }
  }

  // What a stage does with its cache.
  void apply(const std::vector<CacheOp>& ops) {
    for (const CacheOp& op : ops) {
      if (op.kind == CacheOpKind::kFork && stage_cache_.fork(op.from_slot, op.slot, op.length).has_error())
        throw std::logic_error("a fork of what a stage does not hold");
      if (op.kind == CacheOpKind::kTrim) stage_cache_.trim(op.slot, op.length);
      std::vector<int32_t>& held = held_[static_cast<size_t>(op.slot)];
      if (op.kind == CacheOpKind::kFork) held = held_[static_cast<size_t>(op.from_slot)];
      const int length = op.kind == CacheOpKind::kFree ? 0 : op.length;
      held.resize(std::min(held.size(), static_cast<size_t>(length)));
    }
  }

  void hold(size_t i, int position) {
    cache_.hold(lives_[i].slot, position, token(i, position));
    held_[static_cast<size_t>(lives_[i].slot)].push_back(token(i, position));
  }

  // A stage computes with what its slot holds: that must be the sequence's own tokens.
  void check_held(size_t i, int length) const {
    const std::vector<int32_t>& held = held_[static_cast<size_t>(lives_[i].slot)];
    if (held.size() != static_cast<size_t>(length)) throw std::logic_error("a slot of another length");
    for (int position = 0; position < length; ++position) {
      if (held[static_cast<size_t>(position)] != token(i, position))
        throw std::logic_error("a slot that holds another sequence's tokens");
    }
  }

  void store(const StepPart& part) {
    const int slot = lives_[part.sequence].slot;
    if (stage_cache_.length(slot) < part.first_position)
      throw std::logic_error("rows beyond what a stage's slot holds");
    stage_cache_.trim(slot, part.first_position);
    std::vector<int32_t>& held = held_[static_cast<size_t>(slot)];
    held.resize(std::min(held.size(), static_cast<size_t>(part.first_position)));
    check_held(part.sequence, part.first_position);
    if (stage_cache_.extend(slot, part.rows).has_error())
      throw std::logic_error("a stage has no page for the rows it was sent");
    for (int i = 0; i < part.rows; ++i) hold(part.sequence, part.first_position + i);
  }

  void send(const ScheduledStep& step) {
    apply(cache_.take_ops());
    for (const StepPart& part : step.parts) {
      store(part);
      Life& life = lives_[part.sequence];
      if (!life.running || part.first_position != life.sent || part.rows < 1)
        throw std::logic_error("a part that does not follow what was sent before");
      life.sent += part.rows;
      if (life.sent > life.known || part.wants_logits != (life.sent == life.known))
        throw std::logic_error("a part beyond what is known, or logits at the wrong row");
    }
    const StepSize size = step.size();
    Flight flight{step, {}, 0};
    double time = now_;
    for (size_t stage = 0; stage < stage_free_.size(); ++stage) {
      time += hop(size, flight);
      const double begin = std::max(time, stage_free_[stage]);
      double busy = hardware_.stage_seconds(stage, size);
      for (const SimulatedHardware::Spell& spell : hardware_.spells) {
        if (spell.stage == stage && begin >= spell.begin_s && begin < spell.end_s) busy *= spell.factor;
      }
      time = begin + busy;
      stage_free_[stage] = time;
      run_.busy_s[stage] += busy;
      flight.stage_seconds.push_back(busy);
    }
    time += hop({1, 0}, flight);
    ++run_.steps;
    flights_.push_back(std::move(flight));
    at(time, Event::kDone, flights_.size() - 1);
  }

  double hop(const StepSize& size, Flight& flight) const {
    const double seconds = hardware_.hop_s + hardware_.hop_row_s * size.rows;
    flight.hops_s += seconds;
    return seconds;
  }

  void done(size_t index) {
    const Flight& flight = flights_[index];
    scheduler_.step_done(flight.step, flight.stage_seconds, flight.hops_s);
    for (const StepPart& part : flight.step.parts) {
      Life& life = lives_[part.sequence];
      if (!life.running || !part.wants_logits) continue;
      run_.answers[part.sequence].token_s.push_back(now_);
      if (++life.answered == requests_[part.sequence].output) {
        end(part.sequence);
      } else {
        cache_.grow(life.slot, ++life.known);
        scheduler_.extend(part.sequence);
      }
    }
  }

  const SimulatedHardware& hardware_;
  const std::vector<SimulatedRequest>& requests_;
  CacheSlots cache_;
  KvCache stage_cache_;
  std::vector<std::vector<int32_t>> held_;  // by slot: the tokens whose K and V the stages keep
  AdmissionQueue queue_;
  Scheduler scheduler_;
  std::vector<double> stage_free_;
  std::vector<Life> lives_;
  int taken_off_ = 0;  // how many are to be computed again
  std::vector<Flight> flights_;
  std::priority_queue<Event> events_;
  SimulatedRun run_;
  uint64_t order_ = 0;
  double now_ = 0, wake_at_ = 0;
};

}  // namespace

double SimulatedHardware::stage_seconds(size_t stage, const StepSize& size) const {
  return shares[stage] * (std::max(flat_s, row_s * size.rows) + attention_s * size.positions) + overhead_s;
}

PipelineModel SimulatedHardware::model(double error) const {
  std::vector<StageModel> stages;
  for (size_t stage = 0; stage < shares.size(); ++stage) {
    std::array<double, StageModel::kRows.size()> seconds;
    for (size_t i = 0; i < seconds.size(); ++i)
      seconds[i] = error * stage_seconds(stage, {StageModel::kRows[i], 0});
    stages.emplace_back(seconds);
  }
  const auto hops = static_cast<double>(shares.size() + 1);
  return PipelineModel(std::move(stages), hops * hop_s, hops * hop_row_s);
}

SimulatedRun simulate(const SimulatedHardware& hardware, const SchedulerLimits& limits, PipelineModel model,
                      const std::vector<SimulatedRequest>& requests, const SimulatedCache& cache,
                      const AdmissionLimits& admission) {
  return Simulation(hardware, limits, std::move(model), requests, cache, admission).run();
}

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())))];
}

std::vector<double> token_gaps(const SimulatedAnswer& answer) {
  std::vector<double> gaps;
  for (size_t i = 1; i < answer.token_s.size(); ++i)
    gaps.push_back(answer.token_s[i] - answer.token_s[i - 1]);
  return gaps;
}

}  // namespace shoal
