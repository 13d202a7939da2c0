#include "planner/planner.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/units.h"
#include "planner/privacy.h"
#include "planner/random_input.h"
#include "tests/planner/try_plan.h"
#include "tests/support/mentions.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
#define SHOAL_SLOW_BUILD 1
#else
#define SHOAL_SLOW_BUILD 0
#endif

namespace shoal {
namespace {

using test::mentions;

std::string error_of(const PlanInput& input) {
  try {
    make_plan(input);
  } catch (const SetupError& error) {
    return error.what();
  }
  return "";
}

// Three nodes, ten layers of 100 MiB; the head is small and slow.
PlanInput small_cluster() {
  constexpr uint64_t kMiB = 1 << 20;
  PlanInput input;
  ModelProfile& model = input.model;
  model.name = "tiny";
  model.n_layer = 10;
  model.n_embd = 512;
  model.embedding_bytes = 50 * kMiB;
  model.output_bytes = 50 * kMiB;
  model.layer_bytes.assign(10, 100 * kMiB);
  model.layer_kv_bytes.assign(10, 10 * kMiB);
  model.scratch_bytes = 5 * kMiB;
  model.base_bytes = 20 * kMiB;
  model.hidden_bytes_per_row = 2048;
  const char* names[] = {"laptop", "pi-1", "pi-2"};
  for (int i = 0; i < 3; ++i) {
    DeviceProfile device;
    device.name = names[i];
    device.memory_bytes = 700 * kMiB;
    device.decode_layer = {{1, 1e-3 * (i + 1)}, {8, 2e-3 * (i + 1)}};
    device.output_head = {{1, 1e-3}};
    device.prefill_layer_row_seconds = 1e-4;
    input.devices.push_back(device);
  }
  input.links = LinkTable(3, {1e-3, 1e7});
  return input;
}

PlanInput permuted(const PlanInput& input, const std::vector<int>& to_old) {
  PlanInput other = input;
  const auto n = static_cast<int>(to_old.size());
  for (int a = 0; a < n; ++a) {
    other.devices[static_cast<size_t>(a)] =
        input.devices[static_cast<size_t>(to_old[static_cast<size_t>(a)])];
    if (to_old[static_cast<size_t>(a)] == input.constraints.head) other.constraints.head = a;
    for (int b = 0; b < n; ++b)
      other.links.set(a, b, input.links.at(to_old[static_cast<size_t>(a)], to_old[static_cast<size_t>(b)]));
  }
  return other;
}

TEST_CASE("plans hold every layer once, fit memory, and do not depend on the devices' order") {
  int planned = 0;
  for (unsigned seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    sample::InputShape shape{4 + static_cast<int>(seed % 12), 2 + static_cast<int>(seed % 7),
                             1.2 + 0.2 * (seed % 6)};
    shape.missing_links = seed % 3 == 0;
    PlanInput input = sample::random_input(shape, seed + 50'000);
    input.objective = seed % 2 ? Objective::kLatency : Objective::kThroughput;
    const auto plan = try_plan(input);
    std::vector<int> to_old(input.devices.size());
    std::iota(to_old.begin(), to_old.end(), 0);
    std::shuffle(to_old.begin(), to_old.end(), std::mt19937(seed));
    const auto relabelled = try_plan(permuted(input, to_old));
    CHECK(plan.has_value() == relabelled.has_value());
    if (!plan) continue;
    ++planned;
    CHECK(objective_of(input, *relabelled) == doctest::Approx(objective_of(input, *plan)).epsilon(1e-9));
    std::vector<int> held(static_cast<size_t>(input.model.n_layer), 0);
    for (const StageAssignment& stage : plan->stages)
      for (int i = stage.layer_begin; i < stage.layer_end; ++i) ++held[static_cast<size_t>(i)];
    CHECK(std::all_of(held.begin(), held.end(), [](int times) { return times == 1; }));
    for (size_t d = 0; d < input.devices.size(); ++d)
      CHECK(device_memory(plan->stages, static_cast<int>(d)).total() <= input.devices[d].memory_bytes);
    CHECK(plan->reasons.size() == input.devices.size());
    CHECK(mentions(render_explanation(input, *plan), "bottleneck"));
  }
  CHECK(planned > 100);
}

TEST_CASE("another device never makes the objective worse") {
  int compared = 0;
  for (unsigned seed = 0; seed < 150; ++seed) {
    CAPTURE(seed);
    PlanInput input = sample::random_input({6, 2 + static_cast<int>(seed % 5), 1.8}, seed + 90'000);
    input.objective = seed % 2 ? Objective::kLatency : Objective::kThroughput;
    const int extra = static_cast<int>(input.devices.size()) - 1;
    if (input.constraints.head == extra) continue;
    PlanInput without = input;
    without.constraints.excluded = {extra};
    const auto fewer = try_plan(without), more = try_plan(input);
    if (!fewer) continue;
    REQUIRE(more.has_value());
    CHECK(objective_of(input, *more) <= objective_of(input, *fewer) * (1 + 1e-9));
    ++compared;
  }
  CHECK(compared > 40);
}

TEST_CASE("JSON: a plan and a profile come back, canonical text is the decision") {
  for (unsigned seed = 0; seed < 40; ++seed) {
    const PlanInput input = sample::random_input({5, 4, 3}, seed + 3);
    const auto plan = try_plan(input);
    if (!plan) continue;
    const Result<Plan> back = plan_from_json(plan_to_json(*plan));
    REQUIRE_MESSAGE(back.has_value(), back.error().message);
    CHECK(canonical_plan_text(*back) == canonical_plan_text(*plan));
    CHECK(back->reasons == plan->reasons);
    CHECK(back->predicted.seconds_per_token ==
          doctest::Approx(plan->predicted.seconds_per_token).epsilon(1e-12));
    for (size_t i = 0; i < plan->stages.size(); ++i) CHECK(back->stages[i].memory == plan->stages[i].memory);
    const Result<DeviceProfile> device = device_profile_from_json(device_profile_to_json(input.devices[0]));
    REQUIRE(device.has_value());
    CHECK(device->memory_bytes == input.devices[0].memory_bytes);
    CHECK(device->decode_layer.size() == input.devices[0].decode_layer.size());
  }
}

TEST_CASE("JSON: hostile text is refused") {
  const PlanInput input = small_cluster();
  const std::string good = plan_to_json(make_plan(input));
  REQUIRE(plan_from_json(good).has_value());
  for (size_t size = 0; size < good.size(); size += 7)
    CHECK(plan_from_json(good.substr(0, size)).has_error());
  CHECK(plan_from_json(std::string(100'000, '[')).has_error());
  CHECK(plan_from_json(std::string(kPlanJsonBytesMax + 1, ' ')).has_error());
  CHECK(plan_from_json("null").has_error());
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    return plan_from_json(text.replace(at, from.size(), to));
  };
  CHECK(changed("\"layer_begin\":0", "\"layer_begin\":1").has_error());
  CHECK(changed("\"layer_end\":", "\"layer_end\":9").has_error());
  CHECK(changed("\"device\":0", "\"device\":3").has_error());
  CHECK(changed("\"device\":0", "\"device\":-1").has_error());
  CHECK(changed("\"device\":0", "\"device\":1e99").has_error());
  CHECK(changed("\"n_layer\":10", "\"n_layer\":11").has_error());
  CHECK(changed("\"head\":0", "\"head\":18446744073709551615").has_error());
  CHECK(changed("\"embedding\":true", "\"embedding\":false").has_error());
  CHECK(changed("\"objective\":\"latency\"", "\"objective\":\"luck\"").has_error());
  CHECK(changed("\"gap\":", "\"gap\":-").has_error());
  std::mt19937 random(4);
  for (int i = 0; i < 3000; ++i) {  // whatever is still accepted must be a plan
    std::string text = good;
    for (int k = 0; k < 3; ++k) text[random() % text.size()] = static_cast<char>(random());
    const Result<Plan> plan = plan_from_json(text);
    if (plan.has_error()) continue;
    CHECK(plan->stages.back().layer_end == plan->n_layer);
    for (const StageAssignment& stage : plan->stages)
      CHECK(static_cast<size_t>(stage.device) < plan->devices.size());
  }
}

TEST_CASE("manual ranges are checked and priced") {
  PlanInput input = small_cluster();
  input.constraints.manual = {{1, 5, 10}, {0, 0, 5}};
  const Plan plan = make_plan(input);
  REQUIRE(plan.stages.size() == 2);
  CHECK(plan.manual);
  CHECK(plan.stages[1].device == 1);
  // 5 layers at 1 ms, 5 at 2 ms, the head 1 ms, hidden out (1 ms + 2048 B) and the result home (1 ms + 256 B)
  // at 10 MB/s.
  CHECK(plan.predicted.seconds_per_token == doctest::Approx(0.005 + 0.010 + 0.001 + 0.002 + 2304 / 1e7));
  CHECK(plan.predicted.bottleneck.from == 1);
  input.constraints.keep_on_head = KeepOnHead::kEnds;
  CHECK(make_plan(input).stages.size() == 3);
  const auto message = [&](std::vector<ManualRange> ranges) {
    PlanInput wrong = small_cluster();
    wrong.constraints.manual = std::move(ranges);
    return error_of(wrong);
  };
  CHECK(mentions(message({{0, 0, 5}}), "no node is given layers 5-9"));
  CHECK(mentions(message({{0, 0, 5}, {1, 6, 10}}), "layer 5"));
  CHECK(mentions(message({{0, 0, 5}, {1, 4, 10}}), "twice"));
  CHECK(mentions(message({{0, 0, 5}, {0, 5, 10}}), "two ranges"));
  CHECK(mentions(message({{0, 0, 11}}), "does not have"));
  CHECK(mentions(message({{7, 0, 10}}), "does not exist"));
  CHECK(mentions(message({{0, 3, 3}}), "does not have"));
  CHECK(mentions(message({{1, 0, 5}, {0, 5, 10}}), "layer 0 must be on node laptop"));
  CHECK(mentions(message({{0, 0, 10}}), "are missing"));
}

TEST_CASE("errors say what is missing") {
  PlanInput input = small_cluster();
  for (DeviceProfile& device : input.devices) device.memory_bytes = uint64_t{300} << 20;
  CHECK(mentions(error_of(input), "the model needs " + format_bytes(uint64_t{1200} << 20)));
  CHECK(mentions(error_of(input), "are missing"));
  input = small_cluster();
  input.devices[0].memory_bytes = uint64_t{100} << 20;
  CHECK(mentions(error_of(input), "node laptop has " + format_bytes(uint64_t{100} << 20) + " and needs " +
                                      format_bytes(uint64_t{185} << 20)));
  input = small_cluster();
  input.model.layer_bytes[3] = uint64_t{700} << 20;
  CHECK(mentions(error_of(input), "layer 3 alone needs"));
  input = small_cluster();
  input.constraints.excluded = {0};
  CHECK(mentions(error_of(input), "excluded"));
  input = small_cluster();
  input.devices[1].decode_layer[0].seconds = std::nan("");
  CHECK(mentions(error_of(input), "pi-1"));
  input.devices[1].decode_layer.clear();
  CHECK(mentions(error_of(input), "no measured time"));
}

TEST_CASE("a slow device is left out and the plan says why") {
  PlanInput input = small_cluster();
  input.devices[2].decode_layer = input.devices[2].output_head = {{1, 0.5}};
  const Plan plan = make_plan(input);
  CHECK_FALSE(plan.reasons[2].used);
  CHECK(mentions(plan.reasons[2].text, "left out: with it in this pipeline a token would take"));
  input.objective = Objective::kThroughput;
  CHECK(mentions(make_plan(input).reasons[2].text, "left out"));
}

TEST_CASE("a device that would change nothing is left out with words for it, not with two equal numbers") {
  PlanInput input = small_cluster();
  for (DeviceProfile& device : input.devices) {
    device.memory_bytes = uint64_t{4} << 30;
    device.decode_layer = {{1, 0.001}};
    device.output_head = {{1, 0.001}};
  }
  input.links = LinkTable(3, {1e-9, 1e15});
  const Plan plan = make_plan(input);
  REQUIRE(plan.stages.size() == 1);
  CHECK(mentions(plan.reasons[1].text,
                 "left out: it would save nothing, with it in this pipeline a token would take the same"));
}

TEST_CASE("a node that is alone is told what it lacks for the whole model") {
  PlanInput input = small_cluster();
  input.devices.resize(1);
  input.links = LinkTable(1, {});
  input.devices[0].memory_bytes = 10 << 20;
  const std::string error = error_of(input);
  CHECK(mentions(error, "is alone, has 10.0 MiB and needs"));
  CHECK(mentions(error, "are missing"));
  CHECK_FALSE(mentions(error, "keep-on-head"));
}

TEST_CASE("layers kept on trusted nodes") {
  PlanInput input = small_cluster();
  for (DeviceProfile& device : input.devices) device.memory_bytes = uint64_t{2} << 30;
  input.devices[1].trusted = false;
  input.devices[0].layers_max = 3;
  input.constraints.trusted_first_layers = 4;
  const Plan plan = make_plan(input);
  for (const StageAssignment& stage : plan.stages)
    if (stage.device == 1) CHECK(stage.layer_begin >= 4);
  input.devices[2].trusted = false;
  CHECK_FALSE(error_of(input).empty());
}

TEST_CASE("layers at both ends kept on the head, and what that costs") {
  PlanInput input = sample::random_input({8, 3, 6}, 5);
  input.constraints.head = 1;
  for (Objective objective : {Objective::kLatency, Objective::kThroughput}) {
    input.objective = objective;
    input.constraints.keep_on_head = {3, 2};
    for (int d : {0, 2})
      input.devices[static_cast<size_t>(d)].decode_layer = {{1, 1e-6}};  // everything draws away
    for (int a = 0; a < 3; ++a)
      for (int b = 0; b < 3; ++b) input.links.set(a, b, {1e-6, 1e9});
    const Plan plan = make_plan(input);
    CHECK(why_infeasible(input, plan.stages) == "");
    REQUIRE(plan.stages.size() >= 3);
    CHECK(plan.stages.front().device == 1);
    CHECK(plan.stages.front().layer_end == 3);
    CHECK(plan.stages.back().device == 1);
    CHECK(plan.stages.back().layer_begin == 6);
    CHECK(plan.stages.back().output);
    CHECK(plan_from_json(plan_to_json(plan)).value() == plan);
    const PrivacyPrice price = privacy_price(input, plan);
    REQUIRE(price.known);
    CHECK(price.seconds == plan.predicted.seconds_per_token);
    CHECK(price.seconds_without < price.seconds);
    CHECK(price.rate_without > price.rate);
    PlanInput free = input;
    free.constraints.keep_on_head = KeepOnHead::kNone;
    CHECK(make_plan(free).predicted.seconds_per_token == price.seconds_without);
    const std::string told = render_explanation(input, plan);
    CHECK(mentions(told, "keep-on-head first:3,last:2: "));
    CHECK(mentions(told, "ms a token more ("));
    CHECK(mentions(told, "node-1: prompts come in and answers go out here"));
    CHECK(mentions(told, "no tokens, but prompts and answers can be inferred from the activations of layer"));
    std::vector<StageAssignment> moved = plan.stages;
    moved.front().layer_end = moved[1].layer_begin = 2;
    CHECK(mentions(why_infeasible(input, moved), "layers 0-2 must be on node node-1"));
  }
  input.constraints.keep_on_head = {7, 2};
  CHECK(mentions(error_of(input), "keep-on-head first:7,last:2: the model has 8 layers"));
  input.constraints.keep_on_head = {4, 4};  // nothing is left for others: one stage
  CHECK(make_plan(input).stages.size() == 1);
}

TEST_CASE("by hand the head's end need not be given") {
  PlanInput input = sample::random_input({8, 3, 9}, 5);
  input.constraints.head = 1;
  input.constraints.keep_on_head = {2, 3};
  input.constraints.manual = {{1, 0, 3}, {0, 3, 5}};
  const Plan plan = make_plan(input);
  REQUIRE(plan.stages.size() == 3);
  CHECK(plan.stages[2].device == 1);
  CHECK(plan.stages[2].layer_begin == 5);
  CHECK_FALSE(privacy_price(input, plan).known);
  input.constraints.manual = {{1, 0, 3}, {0, 3, 4}};
  CHECK(mentions(error_of(input), "no node is given"));
  input.constraints.manual = {{1, 0, 3}, {0, 3, 8}};
  CHECK(mentions(error_of(input), "must be on node node-1"));
}

TEST_CASE("who could learn what is told for each node") {
  PlanInput input = sample::random_input({4, 2, 9}, 3);
  input.constraints.head = 0;
  input.constraints.keep_on_head = KeepOnHead::kNone;
  input.constraints.manual = {{1, 0, 4}};
  CHECK(mentions(privacy_text(input, make_plan(input)), "node-1: reads every prompt and every answer"));
  input.constraints.manual = {{1, 0, 2}, {0, 2, 4}};
  CHECK(mentions(privacy_text(input, make_plan(input)), "node-1: reads every prompt: "));
  input.constraints.manual = {{0, 0, 2}, {1, 2, 4}};
  input.devices[1].trusted = false;
  CHECK(mentions(privacy_text(input, make_plan(input)), "node-1 (not trusted): reads every answer: "));
}

TEST_CASE("a head that keeps the output head must be trusted with it") {
  PlanInput input = small_cluster();
  input.constraints.keep_on_head = KeepOnHead::kEnds;
  input.constraints.trusted_last_layers = 1;
  REQUIRE(try_plan(input));
  input.devices[static_cast<size_t>(input.constraints.head)].trusted = false;
  CHECK(mentions(error_of(input), "not trusted"));
  CHECK_FALSE(mentions(error_of(input), "made a plan that is not one"));
}

TEST_CASE("devices of one type collapse: 40 alike are exact, 30 different ones get a plan") {
  PlanInput input = small_cluster();
  while (input.devices.size() < 40) input.devices.push_back(input.devices[1]);
  input.links = LinkTable(40, {1e-3, 1e7});
  CHECK(make_plan(input).gap == 0);
  for (size_t d = 0; d < 30; ++d) input.devices[d].decode_layer = {{1, 1e-3 * static_cast<double>(d + 1)}};
  for (Objective objective : {Objective::kLatency, Objective::kThroughput}) {
    input.objective = objective;
    const Plan plan = make_plan(input);
    CHECK(why_infeasible(input, plan.stages) == "");
    CHECK(plan.gap >= 0);
    CHECK(std::isfinite(plan.gap));
  }
}

TEST_CASE("planning times for 16 different devices and 32 layers") {
  for (Objective objective : {Objective::kLatency, Objective::kThroughput}) {
    std::vector<double> ms;
    for (unsigned seed = 0; seed < 20; ++seed) {
      PlanInput input = sample::random_input({32, 16, 2.5, true}, 1000 + seed);
      input.objective = objective;
      input.constraints.keep_on_head = KeepOnHead::kFirstLayer;
      const auto start = std::chrono::steady_clock::now();
      const auto plan = try_plan(input);
      ms.push_back(
          std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
      if (plan) CHECK(plan->gap == 0);
    }
    std::sort(ms.begin(), ms.end());
    MESSAGE(to_string(objective) << ": median " << ms[10] << " ms, worst " << ms.back() << " ms");
    if (!SHOAL_SLOW_BUILD) CHECK(ms[10] < 500);
  }
}

}  // namespace
}  // namespace shoal
