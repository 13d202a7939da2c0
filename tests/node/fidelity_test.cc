#include "node/fidelity.h"

#include <doctest/doctest.h>

#include "node/peer_clocks.h"
#include "planner/cost_model.h"
#include "planner/planner.h"

namespace shoal {
namespace {

// Two devices a, b of 1 and 2 ms a layer, a link of 4 ms; layers 0-1 and 2-5.
struct Setting {
  Setting() {
    input.model.name = "m";
    input.model.n_layer = 6;
    input.model.layer_bytes.assign(6, 1000);
    input.model.layer_kv_bytes.assign(6, 0);
    for (const auto& [name, seconds] : {std::pair("a", 1e-3), std::pair("b", 2e-3)}) {
      DeviceProfile device;
      device.name = name;
      device.memory_bytes = 1 << 30;
      device.decode_layer = {{1, seconds}, {2, 1.5 * seconds}};
      device.output_head = {{1, 0}};
      input.devices.push_back(device);
    }
    input.links = LinkTable(2, {4e-3, 1e12});
    input.constraints.manual = {{0, 0, 2}, {1, 2, 6}};
    plan = make_plan(input);
  }
  PlanInput input;
  Plan plan;
};

constexpr double kAhead = 1000;  // of b's clock

// A step sent at `sent_s`: 0.1 ms to stage a, `a` computing, `hop`, 1 ms waiting and `b` computing, `home`.
struct Lap {
  double a = 2e-3, hop = 4e-3, b = 8e-3, home = 4e-3;
  bool arrivals = true;
};
std::optional<Fidelity::Drift> observe(Fidelity& fidelity, double sent_s, const Lap& lap, int rows = 1) {
  const auto us = [](double seconds) { return static_cast<uint64_t>(seconds * 1e6 + 0.5); };
  const double at_a = sent_s + 1e-4, at_b = at_a + lap.a + lap.hop;
  std::vector<StageTime> times = {
      {0, static_cast<uint32_t>(us(lap.a)), lap.arrivals ? us(at_a) : 0},
      {1000, static_cast<uint32_t>(us(lap.b)), lap.arrivals ? us(at_b + kAhead) : 0}};
  return fidelity.observe(rows, sent_s, at_b + 1e-3 + lap.b + lap.home, times, {0.0, kAhead});
}

}  // namespace

TEST_CASE("every stage, hop and the lap stand beside their predictions") {
  const Setting s;
  REQUIRE(s.plan.stages.size() == 2);
  Fidelity fidelity(s.input, s.plan, 4);
  CHECK(render_fidelity(fidelity).empty());
  Lap lap;
  lap.hop = 5e-3;
  lap.b = 10e-3;
  for (int i = 0; i < 8; ++i) {
    lap.arrivals = i % 4 == 0;
    CHECK_FALSE(observe(fidelity, 10.0 + i, lap));
  }
  const std::vector<FidelityFigure> figures = fidelity.figures();
  REQUIRE(figures.size() == 5);
  CHECK(figures[0].name == "within a");
  CHECK(figures[0].measured_s == doctest::Approx(1e-4));
  CHECK(figures[1].name == "a (layers 0-1)");
  CHECK(figures[1].predicted_s == doctest::Approx(2e-3));
  CHECK(figures[1].samples == 8);
  CHECK(figures[2].name == "a -> b");
  CHECK(figures[2].link);
  CHECK(figures[2].samples == 2);
  CHECK(figures[2].predicted_s == doctest::Approx(4e-3));
  CHECK(figures[2].measured_s == doctest::Approx(5e-3));
  CHECK(figures[3].measured_s == doctest::Approx(10e-3));
  CHECK(figures[4].name == "b -> a");
  CHECK(figures[4].measured_s == doctest::Approx(4e-3));
  CHECK(fidelity.lap().predicted_s == doctest::Approx(s.plan.predicted.seconds_per_token));
  CHECK(fidelity.lap().measured_s == doctest::Approx(21.1e-3));  // waiting in the queue is not part of it
  const std::string text = render_fidelity(fidelity);
  CHECK(text.find("a -> b               4.00       5.00   -20 %\n") != std::string::npos);
  CHECK(text.find("b (layers 2-5)       8.00      10.00   -20 %\n") != std::string::npos);
  CHECK(text.find("within") == std::string::npos);
  fidelity.reset();
  CHECK(fidelity.steps() == 0);
  CHECK(render_fidelity(fidelity).empty());
}

TEST_CASE("a step of more rows is compared with the prediction for them, nonsense with nothing") {
  const Setting s;
  Fidelity fidelity(s.input, s.plan, 2);
  observe(fidelity, 1, {}, 2);
  CHECK(fidelity.figures()[1].predicted_s == doctest::Approx(3e-3));
  observe(fidelity, 2, {}, 3);  // more rows than there are sequences
  observe(fidelity, 3, {}, 0);
  (void)fidelity.observe(1, 4, 5, {{}}, {});  // one stage of two
  CHECK(fidelity.steps() == 1);
}

TEST_CASE("a place that stays too slow is named once a minute, a passing delay is not") {
  const Setting s;
  Fidelity fidelity(s.input, s.plan, 1);
  constexpr double kStep = 0.1;
  double now = 100;
  int warnings = 0;
  std::string text;
  const auto steps = [&](int count, const Lap& lap) {
    for (int i = 0; i < count; ++i, now += kStep)
      if (const auto drift = observe(fidelity, now, lap)) ++warnings, text = drift->text;
  };
  Lap slow;
  slow.b = 13e-3;
  steps(Fidelity::kWarmUpSteps, slow);  // the first steps do not count
  steps(10 * Fidelity::kDriftSteps, {});
  for (int i = 0; i < 10 * Fidelity::kDriftSteps; ++i) steps(1, i % 3 == 0 ? Lap{} : slow);
  CHECK(warnings == 0);
  steps(Fidelity::kDriftSteps, slow);
  CHECK(warnings == 1);
  CHECK(text.find("node b (layers 2-5) takes 13.00 ms a step and 8.00 were predicted") == 0);
  const double first = now;
  steps(5 * Fidelity::kDriftSteps, slow);
  CHECK(now - first < Fidelity::kRepeat_s);
  CHECK(warnings == 1);
  steps(600, slow);
  CHECK(warnings == 2);
}

TEST_CASE("of several slow places the one that costs most is suspected; a link by name") {
  const Setting s;
  Fidelity fidelity(s.input, s.plan, 1);
  Lap slow;
  slow.a = 4e-3;
  slow.hop = 20e-3;
  std::optional<Fidelity::Drift> drift;
  for (int i = 0; i < Fidelity::kWarmUpSteps + Fidelity::kDriftSteps; ++i)
    if (auto found = observe(fidelity, 50.0 + i, slow)) drift = found;
  REQUIRE(drift);
  CHECK(drift->worst.link);
  CHECK(drift->text.find("the link a -> b takes 20.00 ms a step and 4.00 were predicted") == 0);
}

TEST_CASE("a clock is compared by the quickest answer, which an old one gives way to") {
  PeerClocks clocks;
  CHECK_FALSE(clocks.ahead_s("b"));
  clocks.answered("b", 1, 7, 7);  // never asked
  CHECK_FALSE(clocks.ahead_s("b"));
  clocks.asked("b", 1, 10.0);
  clocks.answered("b", 1, 510.1, 10.2);
  CHECK(*clocks.ahead_s("b") == doctest::Approx(500));
  clocks.asked("b", 2, 11.0);
  clocks.answered("b", 2, 511.9, 12.0);  // slower: less sure
  CHECK(*clocks.ahead_s("b") == doctest::Approx(500));
  clocks.asked("b", 3, 13.0);
  clocks.answered("b", 2, 900, 13.1);  // an answer to an older question
  clocks.answered("b", 3, 513.15, 13.1);
  CHECK(*clocks.ahead_s("b") == doctest::Approx(500.1));
  clocks.asked("b", 4, 50.0);
  clocks.answered("b", 4, 550.5, 51.0);
  CHECK(*clocks.ahead_s("b") == doctest::Approx(500));
}

}  // namespace shoal
