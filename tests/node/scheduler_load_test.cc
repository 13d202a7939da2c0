// Whole days of requests in simulated time, through the real admission queue, cache books and scheduler:
// nobody lost, starved or mixed up (simulate() throws where rows or cache contents are), whoever asks,
// however often, and whatever a stage does meanwhile.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include "tests/node/simulated_pipeline.h"

namespace shoal {
namespace {

// An answer is whole unless somebody ended it, and then nothing came after that.
void check_answer(const SimulatedRequest& request, const SimulatedAnswer& answer) {
  const double over_s = std::min(request.cancel_s, request.arrival_s + request.time_s);
  if (!answer.token_s.empty()) CHECK(answer.token_s.back() <= over_s);
  if (answer.late) CHECK(request.time_s < Scheduler::kNever);
  if (answer.cancelled) CHECK(request.cancel_s < Scheduler::kNever);
  if (answer.refused) CHECK(answer.token_s.empty());
  if (!answer.cancelled && !answer.refused && !answer.late) CHECK(answer.whole(request.output));
}

// Of requests that all were answered: from arrival to the first token.
double slowest_first_token_s(const std::vector<SimulatedRequest>& requests, const SimulatedRun& run,
                             const std::string& user) {
  double slowest = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (requests[i].user != user) continue;
    REQUIRE(run.answers[i].whole(requests[i].output));
    slowest = std::max(slowest, run.answers[i].token_s.front() - requests[i].arrival_s);
  }
  return slowest;
}

int tokens_between(const SimulatedRun& run, double begin_s, double end_s) {
  int count = 0;
  for (const SimulatedAnswer& answer : run.answers) {
    for (const double at : answer.token_s) count += at >= begin_s && at < end_s;
  }
  return count;
}

}  // namespace

TEST_CASE("thousands of arrivals, cancels, deadlines and slow stages: nobody is lost, starved or mixed up") {
  int late = 0, cancelled = 0, refused = 0, whole = 0;
  size_t taken_off = 0, reused = 0;
  for (unsigned seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    auto up_to = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    SimulatedHardware hardware;
    hardware.shares.clear();
    for (int stage = 0, stages = 1 + up_to(6); stage < stages; ++stage)
      hardware.shares.push_back(0.1 + 0.1 * up_to(5));
    hardware.hop_s = 1e-4 * (1 + up_to(50));
    const SchedulerLimits limits{.steps_in_flight_max = 1 + up_to(12), .rows_max = 16 << up_to(5)};
    std::vector<SimulatedRequest> requests(200);
    double now = 0;
    for (SimulatedRequest& request : requests) {
      now += 0.01 * up_to(100);
      request = {now, 1 + up_to(up_to(4) == 0 ? 800 : 90), 1 + up_to(up_to(4) == 0 ? 200 : 40)};
      if (up_to(8) == 0) request.cancel_s = now + 0.05 * up_to(100);
      if (up_to(6) == 0) request.time_s = 0.05 * (1 + up_to(200));
      if (up_to(3) == 0) request.common = up_to(100);
      request.priority = up_to(6) == 0;
      request.user = up_to(2) == 0 ? "" : std::string("user ") + static_cast<char>('a' + up_to(4));
    }
    for (int i = 0; i < 6; ++i) {
      const double begin_s = now * 0.01 * up_to(100);
      const auto stage = static_cast<size_t>(up_to(static_cast<int>(hardware.shares.size())));
      hardware.spells.push_back({stage, begin_s, begin_s + 0.1 * (1 + up_to(50)), 2.0 + up_to(20)});
    }
    const SimulatedCache cache{1 + up_to(24), 1024, up_to(3) == 0 ? 0 : 1024 + 32 * up_to(10)};
    AdmissionLimits admission;
    admission.wait_max_s = 10;
    const SimulatedRun run =
        simulate(hardware, limits, hardware.model(0.5 + 0.1 * up_to(15)), requests, cache, admission);
    for (size_t i = 0; i < requests.size(); ++i) {
      const SimulatedAnswer& answer = run.answers[i];
      check_answer(requests[i], answer);
      late += answer.late, cancelled += answer.cancelled, refused += answer.refused;
      whole += answer.whole(requests[i].output);
    }
    taken_off += run.taken_off, reused += run.reused;
  }
  // Each of these was tried often enough to count.
  CHECK(late > 200);
  CHECK(cancelled > 200);
  CHECK(refused > 100);
  CHECK(whole > 4000);
  CHECK(taken_off > 25);
  CHECK(reused > 10'000);
}

TEST_CASE("who asks for much waits for itself; others have their turn with the next free slot") {
  SimulatedHardware hardware;
  hardware.shares.assign(3, 1.0 / 3);
  const SchedulerLimits limits{.steps_in_flight_max = 6, .rows_max = 128};
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < 100; ++i) {
    SimulatedRequest request{0, 20 + i % 30, 40};
    request.user = "greedy";
    requests.push_back(request);
  }
  for (int i = 0; i < 10; ++i) {
    SimulatedRequest request{0.5 + 1.5 * i, 60, 20};
    request.user = "modest";
    requests.push_back(request);
  }
  const SimulatedRun run =
      simulate(hardware, limits, hardware.model(), requests, {.slots = 4, .context = 256});
  const double longest_turn = 3.0;  // 40 tokens of four at once take some 1.5 s
  CHECK(slowest_first_token_s(requests, run, "greedy") > 5 * longest_turn);  // it does fill the pipeline
  CHECK(slowest_first_token_s(requests, run, "modest") < longest_turn);
}

TEST_CASE("one user's urgent prompts, as many as there are places, keep nobody else's unread") {
  SimulatedHardware hardware;
  hardware.shares.assign(2, 0.5);
  const SchedulerLimits limits{.steps_in_flight_max = 4, .rows_max = 128};
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < 150; ++i) {  // each 1.5 s after the last, and it takes 2.4 s to read one
    SimulatedRequest request{1.5 * i, 1500, 1};
    request.user = "urgent";
    request.priority = 3;
    requests.push_back(request);
  }
  for (int i = 0; i < 8; ++i) {
    SimulatedRequest request{20.0 + 20 * i, 12, 4};
    request.user = "modest";
    requests.push_back(request);
  }
  const SimulatedRun run =
      simulate(hardware, limits, hardware.model(), requests, {.slots = 4, .context = 2048});
  // It comes when a place is free, and then after one of the long prompts at most.
  CHECK(slowest_first_token_s(requests, run, "modest") < 3 * 2.5);
  CHECK(slowest_first_token_s(requests, run, "urgent") > 60);
}

TEST_CASE("two who both ask for more than there is get alike") {
  SimulatedHardware hardware;
  const SchedulerLimits limits{.steps_in_flight_max = 2, .rows_max = 128};
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < 120; ++i) {
    SimulatedRequest request{0, 30, 30};
    request.user = i % 6 == 0 ? "seldom" : "often";
    requests.push_back(request);
  }
  const SimulatedRun run =
      simulate(hardware, limits, hardware.model(), requests, {.slots = 4, .context = 128});
  std::vector<std::pair<double, bool>> order;
  for (size_t i = 0; i < requests.size(); ++i)
    order.emplace_back(run.answers[i].admitted_s, requests[i].user == "seldom");
  std::sort(order.begin(), order.end());
  int seldom = 0;
  for (size_t i = 0; i < 36; ++i) seldom += order[i].second;  // as long as both wait
  CHECK(seldom >= 16);
  CHECK(seldom <= 20);
}

TEST_CASE("the urgent go before all who wait, and keep their cache when it is full") {
  SimulatedHardware hardware;
  hardware.shares.assign(2, 0.5);
  const SchedulerLimits limits{.steps_in_flight_max = 4, .rows_max = 128};
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < 80; ++i) {
    SimulatedRequest request{0.01 * i, 60, 120};
    request.user = "any";
    requests.push_back(request);
  }
  for (int i = 0; i < 8; ++i) {
    SimulatedRequest request{2.0 + 3 * i, 60, 60};
    request.user = "urgent";
    request.priority = 1;
    requests.push_back(request);
  }
  const SimulatedRun run =
      simulate(hardware, limits, hardware.model(), requests, {.slots = 8, .context = 256, .cells = 8 * 128});
  CHECK(run.taken_off > 0);
  CHECK(slowest_first_token_s(requests, run, "urgent") < 5);
  CHECK(slowest_first_token_s(requests, run, "any") > 20);
  for (size_t i = 80; i < requests.size(); ++i) CHECK(run.answers[i].taken_off == 0);
}

TEST_CASE("a long prompt gets on beside short ones that come as fast as they can be read") {
  SimulatedHardware hardware;
  hardware.shares.assign(4, 0.25);
  const SchedulerLimits limits{.steps_in_flight_max = 8, .rows_max = 128};
  std::vector<SimulatedRequest> requests;
  SimulatedRequest patient{1, 2000, 4};
  patient.user = "patient";
  requests.push_back(patient);
  for (int i = 0; i < 1200; ++i) {  // 64 rows each 50 ms are about what the stages can do
    SimulatedRequest request{0.05 * i, 64, 1};
    request.user = "short";
    requests.push_back(request);
  }
  const SimulatedRun run =
      simulate(hardware, limits, hardware.model(), requests, {.slots = 64, .context = 2048});
  // Its 2000 rows of 0.8 ms count for nothing after 16 s of waiting (ageing 0.1), and it needs 1.6 s itself.
  CHECK(slowest_first_token_s(requests, run, "patient") < 1.5 * (2000 * 0.8e-3 / 0.1 + 1.6));
}

TEST_CASE("a stage that is slow for two seconds costs what it costs then, and nothing afterwards") {
  for (const size_t stages : {size_t{1}, size_t{2}, size_t{4}, size_t{8}}) {
    CAPTURE(stages);
    SimulatedHardware hardware;
    hardware.shares.assign(stages, 1.0 / static_cast<double>(stages));
    hardware.spells = {{stages / 2, 10, 12, 4}};
    const SchedulerLimits limits{.steps_in_flight_max = 2 * static_cast<int>(stages), .rows_max = 128};
    const std::vector<SimulatedRequest> requests(16, {0, 128, 1500, Scheduler::kNever, true});
    const SimulatedRun run = simulate(hardware, limits, hardware.model(), requests);
    const int before = tokens_between(run, 8, 10), during = tokens_between(run, 10, 12),
              after = tokens_between(run, 12.5, 14.5);
    CHECK(during > 0.2 * before);
    CHECK(after > 0.97 * before);
  }
}

}  // namespace shoal
