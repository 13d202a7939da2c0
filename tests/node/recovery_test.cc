#include "node/recovery.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <set>
#include <string>

#include "node/foresight.h"
#include "planner/planner.h"
#include "tests/node/recovery_drill.h"

namespace shoal {
namespace {

using test::cluster_of;
using test::device;
using test::Drill;
using test::links_of;

constexpr uint64_t kMiB = test::kDrillMiB;

}  // namespace

TEST_CASE("a lost stage: answers stop, the rest load under the next epoch, answers go on") {
  Drill drill;
  const std::string lost = drill.used();
  drill.lose(lost);
  CHECK_FALSE(drill.runs);
  drill.pass(0.5);
  REQUIRE(drill.load.has_value());
  CHECK(drill.load->epoch == 2);
  for (const std::string& node : drill.nodes()) CHECK(node != lost);
  drill.all_ready();
  CHECK(drill.runs);
  CHECK(drill.recovery.epoch() == 2);
  CHECK(drill.log.back().find("answers go on after") != std::string::npos);
}

TEST_CASE("what a spare would get if another were lost is what it gets when another is lost") {
  Drill drill;
  const auto computing = [&] {
    size_t nodes = 0;
    for (const char* name : {"a", "b", "c"})
      nodes += drill.recovery.is_here(name) && drill.recovery.in_plan(name);
    return nodes;
  };
  std::vector<std::string> spares;
  for (const char* name : {"a", "b", "c"})
    if (!drill.recovery.in_plan(name)) spares.push_back(name);
  REQUIRE(spares.size() == 1);
  const std::vector<Recovery::MakePlan> losses = drill.recovery.look_ahead(0);
  CHECK(losses.size() == computing());
  CHECK(drill.recovery.look_ahead(100).empty());  // once
  const auto always = [] { return true; };
  const std::vector<ShardSpec> ahead = shards_ahead(losses, spares, always).at(spares[0]);
  CHECK(shards_ahead(losses, spares, [] { return false; }).at(spares[0]).empty());
  CHECK(shards_from_json(shards_to_json(ahead), 12).value() == ahead);

  drill.lose(drill.used());
  drill.pass(0.5);
  REQUIRE(drill.load.has_value());
  size_t of_spare = 0;
  for (const StageAssignment& stage : drill.load->plan.stages) {
    if (drill.load->plan.devices[static_cast<size_t>(stage.device)] != spares[0]) continue;
    ++of_spare;
    const ShardSpec shard{stage.embedding, {stage.layer_begin, stage.layer_end}, stage.output};
    CHECK(std::find(ahead.begin(), ahead.end(), shard) != ahead.end());
  }
  CHECK(of_spare > 0);
  CHECK(drill.recovery.look_ahead(drill.now_s + 100).empty());  // while nobody computes
  drill.all_ready();
  CHECK(drill.recovery.look_ahead(drill.now_s).empty());
  CHECK(drill.recovery.look_ahead(drill.now_s + Recovery::kLookAheadAfter_s).size() == computing());
}

TEST_CASE("parts that are no parts of the model are not fetched ahead") {
  const std::string good = R"({"layer_begin":0,"layer_end":12,"embedding":true,"output":true})";
  CHECK(shards_from_json("[" + good + "]", 12).value().size() == 1);
  CHECK(shards_from_json("[]", 12).value().empty());
  for (const char* bad :
       {"", "7", "{}", "[7]", "[{}]", R"([{"layer_begin":0,"layer_end":13,"embedding":true,"output":true}])",
        R"([{"layer_begin":-1,"layer_end":3,"embedding":true,"output":true}])",
        R"([{"layer_begin":4,"layer_end":3,"embedding":true,"output":true}])",
        R"([{"layer_begin":0,"layer_end":1e99,"embedding":true,"output":true}])",
        R"([{"layer_begin":0,"layer_end":3,"embedding":1,"output":true}])"})
    CHECK(shards_from_json(bad, 12).has_error());
  std::string many = "[" + good;
  for (size_t i = 0; i < kShardsAheadMax; ++i) many += "," + good;
  CHECK(shards_from_json(many + "]", 12).has_error());
}

TEST_CASE("a second loss while loading: the next epoch, and what the first says is stale") {
  Drill drill;
  drill.lose(drill.used());
  drill.pass(0.5);
  const Recovery::Load first = *drill.load;
  // With two devices of 60 and the head there is room; with one there is none.
  std::string second;
  for (const std::string& node : drill.nodes())
    if (node != "head") second = node;
  drill.lose(second);
  drill.pass(0.5);
  CHECK_FALSE(drill.runs);
  CHECK_FALSE(drill.down.empty());
  const uint64_t stale = drill.recovery.stale();
  drill.recovery.ready("head", first.epoch, "", "", drill.now_s);
  CHECK(drill.recovery.stale() == stale + 1);
  CHECK_FALSE(drill.runs);
  // One comes back.
  drill.recovery.joined(device(drill.known, second), links_of(second, {"head", "a", "b", "c"}), drill.now_s);
  drill.act();
  drill.pass(0.5);
  CHECK(drill.load->epoch == 3);
  drill.all_ready();
  CHECK(drill.runs);
  CHECK(drill.down.empty());
}

TEST_CASE("what can be used again while a plan is made is in the next, and the service does not go down") {
  Drill drill;
  const auto settle = [&] {
    drill.act();
    drill.pass(0.5);
    if (drill.recovery.state() == Recovery::State::kLoading) drill.all_ready();
  };
  std::function<void()> meanwhile;

  SUBCASE("two nodes join, one after the other") {
    const auto join = [&](const std::string& node) {
      drill.recovery.joined(device(drill.known, node), links_of(node, {"head", "a", "b", "c"}), drill.now_s);
    };
    for (const char* node : {"a", "b", "c"}) drill.lose(node), settle();
    join("a");
    meanwhile = [join] { join("b"); };
  }
  SUBCASE("two suspects are cleared") {
    for (const char* node : {"a", "b", "c"}) {
      Suspects::Fault fault;
      fault.nodes = {node};
      fault.proven = true;
      fault.epoch = drill.recovery.epoch();
      drill.recovery.faulted(fault, drill.now_s);
      settle();
    }
    drill.recovery.examined("a", "", drill.now_s);
    meanwhile = [&] { drill.recovery.examined("b", "", drill.now_s); };
  }
  SUBCASE("two nodes that could not load may try again") {
    drill.recovery.failed({Errc::kPeerLost, "a step"}, drill.now_s);
    std::set<std::string> fit = {"a", "b", "c"};
    double again_s = 0;
    while (fit.size() > 1) {
      drill.act();
      drill.pass(0.5);
      REQUIRE(drill.recovery.state() == Recovery::State::kLoading);
      const std::string full = drill.nodes().back() == "head" ? drill.nodes().front() : drill.nodes().back();
      again_s = drill.now_s + LeftOut::kRest_s;
      drill.recovery.ready(full, drill.load->epoch, "out of memory", "", drill.now_s);
      fit.erase(full);
    }
    drill.act();
    drill.pass(0.5);
    drill.lose(*fit.begin());
    drill.now_s = again_s - 0.3;  // the first may, the second not yet
    meanwhile = [&drill, again_s] {
      drill.now_s = again_s;
      drill.recovery.tick(false, drill.now_s);
    };
  }
  REQUIRE_FALSE(drill.down.empty());
  drill.recovery.tick(false, drill.now_s);
  drill.act();
  REQUIRE(drill.asked.has_value());
  const Recovery::MakePlan order = *drill.asked;
  drill.asked.reset();
  drill.down.clear();
  meanwhile();
  REQUIRE(carry_out(order).has_error());
  drill.recovery.planned(order.ticket, carry_out(order), drill.now_s);
  drill.act();
  CHECK(drill.down.empty());
  drill.pass(0.5);
  REQUIRE(drill.recovery.state() == Recovery::State::kLoading);
  drill.all_ready();
  CHECK(drill.runs);
}

TEST_CASE("where there is no plan without a node that is kept out and calls, answers wait for it, a moment") {
  for (const bool comes : {true, false}) {
    CAPTURE(comes);
    Drill drill;
    drill.lose("a");
    drill.pass(0.5);
    drill.all_ready();
    CHECK(drill.runs);
    drill.recovery.calls("a", drill.now_s);
    drill.recovery.calls("b", drill.now_s);  // which is here
    drill.lose("b");
    drill.pass(0.5);
    CHECK(drill.recovery.state() == Recovery::State::kDown);  // it is needed
    CHECK(drill.down.empty());
    CHECK(drill.log.back().find("node a was kept out and calls: it is let in") != std::string::npos);
    drill.lose("c");  // that there is no plan now either gives it no more time
    drill.recovery.joined(device(drill.known, "c"), links_of("c", {"head"}), drill.now_s);
    drill.pass(Recovery::kCallerPatience_s - 1);
    CHECK(drill.down.empty());
    if (comes) {
      drill.recovery.joined(device(drill.known, "a"), links_of("a", {"head", "c"}), drill.now_s);
      drill.pass(0.5);
      REQUIRE(drill.recovery.state() == Recovery::State::kLoading);
      drill.all_ready();
      drill.pass(2 * Recovery::kCallerPatience_s);
      CHECK(drill.runs);
      CHECK(drill.down.empty());
      CHECK(drill.given_up == 0);
      continue;
    }
    drill.pass(1.5);
    CHECK_FALSE(drill.down.empty());
    // Those that waited are ended: for new ones nobody waits.
    drill.down.clear();
    drill.recovery.calls("a", drill.now_s);
    drill.lose("c");
    drill.recovery.joined(device(drill.known, "c"), links_of("c", {"head"}), drill.now_s);
    drill.pass(0.5);
    CHECK_FALSE(drill.down.empty());
  }
}

TEST_CASE("a spare that is lost stops nothing") {
  Drill drill;
  std::string spare;
  for (const char* name : {"a", "b", "c"})
    if (!drill.recovery.in_plan(name)) spare = name;
  if (spare.empty()) return;  // the planner uses all
  drill.lose(spare);
  drill.pass(1);
  CHECK(drill.runs);
  CHECK_FALSE(drill.load.has_value());
}

TEST_CASE("a link that cannot be made is planned around, and tried again later") {
  Drill drill;
  drill.lose(drill.used());
  drill.pass(0.5);
  const std::vector<std::string> nodes = drill.nodes();
  REQUIRE(nodes.size() >= 3);
  const std::string from = nodes[1], to = nodes[2];
  drill.recovery.ready(from, drill.load->epoch, to + " does not answer", to, drill.now_s);
  drill.act();
  drill.load.reset();
  drill.pass(0.5);
  REQUIRE(drill.load.has_value());
  const std::vector<std::string> around = drill.nodes();
  for (size_t i = 0; i + 1 < around.size(); ++i) CHECK_FALSE((around[i] == from && around[i + 1] == to));
  drill.all_ready();
  CHECK(drill.runs);
}

TEST_CASE("a node that cannot load is left out; where it is needed, service resumes when it may try again") {
  Drill drill;
  drill.lose(drill.used());
  drill.pass(0.5);
  std::string full;
  for (const std::string& node : drill.nodes())
    if (node != "head") full = node;
  drill.recovery.ready(full, drill.load->epoch, "out of memory", "", drill.now_s);
  drill.act();
  drill.load.reset();
  drill.pass(1);
  CHECK(drill.down.find("node " + full + " could not take its layers") != std::string::npos);
  drill.pass(LeftOut::kRest_s + 1);
  REQUIRE(drill.load.has_value());
  drill.all_ready();
  CHECK(drill.runs);
}

TEST_CASE("a head that cannot load is the reason that is given, not what the planner would advise") {
  Drill drill;
  drill.known.constraints.keep_on_head = KeepOnHead::kFirstLayer;
  drill.recovery = Recovery(drill.known, 1);
  drill.recovery.begin_running(make_plan(drill.known), {"head", "a", "b", "c"});
  drill.lose(drill.used());
  drill.pass(0.5);
  drill.recovery.ready("head", drill.load->epoch, "'m.gguf' was changed while it was in use", "",
                       drill.now_s);
  drill.act();
  drill.pass(1);
  CHECK(drill.down.find("the head head could not take its layers (the log says why) and is tried again") ==
        0);
  CHECK(drill.down.find("allow it") == std::string::npos);
}

TEST_CASE("a step that fails again and again ends what runs, and the pipeline is made anew all the same") {
  Drill drill;
  for (int i = 0; i <= Recovery::kFailuresMax + 1; ++i) {  // in the middle two are left out in vain
    CHECK(drill.given_up == 0);
    drill.load.reset();
    drill.recovery.failed({Errc::kBadFrame, "hidden is not finite"}, drill.now_s);
    drill.act();
    drill.pass(0.5);
    drill.all_ready();
    CHECK(drill.runs);
  }
  CHECK(drill.given_up == 1);
  // Failures that a loss explains are no reason.
  for (int i = 0; i <= 2 * Recovery::kFailuresMax; ++i) {
    drill.recovery.failed({Errc::kPeerLost, "the link to a stage is lost"}, drill.now_s);
    drill.act();
    const std::string lost = drill.used();
    drill.lose(lost);
    drill.recovery.joined(device(drill.known, lost), links_of(lost, {"head", "a", "b", "c"}), drill.now_s);
    drill.pass(0.5);
    drill.all_ready();
    CHECK(drill.runs);
  }
  CHECK(drill.given_up == 1);
}

TEST_CASE("one fault each of several nodes in a row ends nothing") {
  Drill drill;
  drill.recovery.failed({Errc::kPeerLost, "a link"}, drill.now_s);
  for (const char* node : {"a", "b", "c", "head"}) {
    drill.act();
    drill.pass(0.5);
    drill.all_ready();
    CHECK(drill.runs);
    Suspects::Fault fault;
    fault.nodes = {node};
    fault.where = node;
    fault.text = std::string("node ") + node + " computed what is not finite";
    drill.recovery.faulted(fault, drill.now_s);
  }
  drill.act();
  drill.pass(0.5);
  drill.all_ready();
  CHECK(drill.runs);
  CHECK(drill.given_up == 0);
}

TEST_CASE("a pipeline that fails again after each few answers ends what runs too") {
  Drill drill;
  int failures = 0;
  for (; drill.given_up == 0 && failures < 20; ++failures) {
    drill.recovery.failed({Errc::kIo, "node a says: no"}, drill.now_s);
    drill.act();
    drill.pass(0.5);
    drill.all_ready();
    CHECK(drill.runs);
    for (int i = 0; i < 40; ++i) drill.recovery.answered(drill.now_s);
  }
  CHECK(failures == 4);
  // What it answers in earnest makes up for that.
  for (int i = 0; i < 20; ++i) {
    drill.recovery.failed({Errc::kIo, "node a says: no"}, drill.now_s);
    drill.act();
    drill.pass(0.5);
    drill.all_ready();
    for (int k = 0; k < 100; ++k) drill.recovery.answered(drill.now_s += 1);
  }
  CHECK(drill.given_up == 1);
}

TEST_CASE("a node that cannot reach what it need not reach is left out itself") {
  for (const std::string other : {"nobody", "head"}) {
    CAPTURE(other);
    Drill drill;
    drill.lose(drill.used());
    drill.pass(0.5);
    const std::string liar = drill.nodes().back();
    REQUIRE(liar != "head");
    for (int i = 0; i < 5 && drill.recovery.state() == Recovery::State::kLoading; ++i) {
      drill.recovery.ready(liar, drill.load->epoch, "the line is dead", other, drill.now_s);
      drill.act();
      drill.pass(0.5);
    }
    CHECK_MESSAGE(drill.down.find("node " + liar + " could not take its layers") != std::string::npos,
                  drill.down);
  }
}

TEST_CASE("of one plan the first fault counts, and its node goes when it does it again under the next") {
  Drill drill;
  const std::string node = drill.used();
  Suspects::Fault fault;
  fault.nodes = {node};
  fault.where = node;
  fault.text = "node " + node + " computed what is not finite";
  for (int i = 0; i < 3; ++i) drill.recovery.faulted(fault, drill.now_s);  // the steps behind show the same
  drill.act();
  CHECK_FALSE(drill.runs);
  CHECK_FALSE(drill.recovery.is_suspect(node));
  drill.pass(0.5);
  drill.all_ready();
  CHECK(drill.runs);
  CHECK(drill.recovery.in_plan(node));
  drill.recovery.faulted(fault, drill.now_s);
  drill.act();
  CHECK(drill.recovery.is_suspect(node));
  drill.pass(0.5);
  drill.all_ready();
  CHECK(drill.runs);
  CHECK_FALSE(drill.recovery.in_plan(node));
  CHECK(drill.given_up == 0);
}

TEST_CASE(
    "what was answered wrongly ends what is under way; a late fault counts where its plan had none yet") {
  Drill drill;
  const std::string node = drill.used();
  Suspects::Fault fault;
  fault.nodes = {node};
  fault.where = node;
  fault.text = "node " + node + " computed other numbers";
  fault.answered = true;
  fault.epoch = 1;
  drill.recovery.faulted(fault, drill.now_s);
  drill.recovery.faulted(fault, drill.now_s);  // a step behind it, computed with the same cache
  drill.act();
  CHECK(drill.given_up == 1);
  CHECK_FALSE(drill.recovery.is_suspect(node));
  drill.pass(0.5);
  drill.all_ready();
  CHECK(drill.runs);
  CHECK(drill.recovery.in_plan(node));
  drill.recovery.faulted(fault, drill.now_s);  // of the plan before, told now
  drill.act();
  CHECK(drill.runs);
  CHECK(drill.given_up == 1);
  // Proven, it counts whenever it is told, once.
  fault.proven = true;
  drill.recovery.faulted(fault, drill.now_s);
  drill.act();
  CHECK_FALSE(drill.runs);
  CHECK(drill.given_up == 2);
  CHECK(drill.recovery.is_suspect(node));
  drill.pass(0.5);
  drill.all_ready();
  CHECK(drill.runs);
  CHECK_FALSE(drill.recovery.in_plan(node));
  drill.recovery.faulted(fault, drill.now_s);
  drill.act();
  CHECK(drill.runs);
  CHECK(drill.given_up == 2);
}

TEST_CASE("draining moves the layers first, and is refused where nobody else can hold them") {
  Drill drill;
  const std::string leaving = drill.used();
  REQUIRE(drill.recovery.drain(leaving, drill.now_s).has_value());
  drill.pass(1);
  REQUIRE(drill.load.has_value());
  for (const std::string& node : drill.nodes()) CHECK(node != leaving);
  drill.all_ready();
  CHECK(drill.runs);
  CHECK_FALSE(drill.recovery.in_plan(leaving));
  const std::string other = drill.used();
  drill.load.reset();
  REQUIRE(drill.recovery.drain(other, drill.now_s).has_value());
  drill.pass(6);
  CHECK_FALSE(drill.load.has_value());
  CHECK(drill.runs);
  CHECK_FALSE(drill.recovery.is_draining(other));
  CHECK(drill.recovery.drain("head", drill.now_s).has_error());
  CHECK(drill.recovery.drain("nobody", drill.now_s).error().message == "there is no node nobody");
  drill.lose(leaving);
  CHECK(drill.recovery.drain(leaving, drill.now_s).error().message.find("is not there (lost") !=
        std::string::npos);
}

TEST_CASE("who is drained stays so, whoever is lost or comes, until that is undone") {
  Drill drill;
  const std::string leaving = drill.used();
  REQUIRE(drill.recovery.drain(leaving, drill.now_s).has_value());
  CHECK(drill.recovery.is_leaving(leaving));
  drill.pass(1);
  drill.all_ready();
  CHECK_FALSE(drill.recovery.is_leaving(leaving));
  CHECK(drill.recovery.drained() == std::set<std::string>{leaving});
  // It goes and comes, or the others load once more: nothing is said of it, and nothing given to it.
  drill.lose(leaving);
  drill.recovery.joined(device(drill.known, leaving), {}, drill.now_s);
  drill.act();
  CHECK(drill.log.back() == "node " + leaving +
                                " has joined; it is drained and takes no layers until `shoal drain --undo " +
                                leaving + "`");
  const size_t said = drill.log.size();
  drill.pass(20, /*quiet=*/true);
  CHECK(drill.log.size() == said);
  CHECK_FALSE(drill.recovery.in_plan(leaving));
  // Without another there is no plan but with it. That ends when another comes.
  const std::string gone = drill.used();
  drill.lose(gone);
  drill.pass(1);
  drill.all_ready();
  CHECK(drill.runs);
  CHECK(drill.recovery.in_plan(leaving));
  CHECK_FALSE(drill.recovery.is_draining(leaving));
  CHECK(drill.recovery.drained().contains(leaving));
  drill.pass(20, /*quiet=*/true);
  CHECK(drill.runs);
  drill.load.reset();
  drill.recovery.joined(device(drill.known, gone), {}, drill.now_s);
  drill.pass(6);
  REQUIRE(drill.load.has_value());
  drill.all_ready();
  CHECK(drill.runs);
  CHECK_FALSE(drill.recovery.in_plan(leaving));
  CHECK(drill.recovery.is_draining(leaving));
  // It may be drained twice, and let in again once.
  CHECK(drill.recovery.drain(leaving, drill.now_s).has_value());
  CHECK(drill.recovery.undrain(leaving, drill.now_s).has_value());
  CHECK(drill.recovery.undrain(leaving, drill.now_s).error().message ==
        "node " + leaving + " is not drained");
  CHECK(drill.recovery.drained().empty());
  drill.lose(gone);
  drill.pass(1);
  CHECK(drill.recovery.in_plan(leaving));
}

TEST_CASE("a head that is started again knows who was drained: with a plan that has it, and without any") {
  Drill running;
  const std::string drained = running.used();
  running.recovery.remember_drained({drained, "elsewhere"});
  running.pass(1);
  REQUIRE(running.load.has_value());
  running.all_ready();
  CHECK(running.runs);
  CHECK_FALSE(running.recovery.in_plan(drained));
  CHECK(running.recovery.drained() == std::set<std::string>{drained, "elsewhere"});

  Drill fresh;
  fresh.recovery = Recovery(fresh.known, 0);
  fresh.recovery.remember_drained({"a"});
  fresh.recovery.begin_down({"a", "b", "c"}, 5, 0);
  for (const char* name : {"a", "b", "c"}) fresh.recovery.joined(device(fresh.known, name), {}, 1);
  fresh.pass(1);
  REQUIRE(fresh.load.has_value());
  fresh.all_ready();
  CHECK_FALSE(fresh.recovery.in_plan("a"));
  CHECK(fresh.recovery.in_plan("b"));
  CHECK(fresh.recovery.in_plan("c"));
}

TEST_CASE("while there is no plan no node has layers: draining one is done at once") {
  Drill drill;
  const std::string kept = drill.used();
  for (const char* node : {"a", "b", "c"})
    if (node != kept) drill.lose(node);
  drill.pass(0.5);
  REQUIRE_FALSE(drill.down.empty());
  REQUIRE(drill.recovery.in_plan(kept));  // the last
  REQUIRE(drill.recovery.drain(kept, drill.now_s).has_value());
  CHECK_FALSE(drill.recovery.is_leaving(kept));
  CHECK(drill.recovery.is_draining(kept));
}

TEST_CASE("a plan whose weights take long over its links has longer to load") {
  PlanInput known = cluster_of({{"head", 60}, {"a", 60}, {"b", 60}});
  const Plan plan = make_plan(known);
  const double fast_s = load_patience_s(known, plan, /*needed=*/true);
  CHECK(fast_s >= Recovery::kNeededLoad_s);
  CHECK(fast_s < Recovery::kNeededLoad_s + 10);
  CHECK(fast_s - load_patience_s(known, plan, /*needed=*/false) ==
        doctest::Approx(Recovery::kNeededLoad_s - Recovery::kBetterLoad_s));
  known.links = LinkTable(3, {1e-3, 1e4});  // 10 MiB take 1000 s
  CHECK(load_patience_s(known, plan, true) > Recovery::kNeededLoad_s + 5000);
  // From others then: what is left is the disk of the node that reads most.
  known.links = LinkTable(3, {0, 0});
  double most = 0;
  for (const StageAssignment& stage : plan.stages) {
    const int ends = (stage.embedding ? 1 : 0) + (stage.output ? 1 : 0);
    most = std::max(most, static_cast<double>(stage.layers()) * 10 + ends);
  }
  CHECK(load_patience_s(known, plan, true) ==
        doctest::Approx(Recovery::kNeededLoad_s + most * static_cast<double>(kMiB) / 20e6));
}

TEST_CASE("a faster device is used at a quiet moment, not before") {
  Drill drill;
  fast_one_joins(drill);
  drill.pass(20, /*quiet=*/false);
  CHECK_FALSE(drill.load.has_value());
  drill.pass(20, /*quiet=*/true);
  REQUIRE(drill.load.has_value());
  drill.all_ready();
  CHECK(drill.runs);
  CHECK(drill.recovery.in_plan("fast"));
}

TEST_CASE("a head alone waits for the nodes it knows and takes up the plan that they still hold") {
  // A device that says it is three times as fast as before is a reason to move layers, later.
  for (const double speed : {1.0, 3.0}) {
    CAPTURE(speed);
    const PlanInput known = cluster_of({{"head", 50}, {"a", 60}, {"b", 60}, {"c", 60}});
    Plan held = make_plan(known);
    PlanInput faster = known;
    for (DeviceProfile& device : faster.devices) {
      const bool spare = std::none_of(held.stages.begin(), held.stages.end(), [&](const StageAssignment& s) {
        return held.devices[static_cast<size_t>(s.device)] == device.name;
      });
      if (!spare) continue;
      device.decode_layer = {{1, 1e-3 / speed}};
      device.output_head = {{1, 1e-3 / speed}};
    }
    Recovery recovery(known, 0);
    recovery.begin_down({"a", "b", "c"}, 5, 0);
    Plan older = held;  // of a node that missed the last one
    older.stages.clear();
    recovery.remember(older, 4);
    recovery.remember(held, 7);
    recovery.remember(older, 6);
    recovery.remember(std::nullopt, 5);  // another node's, of before
    double now_s = 0;
    std::vector<std::string> here = {"head"};
    for (const char* name : {"a", "b", "c"}) {
      now_s += 0.3;
      recovery.tick(true, now_s);
      recovery.joined(device(faster, name), links_of(name, here), now_s);
      here.emplace_back(name);
    }
    std::optional<Recovery::MakePlan> asked;
    std::optional<Recovery::Load> load;
    const auto act = [&] {
      for (const Recovery::Action& action : recovery.take_actions()) {
        if (const auto* order = std::get_if<Recovery::MakePlan>(&action)) asked = *order;
        if (const auto* order = std::get_if<Recovery::Load>(&action)) load = *order;
      }
    };
    act();
    REQUIRE(asked.has_value());  // at once: all are there
    recovery.planned(asked->ticket, carry_out(*asked), now_s);
    act();
    REQUIRE(load.has_value());
    CHECK(load->epoch == 8);
    CHECK(canonical_plan_text(load->plan) == canonical_plan_text(held));
    for (const char* name : {"head", "a", "b", "c"}) recovery.ready(name, 8, "", "", now_s);
    REQUIRE(recovery.state() == Recovery::State::kRunning);
    asked.reset();
    recovery.tick(/*quiet=*/true, now_s + 20);
    act();
    REQUIRE(asked.has_value());
    CHECK(carry_out(*asked)->move == (speed > 1));
  }
}

TEST_CASE("layers divided by hand stay so while all hands are there, and again when they are back") {
  PlanInput known = cluster_of({{"head", 80}, {"a", 80}, {"b", 80}});
  known.constraints.manual = {{0, 0, 4}, {1, 4, 8}, {2, 8, 12}};
  Recovery recovery(known, 1);
  recovery.begin_running(make_plan(known), {"head", "a", "b"});
  recovery.lost("b", "gone", 0);
  recovery.tick(false, 1);
  for (const Recovery::Action& action : recovery.take_actions()) {
    const auto* order = std::get_if<Recovery::MakePlan>(&action);
    if (order == nullptr) continue;
    CHECK(order->live.constraints.manual.empty());
    const Result<ReplanAdvice> advice = carry_out(*order);
    REQUIRE(advice.has_value());
    recovery.planned(order->ticket, advice, 1);
  }
  REQUIRE(recovery.state() == Recovery::State::kLoading);
  for (const char* node : {"head", "a"}) recovery.ready(node, recovery.epoch(), "", "", 2);
  REQUIRE(recovery.state() == Recovery::State::kRunning);
  recovery.joined(known.devices[2], links_of("b", {"head", "a"}), 3);
  (void)recovery.take_actions();
  recovery.tick(/*quiet=*/true, 30);
  for (const Recovery::Action& action : recovery.take_actions()) {
    const auto* order = std::get_if<Recovery::MakePlan>(&action);
    if (order != nullptr) recovery.planned(order->ticket, carry_out(*order), 30);
  }
  REQUIRE(recovery.state() == Recovery::State::kLoading);
  for (const char* node : {"head", "a", "b"}) CHECK(recovery.in_plan(node));
  for (const char* node : {"head", "a", "b"}) recovery.ready(node, recovery.epoch(), "", "", 31);
  REQUIRE(recovery.state() == Recovery::State::kRunning);
  recovery.tick(/*quiet=*/true, 60);  // and there they stay
  for (const Recovery::Action& action : recovery.take_actions()) {
    if (const auto* order = std::get_if<Recovery::MakePlan>(&action)) CHECK_FALSE(carry_out(*order)->move);
  }
}

}  // namespace shoal
