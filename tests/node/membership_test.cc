#include "node/membership.h"

#include <doctest/doctest.h>

namespace shoal {
namespace {

// Beats from `begin_s` to `end_s`, five a second, ticking at each; the losses told.
std::vector<Membership::Loss> beat(Membership& members, double begin_s, double end_s, bool working,
                                   bool moves) {
  std::vector<Membership::Loss> losses;
  static uint64_t progress = 0;
  for (double now_s = begin_s; now_s < end_s; now_s += 0.1) {
    if (static_cast<int>(now_s * 10 + 0.5) % 2 == 0)
      members.heartbeat("pi", progress += moves, working, now_s);
    for (const Membership::Loss& loss : members.tick(now_s)) losses.push_back(loss);
  }
  return losses;
}

std::vector<Membership::Loss> wait(Membership& members, double begin_s, double end_s) {
  std::vector<Membership::Loss> losses;
  for (double now_s = begin_s; now_s < end_s; now_s += 0.1)
    for (const Membership::Loss& loss : members.tick(now_s)) losses.push_back(loss);
  return losses;
}

}  // namespace

TEST_CASE("a silent node is lost within three seconds, once") {
  Membership members;
  members.joined("pi", 0);
  CHECK(beat(members, 0, 10, false, false).empty());
  CHECK(wait(members, 10, 12).empty());
  const auto losses = wait(members, 12, 30);
  REQUIRE(losses.size() == 1);
  CHECK(losses[0].node == "pi");
  CHECK(losses[0].hangs);
  CHECK_FALSE(members.is_here("pi"));
}

TEST_CASE("the moment of the next loss is known ahead, and not a moment before is anybody lost") {
  constexpr double kInstant = 1e-6;
  Membership members;
  CHECK(members.next_loss_s() > 1e300);
  members.joined("quiet", 0, /*beats=*/false);
  CHECK(members.next_loss_s() > 1e300);  // of one that need not speak
  members.joined("pi", 10.05);
  members.joined("attic", 10.02);
  CHECK(members.next_loss_s() == 10.02 + Membership::kSilence_s);
  members.heartbeat("attic", 7, true, 11.37);
  CHECK(members.next_loss_s() == 10.05 + Membership::kSilence_s);
  // It works and gets nothing done: beats do not put that off.
  for (double now_s = 11.4; now_s < 14; now_s += 0.2) {
    members.heartbeat("pi", 1, false, now_s);
    members.heartbeat("attic", 7, true, now_s);
  }
  const double stalled_s = 11.37 + Membership::kStallLeast_s;
  CHECK(members.next_loss_s() == stalled_s);
  CHECK(members.tick(stalled_s - kInstant).empty());
  const auto losses = members.tick(stalled_s);
  REQUIRE(losses.size() == 1);
  CHECK(losses[0].node == "attic");
  const double silent_s = members.next_loss_s();
  CHECK(silent_s > 13.7 + Membership::kSilence_s);
  CHECK(wait(members, stalled_s, silent_s - kInstant).empty());
  CHECK(members.tick(silent_s - kInstant).empty());
  CHECK(members.tick(silent_s).size() == 1);
  CHECK(members.next_loss_s() > 1e300);
}

TEST_CASE("a node that hangs before its first sign of life is lost too") {
  Membership members;
  members.joined("pi", 0);
  CHECK(wait(members, 0, 2).empty());
  CHECK(wait(members, 2, 5).size() == 1);
}

TEST_CASE("a node that beats and gets nothing done is lost only while it has work") {
  Membership members;
  members.joined("pi", 0);
  CHECK(beat(members, 0, 20, false, false).empty());  // nothing to do
  CHECK(beat(members, 20, 40, true, true).empty());   // working
  const auto losses = beat(members, 40, 50, true, false);
  REQUIRE(losses.size() == 1);
  CHECK(losses[0].why.find("got nothing done") != std::string::npos);
}

TEST_CASE("a slow node is not lost within its limits") {
  Membership members;
  members.joined("pi", 0);
  members.set_limits("pi", {Membership::kSilence_s, 16});
  CHECK(beat(members, 0, 15, true, false).empty());
}

TEST_CASE("anything heard is a sign of life, and one of which none is expected is not lost for silence") {
  Membership members;
  members.joined("pi", 0, /*beats=*/false);
  CHECK(wait(members, 0, 60).empty());
  members.heartbeat("pi", 1, false, 60);
  for (double now_s = 60; now_s < 70; now_s += 0.1) {
    members.heard("pi", now_s);
    CHECK(members.tick(now_s).empty());
  }
}

TEST_CASE("a watcher that was stopped itself blames nobody") {
  Membership members;
  members.joined("pi", 0);
  CHECK(beat(members, 0, 10, false, false).empty());
  CHECK(members.tick(40).empty());  // stopped for half a minute
  members.heartbeat("pi", 1, false, 40.1);
  CHECK(wait(members, 40.1, 42).empty());
  CHECK(wait(members, 42, 50).size() == 1);
}

TEST_CASE("who stood still itself is given up by all, and holds it against nobody") {
  for (const bool slept : {false, true}) {  // a device that sleeps, and whose clock does
    Membership members;
    double now_s = 0;
    members.joined("pi", now_s);
    for (int i = 0; i < 3 * Membership::kJoinsMax; ++i) {
      const double awake_s = now_s + (slept ? 0.1 : 5);
      CHECK(beat(members, now_s, now_s + 2, false, false).empty());
      if (slept) members.slept(now_s + 2.1);
      members.left("pi", awake_s + 2);  // heard before the first tick
      CHECK(members.tick(awake_s + 2.1).empty());
      now_s = awake_s + 3;
      REQUIRE(members.may_join("pi", now_s).admitted);
      members.joined("pi", now_s);
    }
    // Who goes for reasons of its own is counted, soon.
    int joins = 0;
    for (now_s += Membership::kAfterwards_s; members.may_join("pi", now_s).admitted; now_s += 1) {
      CHECK(members.tick(now_s).empty());
      members.left("pi", now_s);
      members.joined("pi", now_s + 0.5);
      if (++joins > Membership::kJoinsMax) break;
    }
    CHECK(joins <= Membership::kJoinsMax);
  }
}

TEST_CASE("one that comes and goes is kept out, longer each time, and is forgiven when it stays") {
  Membership members;
  double now_s = 100;
  const auto flap = [&] {
    int joins = 0;
    for (int i = 0; i < 10; ++i) {
      if (!members.may_join("pi", now_s).admitted) break;
      members.joined("pi", now_s);
      ++joins;
      members.left("pi", now_s + 1);
      now_s += 2;
    }
    return joins;
  };
  CHECK(flap() == Membership::kJoinsMax);
  const Membership::Verdict first = members.may_join("pi", now_s);
  CHECK_FALSE(first.admitted);
  CHECK(first.retry_after_s > 50);
  CHECK(first.retry_after_s <= Membership::kJoinWindow_s);
  CHECK(members.may_join("pi", now_s, /*needed=*/true).admitted);
  now_s += first.retry_after_s + 1;
  CHECK(flap() == Membership::kJoinsMax);
  const double second_s = members.quarantined_s("pi", now_s);
  CHECK(second_s > first.retry_after_s);
  now_s += second_s + 1;
  REQUIRE(members.may_join("pi", now_s).admitted);
  members.joined("pi", now_s);
  now_s += Membership::kForgiven_s + 1;
  members.left("pi", now_s);
  CHECK(flap() == Membership::kJoinsMax);
  CHECK(members.quarantined_s("pi", now_s) <= Membership::kJoinWindow_s);
}

TEST_CASE("one that is ended in order and started again does not come and go") {
  Membership members;
  for (double now_s = 0; now_s < 60; now_s += 3) {
    REQUIRE(members.may_join("pi", now_s).admitted);
    members.joined("pi", now_s);
    members.left("pi", now_s + 1, /*in_order=*/true);
  }
  CHECK(members.quarantined_s("pi", 60) == 0);
}

TEST_CASE("a name that is here cannot join a second time") {
  Membership members;
  members.joined("pi", 0);
  const Membership::Verdict verdict = members.may_join("pi", 1);
  CHECK_FALSE(verdict.admitted);
  CHECK(verdict.why.find("here already") != std::string::npos);
  CHECK(verdict.name_taken);
}

}  // namespace shoal
