// Profiles, what-if, trade-offs, targets and replanning.
#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <random>
#include <sstream>

#include "planner/link_formats.h"
#include "planner/pareto.h"
#include "planner/planner.h"
#include "planner/profile_json.h"
#include "planner/random_input.h"
#include "planner/replan.h"
#include "planner/what_if.h"
#include "tests/support/mentions.h"

namespace shoal {
namespace {

using test::mentions;

std::string profile_text(const std::string& name) {
  std::ifstream in(std::string(SHOAL_SOURCE_DIR) + "/configs/" + name);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

PlanInput edgeshard() {
  const Result<PlanInput> input = profile_from_json(profile_text("edgeshard-7b.json"), "edgeshard-7b.json");
  REQUIRE_MESSAGE(input.has_value(), input.error().message);
  return *input;
}

TEST_CASE("profile: random inputs come back the same") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    PlanInput input = sample::random_input({5, 4, 3, seed % 2 == 0, seed % 3 == 0, seed % 4 == 0}, seed);
    input.constraints.excluded = {static_cast<int>(seed % 4)};
    input.constraints.trusted_first_layers = 2;
    const Result<PlanInput> back = profile_from_json(profile_to_json(input), "test");
    REQUIRE_MESSAGE(back.has_value(), back.error().message);
    CHECK(back->model.layer_bytes == input.model.layer_bytes);
    CHECK(back->model.result_bytes_per_row == input.model.result_bytes_per_row);
    CHECK(back->constraints.head == input.constraints.head);
    CHECK(back->constraints.keep_on_head == input.constraints.keep_on_head);
    CHECK(back->constraints.excluded == input.constraints.excluded);
    CHECK(back->constraints.trusted_first_layers == 2);
    CHECK(back->workload.concurrency == input.workload.concurrency);
    for (size_t d = 0; d < input.devices.size(); ++d) {
      CHECK(back->devices[d].name == input.devices[d].name);
      CHECK(back->devices[d].memory_bytes == input.devices[d].memory_bytes);
      CHECK(back->devices[d].layer_scale.size() == input.devices[d].layer_scale.size());
      CHECK(back->devices[d].decode_layer[0].seconds ==
            doctest::Approx(input.devices[d].decode_layer[0].seconds));
    }
    for (int a = 0; a < 4; ++a) {
      for (int b = 0; b < 4; ++b) {
        if (a == b) continue;
        CHECK(back->links.at(a, b).bytes_per_s ==
              doctest::Approx(std::max(0.0, input.links.at(a, b).bytes_per_s)));
        CHECK(back->links.at(a, b).latency_s == doctest::Approx(input.links.at(a, b).latency_s));
      }
    }
  }
}

TEST_CASE("profile: the committed testbed, its devices and its published latency") {
  const PlanInput input = edgeshard();
  CHECK(input.devices.size() == 15);
  CHECK(input.devices[11].name == "orin-12");
  CHECK(input.links.at(0, 14).bytes_per_s == 125000);
  CHECK(input.links.at(1, 14).bytes_per_s == 6250000);
  CHECK(make_plan(input).predicted.seconds_per_token == doctest::Approx(0.07588).epsilon(0.03));
}

TEST_CASE("profile: hostile and mistaken text is refused with the key named") {
  const std::string good = profile_text("edgeshard-7b.json");
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    const Result<PlanInput> read = profile_from_json(text.replace(at, from.size(), to), "file");
    return read.has_error() ? read.error().message : "";
  };
  CHECK(mentions(changed("\"memory_bytes\"", "\"memory_byte\""), "did you mean \"memory_bytes\""));
  CHECK(mentions(changed("\"count\": 12", "\"count\": 1e9"), "count"));
  CHECK(mentions(changed("\"count\": 12", "\"count\": 1024"), "1024"));
  CHECK(mentions(changed("\"orin-1\", \"rtx3090\"", "\"orin-1\", \"rtx309\""), "did you mean \"rtx3090\""));
  CHECK(mentions(changed("\"n_layer\": 32", "\"n_layer\": -3"), "n_layer"));
  CHECK(mentions(changed("\"head\": \"orin-1\"", "\"head\": \"orin\""), "orin"));
  CHECK(mentions(changed("first-layer", "second-layer"), "keep-on-head"));
  // Safe for a terminal.
  CHECK(mentions(changed("\"orin-1\", \"rtx3090\"", "\"orin-1\", \"\\u001b[31m\""), "named \"\\x1B[31m\""));
  CHECK(profile_from_json("{\"profile\":{\"profile\":1}}", "file").has_error());
  CHECK(profile_from_json(std::string(100'000, '['), "file").has_error());
  for (size_t size = 0; size < good.size(); size += 97)
    CHECK(profile_from_json(good.substr(0, size), "file").has_error());
  std::mt19937 random(4);
  for (int i = 0; i < 1500; ++i) {  // whatever is still accepted can be asked for a plan
    std::string text = good;
    for (int k = 0; k < 3; ++k) text[random() % text.size()] = static_cast<char>(random());
    const Result<PlanInput> read = profile_from_json(text, "file");
    if (read.has_error()) continue;
    try {
      (void)make_plan(*read);
    } catch (const SetupError&) {
    }
  }
}

TEST_CASE("what if: a device less, one more, another link, another context") {
  const PlanInput input = edgeshard();
  const Plan plan = make_plan(input);
  WhatIfChange without;
  without.device = "rtx3090";
  const WhatIfAnswer less = ask_what_if(input, without, make_plan);
  REQUIRE(less.after.has_value());
  CHECK(less.after->seconds_per_token > plan.predicted.seconds_per_token);
  CHECK(std::find(less.devices.begin(), less.devices.end(), "rtx3090") == less.devices.end());
  without.device = "orin-1";
  CHECK_THROWS_AS(ask_what_if(input, without, make_plan), SetupError);
  without.device = "rtx309";
  CHECK_THROWS_WITH_AS(ask_what_if(input, without, make_plan), doctest::Contains("did you mean rtx3090"),
                       SetupError);

  const WhatIfAnswer more = ask_what_if(input, parse_add("type=rtx3090,count=2"), make_plan);
  REQUIRE(more.after.has_value());
  CHECK(more.after->seconds_per_token <= plan.predicted.seconds_per_token);
  const PlanInput added = apply_change(input, parse_add("rtx3090"));
  CHECK(added.devices.size() == 16);
  CHECK(added.links.at(0, 15).bytes_per_s == 125000);  // as bad a link to the source as the one it copies
  CHECK(added.links.at(15, 3).bytes_per_s == 6250000);

  const WhatIfAnswer fast = ask_what_if(input, parse_link("orin-1,rtx3090=1Gbps"), make_plan);
  REQUIRE(fast.after.has_value());
  CHECK(fast.after->seconds_per_token < plan.predicted.seconds_per_token);
  CHECK(fast.devices.size() == 2);
  const WhatIfAnswer both =
      ask_together(input, {parse_link("orin-1,rtx3090=1Gbps"), parse_add("rtx3090")}, make_plan);
  REQUIRE(both.after.has_value());
  CHECK(both.after->seconds_per_token <= fast.after->seconds_per_token);

  WhatIfChange context;
  context.kind = WhatIfChange::Kind::kContext;
  context.context_factor = 4000;
  const WhatIfAnswer long_context = ask_what_if(input, context, make_plan);
  CHECK_FALSE(long_context.after.has_value());
  CHECK(mentions(long_context.problem, "missing"));
  const std::string table = render_answers(plan, {less, more, long_context});
  CHECK(mentions(table, "without rtx3090"));
  CHECK(mentions(table, "%"));
  for (const char* text : {"", "count=2", "pi,count=0", "pi,count=x", "pi,pi"})
    CHECK_THROWS_AS(parse_add(text), SetupError);
  for (const char* text : {"", "a=5Mbps", "a,b", "a,b=fast", ",b=1Mbps", "a,=1Mbps"})
    CHECK_THROWS_AS(parse_link(text), SetupError);
}

TEST_CASE("what if: the usual questions can all be asked, and adding never hurts") {
  for (unsigned seed = 0; seed < 30; ++seed) {
    CAPTURE(seed);
    PlanInput input = sample::random_input({6, 4, 2.2}, seed + 40);
    input.model.context = 1024, input.model.sequences = 2;
    Plan plan;
    try {
      plan = make_plan(input);
    } catch (const SetupError&) {
      continue;
    }
    for (const WhatIfChange& change : usual_questions(input, plan)) {
      const WhatIfAnswer answer = ask_what_if(input, change, make_plan);
      CHECK(answer.after.has_value() != !answer.problem.empty());
      if (change.kind == WhatIfChange::Kind::kAdd || change.kind == WhatIfChange::Kind::kLink) {
        REQUIRE(answer.after.has_value());
        CHECK(answer.after->seconds_per_token <= plan.predicted.seconds_per_token * (1 + 1e-9));
      }
    }
  }
}

PlanInput shelf() {
  const Result<PlanInput> input = profile_from_json(profile_text("shelf.json"), "shelf.json");
  REQUIRE_MESSAGE(input.has_value(), input.error().message);
  return *input;
}

TEST_CASE("trade-offs: no plan of the front beats another, and its ends are the objectives' optima") {
  PlanInput input = shelf();
  const PlanCandidates candidates = candidate_plans(input);
  CHECK(candidates.all_sets);
  const std::vector<PlanCandidate> front = pareto_front(candidates);
  REQUIRE(front.size() >= 2);
  input.objective = Objective::kLatency;
  CHECK(front.front().plan.predicted.seconds_per_token ==
        doctest::Approx(make_plan(input).predicted.seconds_per_token));
  for (const PlanCandidate& a : front) {
    CHECK(why_infeasible(input, a.plan.stages).empty());
    for (const PlanCandidate& b : front) {
      const bool better = a.plan.predicted.seconds_per_token < b.plan.predicted.seconds_per_token &&
                          a.service.tokens_per_second > b.service.tokens_per_second &&
                          a.service.joules_per_token < b.service.joules_per_token;
      CHECK_FALSE(better);
    }
  }
  const std::string csv = front_csv(front);
  CHECK(static_cast<size_t>(std::count(csv.begin(), csv.end(), '\n')) == front.size() + 1);
  CHECK(mentions(front_svg(input, front), "</svg>"));
  CHECK(mentions(render_front(input, front, true), "tokens/s"));
}

TEST_CASE("targets: met where possible, the best quality first, and said what is missed") {
  PlanInput large = shelf(), small = shelf();
  large.model.name = "large", small.model.name = "small";
  for (DeviceProfile& device : small.devices) {
    for (RowSeconds& point : device.decode_layer) point.seconds /= 4;
    for (RowSeconds& point : device.output_head) point.seconds /= 4;
  }
  Targets targets;
  targets.seconds_per_token = 10;
  CHECK(choose_for_targets(std::vector<PlanInput>{large, small}, targets).offer == 0);
  double best = 1e9;
  for (const PlanCandidate& one : candidate_plans(large).plans)
    best = std::min(best, one.service.seconds_per_token);
  targets.seconds_per_token = best * 0.9;
  const TargetChoice choice = choose_for_targets(std::vector<PlanInput>{large, small}, targets);
  CHECK(choice.offer == 1);
  CHECK(choice.candidate.service.seconds_per_token <= targets.seconds_per_token);
  REQUIRE(choice.rejected.size() == 1);
  CHECK(mentions(choice.rejected[0], "large"));
  CHECK(choice.candidate.plan.for_targets);
  CHECK(mentions(render_explanation(small, choice.candidate.plan), "meet the targets"));
  for (const DeviceReason& reason : choice.candidate.plan.reasons)
    CHECK_FALSE(mentions(reason.text, "excluded"));
  targets.watts_max = 40;  // the laptop and one of the small boards
  targets.seconds_per_token = 100;
  const TargetChoice frugal = choose_for_targets(std::vector<PlanInput>{large}, targets);
  CHECK(frugal.candidate.devices == 2);
  CHECK(frugal.candidate.service.peak_watts <= 40);
  targets.watts_max = 8;
  CHECK_THROWS_WITH_AS(choose_for_targets(std::vector<PlanInput>{large}, targets),
                       doctest::Contains("W instead of 8 W"), SetupError);
}

TEST_CASE("link formats: fewer bytes are never slower, and only what runs is offered") {
  const PlanInput input = edgeshard();
  const Plan plan = make_plan(input);
  const std::vector<LinkFormatOption> options = link_format_options(input, plan.stages);
  REQUIRE(options.size() == 3);
  CHECK(options[0].seconds_per_token == doctest::Approx(plan.predicted.seconds_per_token));
  CHECK(options[1].seconds_per_token < options[0].seconds_per_token);
  CHECK(options[2].seconds_per_token < options[1].seconds_per_token);
  CHECK(options[0].runs);
}

TEST_CASE("replanning: nothing drifted, nothing moves") {
  const PlanInput input = edgeshard();
  const ReplanAdvice advice = advise_replan(input, make_plan(input));
  CHECK_FALSE(advice.move);
  CHECK(advice.moves.empty());
  CHECK(advice.gain == doctest::Approx(0));
  CHECK(mentions(render_advice(input, advice), "Stay"));
}

TEST_CASE("replanning: only a gain that pays for the moves") {
  PlanInput live = edgeshard();
  const Plan running = make_plan(live);
  // The way round the slow link gets slow too: the layers are better nearer.
  for (int d = 1; d < 14; ++d) live.links.set_both(d, 14, {0, 1e5});
  ReplanOptions options;
  options.horizon_s = 1e7;  // twenty gigabytes over these links
  const ReplanAdvice advice = advise_replan(live, running, options);
  CHECK(advice.move);
  CHECK(advice.gain >= 0.15);
  REQUIRE_FALSE(advice.moves.empty());
  CHECK(advice.move_seconds > 0);
  // Every layer that the new plan places elsewhere is moved once, none that stays.
  for (int layer = 0; layer < 32; ++layer) {
    const auto holder = [&](const Plan& plan) {
      for (const StageAssignment& stage : plan.stages)
        if (layer >= stage.layer_begin && layer < stage.layer_end)
          return plan.devices[static_cast<size_t>(stage.device)];
      return std::string();
    };
    const auto moves = std::count_if(advice.moves.begin(), advice.moves.end(), [&](const LayerMove& move) {
      return layer >= move.layer_begin && layer < move.layer_end && move.to == holder(advice.plan);
    });
    CHECK(moves == (holder(advice.plan) == holder(running) ? 0 : 1));
  }
  CHECK(mentions(render_advice(live, advice, options), "loads"));
  // Reading from a disk is part of the move.
  for (DeviceProfile& device : live.devices) device.load_bytes_per_s = 1e6;
  const ReplanAdvice read = advise_replan(live, running, options);
  REQUIRE(read.moves.size() == advice.moves.size());
  for (size_t i = 0; i < read.moves.size(); ++i)
    CHECK(read.moves[i].seconds ==
          doctest::Approx(advice.moves[i].seconds + static_cast<double>(advice.moves[i].bytes) / 1e6));
  options.horizon_s = 1e5;
  const ReplanAdvice hurried = advise_replan(live, running, options);
  CHECK_FALSE(hurried.move);
  options.horizon_s = 1e7;
  options.gain_min = 1000;
  CHECK_FALSE(advise_replan(live, running, options).move);
}

TEST_CASE("replanning: a lost node forces a move; another model is refused") {
  PlanInput live = edgeshard();
  const Plan running = make_plan(live);
  live.constraints.excluded = {14};
  const ReplanAdvice advice = advise_replan(live, running);
  CHECK(advice.move);
  CHECK_FALSE(advice.old_runs);
  CHECK(mentions(render_advice(live, advice), "cannot run"));
  Plan other = running;
  other.n_layer = 31;
  CHECK_THROWS_AS(advise_replan(live, other), SetupError);
}

}  // namespace
}  // namespace shoal
