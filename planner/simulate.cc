#include "planner/simulate.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <queue>
#include <tuple>

#include "base/check.h"
#include "planner/cost_model.h"
#include "planner/planner.h"
#include "planner/service.h"

namespace shoal {
namespace {

constexpr int kSmallestChunkRows = 4;  // prompts always make progress

struct SequenceState {
  const SimulatedRequest* request = nullptr;
  int prompt_sent = 0;
  int tokens = 0;
  double first_token_s = -1;
  double done_s = -1;
};

struct Step {
  std::vector<int> decode;  // sequences that get a token from it
  int prompt_of = -1;       // the sequence whose prompt rows ride along
  int prompt_rows = 0;
  bool prompt_ends = false;
  int rows() const { return static_cast<int>(decode.size()) + prompt_rows; }
  int results() const { return static_cast<int>(decode.size()) + (prompt_ends ? 1 : 0); }
};

struct Event {
  double at;
  int64_t order;  // events of one time in the order they were made
  enum Kind { kRequest, kAtStage, kComputed, kHome } kind;
  int step;   // or the request
  int stage;  // of the pipeline
};

struct Later {
  bool operator()(const Event& a, const Event& b) const {
    return std::tie(a.at, a.order) > std::tie(b.at, b.order);
  }
};

// What serves one step at a time.
struct Place {
  double free_at = 0;
  double busy_s = 0;
  int64_t steps = 0;
  uint64_t bytes = 0;
  double serve(double now, double seconds) {
    free_at = std::max(now, free_at) + seconds;
    busy_s += seconds;
    ++steps;
    return free_at;
  }
};

class Simulation {
 public:
  Simulation(const PlanInput& input, const std::vector<StageAssignment>& stages,
             const std::vector<SimulatedRequest>& requests, int sequences)
      : input_(input), stages_(stages), requests_(requests), places_left_(sequences), cost_(input) {}

  SimulationReport run() {
    sequences_.resize(requests_.size());
    for (size_t i = 0; i < requests_.size(); ++i) {
      sequences_[i].request = &requests_[i];
      push(requests_[i].arrival_s, Event::kRequest, static_cast<int>(i), 0);
    }
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      handle(event);
    }
    return report();
  }

 private:
  void push(double at, Event::Kind kind, int step, int stage) {
    events_.push({at, next_order_++, kind, step, stage});
  }

  void handle(const Event& event) {
    switch (event.kind) {
      case Event::kRequest:
        waiting_.push_back(event.step);
        form_steps(event.at);
        return;
      case Event::kAtStage: {
        Place& device = devices_[stages_[static_cast<size_t>(event.stage)].device];
        const double seconds = stage_seconds(steps_[static_cast<size_t>(event.step)], event.stage);
        push(device.serve(event.at, seconds), Event::kComputed, event.step, event.stage);
        return;
      }
      case Event::kComputed:
        send(event.at, event.step, event.stage + 1);
        return;
      case Event::kHome:
        come_home(event.at, event.step);
        form_steps(event.at);
        return;
    }
  }

  uint64_t message_bytes(const Step& step, int to_stage) const {
    const ModelProfile& model = input_.model;
    if (to_stage == 0) return model.token_bytes_per_row * static_cast<uint64_t>(step.rows());
    if (to_stage < static_cast<int>(stages_.size()))
      return model.hidden_bytes_per_row * static_cast<uint64_t>(step.rows());
    return model.result_bytes_per_row * static_cast<uint64_t>(step.results());
  }

  int device_before(int stage) const {
    return stage == 0 ? input_.constraints.head : stages_[static_cast<size_t>(stage - 1)].device;
  }
  int device_at(int stage) const {
    return stage < static_cast<int>(stages_.size()) ? stages_[static_cast<size_t>(stage)].device
                                                    : input_.constraints.head;
  }

  // Over the link to a stage; past the last stage it is the way home.
  void send(double now, int step, int to_stage) {
    const int from = device_before(to_stage), to = device_at(to_stage);
    double arrival = now;
    if (from != to) {
      const uint64_t bytes = message_bytes(steps_[static_cast<size_t>(step)], to_stage);
      const double occupied = cost_.occupancy_seconds(from, to, bytes);
      SHOAL_CHECK(occupied != kUnusable);
      Place& link = links_[{from, to}];
      link.bytes += bytes;
      arrival = link.serve(now, occupied) + input_.links.at(from, to).latency_s;
    }
    const bool home = to_stage == static_cast<int>(stages_.size());
    push(arrival, home ? Event::kHome : Event::kAtStage, step, to_stage);
  }

  double stage_seconds(const Step& step, int stage) const {
    const StageAssignment& at = stages_[static_cast<size_t>(stage)];
    double seconds = 0;
    if (!step.decode.empty())
      seconds += cost_.compute_seconds(at.device, unit_range(at), static_cast<int>(step.decode.size()));
    if (step.prompt_rows > 0) seconds += cost_.prefill_seconds(at.device, unit_range(at), step.prompt_rows);
    return seconds;
  }

  // A step with nothing else about: its time at the busiest place, and its lap.
  std::pair<double, double> alone(const Step& step) const {
    std::map<int, double> load;
    double busiest = 0, lap = 0;
    for (int stage = 0; stage <= static_cast<int>(stages_.size()); ++stage) {
      const int from = device_before(stage), to = device_at(stage);
      const uint64_t bytes = message_bytes(step, stage);
      lap += cost_.message_seconds(from, to, bytes);
      busiest = std::max(busiest, cost_.occupancy_seconds(from, to, bytes));
      if (stage == static_cast<int>(stages_.size())) break;
      const double seconds = stage_seconds(step, stage);
      lap += seconds;
      busiest = std::max(busiest, load[to] += seconds);
    }
    return {busiest, lap};
  }

  int groups_for(int sequences) {
    const auto [entry, fresh] = groups_.try_emplace(sequences, 1);
    if (fresh) entry->second = predict_service(input_, stages_, sequences).groups;
    return entry->second;
  }

  // Prompt rows that may ride beside `step`'s decode rows, or go alone while others decode.
  int chunk_rows(Step step, int remaining, double time_max) const {
    for (int rows = kPrefillChunkRows; rows > kSmallestChunkRows; rows /= 2) {
      step.prompt_rows = std::min(rows, remaining);
      if (alone(step).first <= time_max) return step.prompt_rows;
    }
    return std::min(kSmallestChunkRows, remaining);
  }

  struct Chunk {
    int rows, in_flight;
  };
  // How a request's prompt is read where nothing else is about.
  Chunk chunk_alone(int request) {
    const int prompt = requests_[static_cast<size_t>(request)].prompt_tokens;
    const auto [entry, fresh] = chunks_.try_emplace(prompt, Chunk{1, 1});
    if (fresh) {
      Step step;
      step.prompt_rows = entry->second.rows = read_prompt(input_, cost_, stages_, prompt).chunk_rows;
      const auto [busiest, lap] = alone(step);
      if (busiest > 0) entry->second.in_flight = static_cast<int>(std::ceil(lap / busiest)) + 1;
    }
    return entry->second;
  }

  void admit() {
    while (places_left_ > 0 && !waiting_.empty()) {
      reading_.push_back(waiting_.front());
      waiting_.pop_front();
      --places_left_;
    }
  }

  void add_prompt(Step& step, int rows) {
    SequenceState& sequence = sequences_[static_cast<size_t>(reading_.front())];
    step.prompt_of = reading_.front();
    step.prompt_rows = rows;
    sequence.prompt_sent += rows;
    step.prompt_ends = sequence.prompt_sent == sequence.request->prompt_tokens;
    if (step.prompt_ends) reading_.pop_front();
  }

  int prompt_left() const {
    if (reading_.empty()) return 0;
    const SequenceState& sequence = sequences_[static_cast<size_t>(reading_.front())];
    return sequence.request->prompt_tokens - sequence.prompt_sent;
  }

  void start(double now, Step step) {
    ++in_flight_;
    if (!step.decode.empty()) ++decode_in_flight_;
    ++steps_begun_;
    int index = static_cast<int>(steps_.size());
    if (free_steps_.empty()) {
      steps_.push_back(std::move(step));
    } else {
      index = free_steps_.back();
      free_steps_.pop_back();
      steps_[static_cast<size_t>(index)] = std::move(step);
    }
    send(now, index, 0);
  }

  void form_steps(double now) {
    admit();
    const int groups = decoding_ > 0 ? groups_for(decoding_) : 1;
    const int group_rows = (decoding_ + groups - 1) / groups;
    while (!ready_.empty() && decode_in_flight_ < groups) {
      Step step;
      while (!ready_.empty() && static_cast<int>(step.decode.size()) < group_rows) {
        step.decode.push_back(ready_.front());
        ready_.pop_front();
      }
      if (const int left = prompt_left(); left > 0)
        add_prompt(step, chunk_rows(step, left, 2 * alone(step).first));
      start(now, std::move(step));
    }
    while (prompt_left() > 0 && in_flight_ < std::max(groups, chunk_alone(reading_.front()).in_flight)) {
      Step step;
      int rows = std::min(chunk_alone(reading_.front()).rows, prompt_left());
      if (decoding_ > 0) {
        Step own;
        own.decode.assign(static_cast<size_t>(group_rows), 0);
        rows = chunk_rows(step, rows, 2 * alone(own).first);
      }
      add_prompt(step, rows);
      start(now, std::move(step));
    }
  }

  void come_home(double now, int index) {
    const Step step = std::move(steps_[static_cast<size_t>(index)]);
    free_steps_.push_back(index);
    --in_flight_;
    if (!step.decode.empty()) --decode_in_flight_;
    for (int sequence : step.decode) token(now, sequence);
    if (step.prompt_ends) {
      ++decoding_;
      sequences_[static_cast<size_t>(step.prompt_of)].first_token_s = now;
      token(now, step.prompt_of);
    }
  }

  void token(double now, int index) {
    SequenceState& sequence = sequences_[static_cast<size_t>(index)];
    if (++sequence.tokens < sequence.request->output_tokens) {
      ready_.push_back(index);
      return;
    }
    sequence.done_s = now;
    --decoding_;
    ++places_left_;
  }

  SimulationReport report() const;

  const PlanInput& input_;
  const std::vector<StageAssignment>& stages_;
  const std::vector<SimulatedRequest>& requests_;
  int places_left_;
  CostModel cost_;
  std::priority_queue<Event, std::vector<Event>, Later> events_;
  int64_t next_order_ = 0;
  std::vector<Step> steps_;  // in flight, and places to use again
  std::vector<int> free_steps_;
  int64_t steps_begun_ = 0;
  std::vector<SequenceState> sequences_;
  std::deque<int> waiting_, reading_, ready_;
  std::map<int, Place> devices_;
  std::map<std::pair<int, int>, Place> links_;
  std::map<int, int> groups_;    // by sequences
  std::map<int, Chunk> chunks_;  // by prompt tokens
  int in_flight_ = 0, decode_in_flight_ = 0, decoding_ = 0;
};

Percentiles percentiles(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto at = [&](double p) {  // nearest rank
    const auto rank = static_cast<size_t>(std::ceil(p * static_cast<double>(values.size())));
    return values[std::max<size_t>(rank, 1) - 1];
  };
  return {at(0.5), at(0.95), at(0.99), values.back()};
}

SimulationReport Simulation::report() const {
  SimulationReport report;
  report.requests = static_cast<int>(requests_.size());
  report.steps = steps_begun_;
  std::vector<double> first, pace, whole;
  double end = requests_.front().arrival_s;
  for (const SequenceState& sequence : sequences_) {
    const SimulatedRequest& request = *sequence.request;
    first.push_back(sequence.first_token_s - request.arrival_s);
    whole.push_back(sequence.done_s - request.arrival_s);
    if (request.output_tokens > 1)
      pace.push_back((sequence.done_s - sequence.first_token_s) / (request.output_tokens - 1));
    end = std::max(end, sequence.done_s);
    report.prompt_tokens += request.prompt_tokens;
    report.output_tokens += request.output_tokens;
  }
  report.first_token_seconds = percentiles(std::move(first));
  report.seconds_per_token = percentiles(std::move(pace));
  report.request_seconds = percentiles(std::move(whole));
  report.seconds = end - requests_.front().arrival_s;
  const double seconds = std::max(report.seconds, 1e-12);
  report.tokens_per_second = static_cast<double>(report.output_tokens) / seconds;
  bool known = true;
  const auto name = [&](int device) { return input_.devices[static_cast<size_t>(device)].name; };
  for (const auto& [device, place] : devices_) {
    const DeviceProfile& profile = input_.devices[static_cast<size_t>(device)];
    report.places.push_back({name(device), false, place.busy_s / seconds, place.steps, 0});
    known = known && profile.busy_watts > 0;
    report.joules += profile.idle_watts * seconds + (profile.busy_watts - profile.idle_watts) * place.busy_s;
  }
  for (const auto& [ends, place] : links_)
    report.places.push_back({name(ends.first) + " -> " + name(ends.second), true, place.busy_s / seconds,
                             place.steps, place.bytes});
  for (const SimulatedPlace& place : report.places)
    report.busiest_share = std::max(report.busiest_share, place.busy_share);
  if (!known) report.joules = 0;
  report.joules_per_token = report.joules / static_cast<double>(report.output_tokens);
  return report;
}

}  // namespace

SimulationReport simulate(const PlanInput& input, const std::vector<StageAssignment>& stages,
                          const std::vector<SimulatedRequest>& requests, int sequences) {
  int64_t tokens = 0;
  double last = 0;
  for (const SimulatedRequest& request : requests) {
    if (request.prompt_tokens < 1 || request.output_tokens < 1 || !(request.arrival_s >= last) ||
        !std::isfinite(request.arrival_s))
      throw SetupError(
          "simulate: a request needs at least 1 prompt and 1 output token, and arrivals in order");
    last = request.arrival_s;
    tokens += int64_t{request.prompt_tokens} + request.output_tokens;
  }
  if (requests.empty() || requests.size() > static_cast<size_t>(kSimulatedRequestsMax) ||
      tokens > kSimulatedTokensMax)
    throw SetupError("simulate: 1 to " + std::to_string(kSimulatedRequestsMax) + " requests of " +
                     std::to_string(kSimulatedTokensMax) + " tokens in all can be simulated");
  if (sequences < 1) throw SetupError("simulate: at least 1 sequence must have a place");
  const std::string why = why_infeasible(input, stages);
  if (!why.empty()) throw SetupError("simulate: " + why);
  return Simulation(input, stages, requests, sequences).run();
}

}  // namespace shoal
