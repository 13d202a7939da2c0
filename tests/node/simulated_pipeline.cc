#include "tests/node/simulated_pipeline.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace shoal {
namespace {

class Simulation {
 public:
  Simulation(const SimulatedHardware& hardware, const SchedulerLimits& limits, PipelineModel model,
             const std::vector<SimulatedRequest>& requests, int slots)
      : hardware_(hardware),
        requests_(requests),
        slots_(slots),
        scheduler_(limits, std::move(model)),
        stage_free_(hardware.shares.size()),
        lives_(requests.size()) {
    run_.answers.resize(requests.size());
    run_.busy_s.resize(hardware.shares.size());
    for (size_t i = 0; i < requests.size(); ++i) at(requests[i].arrival_s, Event::kArrival, i);
    for (size_t i = 0; i < requests.size(); ++i) {
      if (requests[i].cancel_s < Scheduler::kNever) at(requests[i].cancel_s, Event::kCancel, i);
    }
  }

  SimulatedRun run() {
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.time;
      if (event.kind == Event::kArrival) waiting_.push_back(event.index);
      if (event.kind == Event::kCancel) cancel(event.index);
      if (event.kind == Event::kDone) done(event.index);
      admit();
      pump();
    }
    if (scheduler_.sequences() > 0 || !waiting_.empty()) throw std::logic_error("work was left lying");
    run_.end_s = now_;
    return std::move(run_);
  }

 private:
  struct Event {
    enum Kind { kArrival, kCancel, kDone, kWake } kind;
    double time;
    uint64_t order;
    size_t index;
    bool operator<(const Event& other) const {
      return time != other.time ? time > other.time : order > other.order;
    }
  };
  struct Life {
    int sent = 0, known = 0, answered = 0;
    bool running = false, over = false;
  };
  struct Flight {
    ScheduledStep step;
    std::vector<double> stage_seconds;
    double hops_s;
  };

  void at(double time, Event::Kind kind, size_t index) { events_.push({kind, time, order_++, index}); }

  void admit() {
    while (running_ < slots_ && !waiting_.empty()) {
      const size_t i = waiting_.front();
      waiting_.pop_front();
      Life& life = lives_[i];
      life.running = true;
      life.known = requests_[i].prompt;
      life.sent = requests_[i].decoding ? requests_[i].prompt - 1 : 0;
      ++running_;
      scheduler_.add(i, life.sent, life.known, now_);
    }
  }

  void cancel(size_t i) {
    if (lives_[i].over) return;
    run_.answers[i].cancelled = true;
    std::erase(waiting_, i);
    end(i);
  }

  void end(size_t i) {
    if (lives_[i].running) --running_, scheduler_.remove(i);
    lives_[i].running = false;
    lives_[i].over = true;
  }

  void pump() {
    while (const auto step = scheduler_.next_step(now_)) send(*step);
    const double wake = scheduler_.wake_s();
    if (wake < wake_at_ || wake_at_ <= now_) {
      wake_at_ = wake;
      if (wake < Scheduler::kNever) at(wake, Event::kWake, 0);
    }
  }

  void send(const ScheduledStep& step) {
    for (const StepPart& part : step.parts) {
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
      const double busy = hardware_.stage_seconds(stage, size);
      time = std::max(time, stage_free_[stage]) + busy;
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
        ++life.known;
        scheduler_.extend(part.sequence);
      }
    }
  }

  const SimulatedHardware& hardware_;
  const std::vector<SimulatedRequest>& requests_;
  const int slots_;
  Scheduler scheduler_;
  std::vector<double> stage_free_;
  std::vector<Life> lives_;
  std::deque<size_t> waiting_;
  std::vector<Flight> flights_;
  std::priority_queue<Event> events_;
  SimulatedRun run_;
  uint64_t order_ = 0;
  int running_ = 0;
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
                      const std::vector<SimulatedRequest>& requests, int slots) {
  return Simulation(hardware, limits, std::move(model), requests, slots).run();
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
