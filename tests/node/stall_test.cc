// Nodes that keep everybody waiting and tell of no failure (node/recovery_stall.cc).
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "node/elimination.h"
#include "node/left_out.h"
#include "tests/node/recovery_drill.h"
#include "tests/node/simulated_cluster.h"

namespace shoal::test {
namespace {

constexpr double kStall_s = 30;

// The plan that runs answers nothing; the next is loaded where there is one.
void stall(Drill& drill) {
  REQUIRE(drill.runs);
  drill.now_s += kStall_s;
  drill.recovery.failed({Errc::kTimeout, "no answer from the pipeline"}, drill.now_s);
  drill.act();
  drill.pass(0.5);
  if (drill.recovery.state() == Recovery::State::kLoading) drill.all_ready();
}

// A step of the plan that runs fails, and nobody says whose doing it is.
void fail(Drill& drill) {
  REQUIRE(drill.runs);
  drill.recovery.failed({Errc::kPeerLost, "a lost its link from b"}, drill.now_s);
  drill.act();
  drill.pass(0.5);
  drill.all_ready();
}

// Ten steps a second.
void answer(Drill& drill, double seconds) {
  for (const double end_s = drill.now_s + seconds; drill.now_s < end_s;) {
    drill.recovery.answered(drill.now_s);
    drill.pass(0.1);
  }
}

// Of the plan that runs, the first to come first.
std::vector<std::string> workers(const Drill& drill) {
  std::vector<std::string> names;
  for (const char* name : {"a", "b", "c"})
    if (drill.recovery.in_plan(name)) names.emplace_back(name);
  return names;
}

std::string spare(const Drill& drill) {
  for (const char* name : {"a", "b", "c"})
    if (!drill.recovery.in_plan(name)) return name;
  return "";
}

void come_back(Drill& drill, const std::string& node) {
  drill.recovery.joined(device(drill.known, node), links_of(node, {"head", "a", "b", "c"}), drill.now_s);
  drill.act();
}

bool said(const Drill& drill, const std::string& text) {
  return std::any_of(drill.log.begin(), drill.log.end(),
                     [&](const std::string& line) { return line.find(text) != std::string::npos; });
}

bool has(const std::vector<std::string>& nodes, const std::string& node) {
  return std::find(nodes.begin(), nodes.end(), node) != nodes.end();
}

}  // namespace

TEST_CASE("a stall: at the second in a row who came last of the plan's nodes is left out") {
  Drill drill;
  const std::vector<std::string> first = workers(drill);
  REQUIRE(first.size() == 2);
  stall(drill);
  CHECK(workers(drill) == first);
  answer(drill, 20);  // that it answers a little between two stalls helps nobody
  stall(drill);
  CHECK(drill.runs);
  CHECK_FALSE(drill.recovery.in_plan(first.back()));
  CHECK(drill.recovery.in_plan(first.front()));
  CHECK(said(drill, "node " + first.back() +
                        " is left out for at most 60 s: no step was answered in a plan with it"));
  CHECK(drill.given_up == 0);
}

TEST_CASE("who came again came last") {
  Drill drill;
  const std::vector<std::string> first = workers(drill);
  drill.lose(first.front());
  come_back(drill, first.front());
  drill.lose(spare(drill));
  drill.pass(0.5);
  drill.all_ready();
  REQUIRE(workers(drill) == first);
  stall(drill);
  stall(drill);
  CHECK(said(drill, "node " + first.front() + " is left out"));
  CHECK_FALSE(said(drill, "node " + first.back() + " is left out"));
}

TEST_CASE("a stall without the one that was left out: the next is, and the first is acquitted") {
  Drill drill;
  const std::vector<std::string> first = workers(drill);
  const std::string& swallows = first.front();
  for (int stalls = 0; drill.recovery.in_plan(swallows); ++stalls) {
    REQUIRE(stalls < 4);
    stall(drill);
  }
  CHECK(said(drill, "node " + swallows + " is left out for at most 60 s"));
  CHECK(said(drill, "node " + first.back() + " did not make the pipeline fail"));
  // There is no plan without the first, whose minute is not over: it is let in, and answers go on.
  CHECK(drill.runs);
  CHECK(drill.recovery.in_plan(first.back()));
  CHECK(drill.given_up == 0);
  // It is as good as any: its first stall is one.
  answer(drill, Elimination::kStallMadeUp_s + 10);
  stall(drill);
  CHECK(drill.recovery.in_plan(first.back()));
}

TEST_CASE("where no plan is possible without the one left out, the reason names it, and it is tried again") {
  Drill drill;
  drill.lose(spare(drill));
  const std::string last = workers(drill).back();
  stall(drill);
  stall(drill);
  CHECK_FALSE(drill.runs);
  CHECK_MESSAGE(drill.down.find("node " + last +
                                " is left out (no step was answered in a plan with it) and is tried again in "
                                "60 s") != std::string::npos,
                drill.down);
  // That it comes anew changes nothing.
  drill.lose(last);
  come_back(drill, last);
  drill.pass(LeftOut::kRest_s - 3);
  CHECK(drill.recovery.state() == Recovery::State::kDown);
  drill.pass(3);
  REQUIRE(drill.recovery.state() == Recovery::State::kLoading);
  drill.all_ready();
  CHECK(drill.runs);
}

TEST_CASE("who was left out before is at its first stall, for twice as long each time; an hour forgets it") {
  Drill drill;
  drill.lose(spare(drill));
  const std::string last = workers(drill).back();
  stall(drill);
  for (const double rest_s : {60.0, 120.0, 240.0}) {
    stall(drill);
    CHECK(said(drill, fmt::format("node {} is left out for at most {:.0f} s", last, rest_s)));
    CHECK(drill.recovery.state() == Recovery::State::kDown);
    drill.pass(LeftOut::kRest_s - 2);  // without it there is nothing
    CHECK(drill.recovery.state() == Recovery::State::kDown);
    drill.pass(3);
    REQUIRE(drill.recovery.state() == Recovery::State::kLoading);
    drill.all_ready();
    answer(drill, Elimination::kStallMadeUp_s + 10);  // the row is over, and the memory is not
  }
  drill.pass(LeftOut::kForgotten_s);
  stall(drill);
  CHECK(drill.runs);
  CHECK(drill.recovery.in_plan(last));
  stall(drill);
  CHECK(drill.log.back().find("tried again in 60 s") != std::string::npos);
}

TEST_CASE("two stalls are in a row unless much was answered between them, or nothing in an hour") {
  for (const double answers_s : {0.0, Elimination::kStallMadeUp_s - 30, Elimination::kStallMadeUp_s + 10}) {
    for (const double idle_s : {0.0, Elimination::kForgotten_s - 700, Elimination::kForgotten_s}) {
      CAPTURE(answers_s);
      CAPTURE(idle_s);
      Drill drill;
      const std::vector<std::string> first = workers(drill);
      stall(drill);
      answer(drill, answers_s);
      drill.pass(idle_s);
      stall(drill);
      const bool in_a_row = answers_s < Elimination::kStallMadeUp_s && idle_s < Elimination::kForgotten_s;
      CHECK(drill.recovery.in_plan(first.back()) != in_a_row);
    }
  }
}

TEST_CASE("a node that is lost explains the stalls: nobody is blamed for them") {
  Drill drill;
  const std::vector<std::string> first = workers(drill);
  stall(drill);
  drill.lose(first.front());
  drill.pass(0.5);
  drill.all_ready();
  come_back(drill, first.front());
  stall(drill);
  CHECK_FALSE(said(drill, "is left out"));
  // Also who was left out just before may come back.
  stall(drill);
  const std::vector<std::string> rest = workers(drill);
  CHECK(said(drill, "is left out"));
  REQUIRE(drill.runs);
  drill.lose(rest.front());
  drill.lose(rest.back());
  come_back(drill, rest.back());
  drill.pass(0.5);
  CHECK(drill.recovery.state() == Recovery::State::kLoading);
  CHECK(drill.down.empty());
}

TEST_CASE("where the head alone is left nobody is left out, and what runs is given up") {
  Drill alone({{"head", 200}, {"a", 10}});
  REQUIRE_FALSE(alone.recovery.in_plan("a"));
  for (int i = 0; i < 3; ++i) stall(alone);
  CHECK(alone.runs);
  CHECK(alone.given_up == 1);
}

TEST_CASE(
    "a pipeline that fails and names nobody goes on without its last comer, from the second time in a row") {
  Drill drill;
  const std::vector<std::string> first = workers(drill);
  fail(drill);
  CHECK(workers(drill) == first);
  answer(drill, Elimination::kFailureMadeUp_s + 1);
  fail(drill);
  CHECK(workers(drill) == first);
  answer(drill, Elimination::kFailureMadeUp_s / 2);
  fail(drill);
  CHECK(drill.runs);
  CHECK_FALSE(drill.recovery.in_plan(first.back()));
  CHECK(said(drill, "node " + first.back() + " is left out for at most 60 s: steps failed in plans with it"));
  CHECK(drill.given_up == 0);
}

TEST_CASE("where there is no plan without it, a node whose plans fail goes on, until what runs is given up") {
  Drill drill;
  drill.lose(spare(drill));
  const std::vector<std::string> first = workers(drill);
  for (int failures = 1; failures <= 3; ++failures) {
    CHECK(drill.given_up == 0);
    fail(drill);
    CHECK(drill.runs);  // at once
    if (failures > 1)
      CHECK(
          said(drill, "node " + first.back() + " may take layers all the same: there is no plan without it"));
    CHECK(workers(drill) == first);
  }
  CHECK(drill.given_up == 1);
}

TEST_CASE("of any number of nodes the one that swallows steps is found, and all others are acquitted") {
  const std::vector<std::string> all = {"a", "b", "c", "d", "e"};
  for (const std::string& swallows : all) {
    CAPTURE(swallows);
    Elimination elimination;
    std::vector<std::string> nodes = all, acquitted;
    std::string out;
    int count = 0;
    for (; out != swallows; ++count) {
      REQUIRE(count < 7);
      const Elimination::Verdict verdict = elimination.judge(
          nodes, [](const std::string&) { return false; }, true, 31.0 * count);
      acquitted.insert(acquitted.end(), verdict.acquitted.begin(), verdict.acquitted.end());
      if (verdict.accused.empty()) continue;
      out = verdict.accused.front();
      nodes = all;  // each in turn, and those acquitted are back
      std::erase(nodes, out);
    }
    CHECK_FALSE(has(acquitted, swallows));
    CHECK(static_cast<int>(acquitted.size()) == count - 2);
  }
}

TEST_CASE("layers that were to be computed sooner and do not load in time: what ran before runs again") {
  Drill drill;
  const std::vector<std::string> before = workers(drill);
  fast_one_joins(drill);
  const auto pass_until_loading = [&] {
    for (int i = 0; i < 2000 && drill.recovery.state() != Recovery::State::kLoading; ++i)
      drill.pass(0.1, /*quiet=*/true);
    REQUIRE(drill.recovery.state() == Recovery::State::kLoading);
  };
  pass_until_loading();
  REQUIRE(drill.recovery.in_plan("fast"));
  const double begun_s = drill.now_s;
  const uint64_t epoch = drill.recovery.epoch();
  for (const std::string& node : drill.nodes())
    if (node != "fast") drill.recovery.ready(node, epoch, "", "", drill.now_s);
  drill.pass(Recovery::kBetterLoad_s - 1);
  CHECK(drill.recovery.epoch() == epoch);
  while (drill.recovery.epoch() == epoch && drill.now_s < begun_s + 60) drill.pass(0.1);
  CHECK(drill.recovery.epoch() == epoch + 1);
  CHECK(drill.now_s < begun_s + Recovery::kBetterLoad_s + 15);  // 140 MiB from a disk, and over a link
  CHECK(said(drill, "node fast did not load its layers within"));
  drill.all_ready();
  CHECK(drill.runs);
  CHECK(workers(drill) == before);
  pass_until_loading();
  CHECK(drill.now_s > begun_s + LeftOut::kRest_s);
}

TEST_CASE("who is blamed again is left out for twice as long, an hour at most; an hour in peace forgets it") {
  LeftOut left_out;
  double now_s = 5;
  for (const double rest_s : {60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0}) {
    CHECK(left_out.blame("a", "is slow", false, now_s) == rest_s);
    CHECK(left_out.is_out("a", now_s + rest_s - 1));
    now_s += rest_s + LeftOut::kForgotten_s - 1;
    CHECK_FALSE(left_out.is_out("a", now_s));
    CHECK(left_out.is_known("a", now_s));
  }
  left_out.came_anew("a");
  CHECK(left_out.is_known("a", now_s));
  now_s += 2;
  CHECK_FALSE(left_out.is_known("a", now_s));
  CHECK(left_out.blame("a", "is slow", false, now_s) == LeftOut::kRest_s);
}

TEST_CASE(
    "a plan that is needed has longer to load, and is tried again after a minute where there is no other") {
  Drill drill;
  drill.lose(drill.used());
  drill.pass(0.5);
  std::string late;
  for (const std::string& node : drill.nodes())
    if (node != "head") late = node;
  for (int round = 0; round < 2; ++round) {
    REQUIRE(drill.recovery.state() == Recovery::State::kLoading);
    const double begun_s = drill.now_s;
    for (const std::string& node : drill.nodes())
      if (node != late && node != "head")
        drill.recovery.ready(node, drill.recovery.epoch(), "", "", drill.now_s);
    drill.pass(Recovery::kNeededLoad_s - 1);
    CHECK(drill.recovery.state() == Recovery::State::kLoading);
    while (drill.recovery.state() != Recovery::State::kDown && drill.now_s < begun_s + 150) drill.pass(0.1);
    CHECK(drill.recovery.state() == Recovery::State::kDown);
    // The head waited for it, maybe: nobody else can do what it does.
    CHECK_FALSE(said(drill, "node head did not load"));
    CHECK(said(drill, "node " + late + " did not load its layers within 12"));
    CHECK_MESSAGE(drill.log.back().find("and is tried again in 60 s") != std::string::npos, drill.log.back());
    drill.pass(LeftOut::kRest_s + 1);
  }
  for (const std::string& node : drill.nodes())
    if (node != "head") drill.recovery.ready(node, drill.recovery.epoch(), "", "", drill.now_s);
  drill.pass(Recovery::kNeededLoad_s + 15);
  CHECK(drill.log.back().find("the head head did not load its layers within") != std::string::npos);
}

TEST_CASE("a simulated cluster with a node that swallows steps gives the right answers without it") {
  int left_out = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    SimulatedFaults faults;
    faults.swallowers = 1;
    const SimulatedClusterRun run = simulate_cluster(seed, faults);
    for (const std::string& wrong : run.wrong) FAIL_CHECK(wrong);
    CHECK(run.refused == 0);
    CHECK(run.lost == 0);
    left_out += std::any_of(run.log.begin(), run.log.end(), [](const std::string& line) {
      return line.find("is left out for at most 60 s") != std::string::npos;
    });
  }
  CHECK(left_out > 5);
}

}  // namespace shoal::test
