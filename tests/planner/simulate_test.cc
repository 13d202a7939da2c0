#include "planner/simulate.h"

#include <doctest/doctest.h>

#include <cmath>

#include "planner/planner.h"
#include "planner/random_input.h"
#include "planner/service.h"

namespace shoal {
namespace {

// A head and three others; every time a round figure.
PlanInput cluster(double latency_s, double bytes_per_s) {
  PlanInput input;
  ModelProfile& model = input.model;
  model.n_layer = 12;
  model.layer_bytes.assign(12, 100);
  model.layer_kv_bytes.assign(12, 1);
  model.hidden_bytes_per_row = 4096;
  for (int i = 0; i < 4; ++i) {
    DeviceProfile device;
    device.name = "node-" + std::to_string(i);
    device.memory_bytes = 400;
    device.decode_layer = {{1, 1e-3}, {4, 1.2e-3}, {16, 4e-3}};
    device.output_head = {{1, 2e-3}};
    device.prefill_layer_row_seconds = 0.2e-3;
    device.idle_watts = 2, device.busy_watts = 8;
    input.devices.push_back(device);
  }
  input.devices[0].memory_bytes = 500;
  input.links = LinkTable(4, {latency_s, bytes_per_s});
  input.workload.prompt_tokens = 128;
  return input;
}

std::vector<StageAssignment> planned(const PlanInput& input) {
  return make_plan(input).stages;
}

TEST_CASE("one stream alone: the simulation is the closed form") {
  for (const double latency : {0.0, 2e-3}) {
    const PlanInput input = cluster(latency, 5e6);
    const Plan plan = make_plan(input);
    REQUIRE(plan.stages.size() >= 3);
    const SimulationReport report = simulate(input, plan.stages, {{0, 128, 50}}, 1);
    CHECK(report.first_token_seconds.max ==
          doctest::Approx(plan.predicted.first_token_seconds).epsilon(1e-9));
    CHECK(report.seconds_per_token.max == doctest::Approx(plan.predicted.seconds_per_token).epsilon(1e-9));
    CHECK(report.request_seconds.max ==
          doctest::Approx(plan.predicted.first_token_seconds + 49 * plan.predicted.seconds_per_token));
  }
}

TEST_CASE("one stream on random clusters without shared stages") {
  int compared = 0;
  for (unsigned seed = 0; seed < 60; ++seed) {
    PlanInput input = sample::random_input({6, 4, 2.5}, seed);
    input.constraints.keep_on_head = KeepOnHead::kFirstLayer;
    input.workload.prompt_tokens = 64;
    Plan plan;
    try {
      plan = make_plan(input);
    } catch (const SetupError&) {
      continue;
    }
    CAPTURE(seed);
    const SimulationReport report = simulate(input, plan.stages, {{1.5, 64, 20}}, 1);
    CHECK(report.first_token_seconds.max ==
          doctest::Approx(plan.predicted.first_token_seconds).epsilon(1e-6));
    CHECK(report.seconds_per_token.max == doctest::Approx(plan.predicted.seconds_per_token).epsilon(1e-6));
    ++compared;
  }
  CHECK(compared > 30);
}

TEST_CASE("saturated: as many tokens/s as the closed form of groups says") {
  for (const int sequences : {4, 8, 16, 32}) {
    CAPTURE(sequences);
    const PlanInput input = cluster(1e-3, 20e6);
    const std::vector<StageAssignment> stages = planned(input);
    std::vector<SimulatedRequest> requests;
    for (int i = 0; i < sequences; ++i) requests.push_back({0, 1, 2000});
    const SimulationReport report = simulate(input, stages, requests, sequences);
    const ServicePrediction service = predict_service(input, stages, sequences);
    CHECK(report.tokens_per_second == doctest::Approx(service.tokens_per_second).epsilon(0.03));
    CHECK(report.seconds_per_token.p50 == doctest::Approx(service.seconds_per_token).epsilon(0.03));
    CHECK(report.joules_per_token == doctest::Approx(service.joules_per_token).epsilon(0.03));
    CHECK(report.busiest_share <= 1 + 1e-9);
  }
}

TEST_CASE("the same seed gives the same report, another seed another") {
  const PlanInput input = cluster(1e-3, 5e6);
  const std::vector<StageAssignment> stages = planned(input);
  PoissonLoad load;
  load.requests = 60;
  const std::string first = render_simulation(simulate(input, stages, poisson_requests(load), 8));
  CHECK(first == render_simulation(simulate(input, stages, poisson_requests(load), 8)));
  load.seed = 2;
  CHECK(first != render_simulation(simulate(input, stages, poisson_requests(load), 8)));
}

TEST_CASE("every request is served, whatever the load; waiting grows with it") {
  const PlanInput input = cluster(1e-3, 5e6);
  const std::vector<StageAssignment> stages = planned(input);
  double before = 0;
  for (const double rate : {0.05, 1.0, 50.0}) {
    PoissonLoad load;
    load.requests_per_s = rate;
    load.requests = 80;
    load.output_tokens = 40;
    const std::vector<SimulatedRequest> requests = poisson_requests(load);
    const SimulationReport report = simulate(input, stages, requests, 6);
    CHECK(report.requests == 80);
    CHECK(std::isfinite(report.request_seconds.max));
    CHECK(report.first_token_seconds.p50 > 0);
    CHECK(report.first_token_seconds.p95 >= before);
    before = report.first_token_seconds.p95;
    for (const SimulatedPlace& place : report.places) CHECK(place.busy_share <= 1 + 1e-9);
  }
}

TEST_CASE("a device with two stages serves one step at a time") {
  PlanInput input = cluster(1e-3, 5e6);
  input.constraints.keep_on_head = KeepOnHead::kEnds;
  const std::vector<StageAssignment> stages = planned(input);
  REQUIRE(stages.front().device == stages.back().device);
  std::vector<SimulatedRequest> requests(8, {0, 40, 100});
  const SimulationReport report = simulate(input, stages, requests, 8);
  CHECK(report.busiest_share <= 1 + 1e-9);
  CHECK(report.output_tokens == 800);
}

TEST_CASE("Poisson arrivals have the asked mean, and lengths stay within bounds") {
  PoissonLoad load;
  load.requests = 20'000;
  load.requests_per_s = 4;
  const std::vector<SimulatedRequest> requests = poisson_requests(load);
  CHECK(requests.back().arrival_s == doctest::Approx(5000).epsilon(0.03));
  double sum = 0;
  for (const SimulatedRequest& request : requests) {
    CHECK((request.prompt_tokens >= 64 && request.prompt_tokens <= 192));
    sum += request.prompt_tokens;
  }
  CHECK(sum / 20'000 == doctest::Approx(128).epsilon(0.02));
}

TEST_CASE("traces: read, sorted, refused") {
  const auto read = requests_from_trace("# when, prompt, answer\n2.5, 10, 20\r\n0.5,7,3\n\n", "day.csv");
  REQUIRE(read.has_value());
  REQUIRE(read->size() == 2);
  CHECK((*read)[0].arrival_s == 0.5);
  CHECK((*read)[1].output_tokens == 20);
  for (const char* text : {"", "# nothing\n", "1,2\n", "1,2,x\n", "nan,2,3\n", "-1,2,3\n", "1,0,3\n",
                           "1,2,3,4\n", "1,99999999999,3\n"}) {
    CAPTURE(text);
    CHECK(requests_from_trace(text, "day.csv").has_error());
  }
}

TEST_CASE("what cannot be simulated is refused") {
  const PlanInput input = cluster(1e-3, 5e6);
  const std::vector<StageAssignment> stages = planned(input);
  CHECK_THROWS_AS(simulate(input, stages, {}, 1), SetupError);
  CHECK_THROWS_AS(simulate(input, stages, {{0, 1, 1}}, 0), SetupError);
  CHECK_THROWS_AS(simulate(input, stages, {{0, 0, 1}}, 1), SetupError);
  CHECK_THROWS_AS(simulate(input, stages, {{2, 1, 1}, {1, 1, 1}}, 1), SetupError);
  CHECK_THROWS_AS(simulate(input, stages, {{0, 1, 2'000'000'000}}, 1), SetupError);
}

}  // namespace
}  // namespace shoal
