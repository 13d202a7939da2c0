// Numbers that go wrong in a running cluster: damaged on the way, or not finite, once and always.
#include <doctest/doctest.h>

#include "tests/node/caller.h"
#include "tests/node/kept_cluster.h"
#include "tests/support/comes_true.h"

namespace shoal::test {
namespace {

using Kind = ClusterEvent::Kind;

std::vector<Reply> ask(KeptCluster& cluster) {
  Requests requests;
  GenerationRequest drawn = greedy(prompt_of(20, 2), 12);
  drawn.sampling.temperature = 0.9f;
  drawn.sampling.seed = 11;
  requests.submit(cluster.coordinator(), greedy(prompt_of(30, 1), 12));
  requests.submit(cluster.coordinator(), drawn);
  REQUIRE(requests.wait_all());
  return {requests.reply(0), requests.reply(1)};
}

// What a cluster answers that nothing befalls.
const std::vector<Reply>& undisturbed() {
  static const std::vector<Reply> replies = [] {
    KeptCluster cluster({"a", "b"});
    return ask(cluster);
  }();
  return replies;
}

void check_undisturbed(const std::vector<Reply>& replies) {
  for (size_t i = 0; i < replies.size(); ++i) {
    CHECK(replies[i].error.message == "");
    CHECK(replies[i].reason == FinishReason::kLength);
    CHECK(replies[i].tokens == undisturbed()[i].tokens);
  }
}

// Of three nodes the head and one other compute; the third is spare.
std::string used(const std::vector<std::string>& names) {
  static const std::string which = [&] {
    KeptCluster cluster(names);
    REQUIRE(cluster.stage_nodes().size() == 2);
    return cluster.stage_nodes().back();
  }();
  return which;
}

}  // namespace

TEST_CASE("values that are not finite once: the step is computed again on the same nodes and counted") {
  KeptCluster cluster({"a", "b"}, "b", 0, /*times=*/1);
  check_undisturbed(ask(cluster));
  CHECK(cluster.counters().failed == std::map<std::string, uint64_t>{{"b", 1}});
  CHECK(cluster.counters().suspected == 0);
  CHECK(cluster.state_of("b") == "in use");
  const std::string told = cluster.told(Kind::kFailed);
  CHECK_MESSAGE(mentions(told, "node b (layers"), told);
  CHECK(mentions(told, "not finite"));
}

TEST_CASE("values that are never finite on one node: another takes its layers and the answers are the same") {
  const std::vector<std::string> names = {"a", "b", "c"};
  const std::string bad = used(names), spare = bad == "b" ? "c" : "b";
  KeptCluster cluster(names, bad, 0);
  check_undisturbed(ask(cluster));
  CHECK(cluster.counters().failed == std::map<std::string, uint64_t>{{bad, 2}});
  CHECK(cluster.counters().suspected == 1);
  CHECK(cluster.state_of(bad) == "suspect");
  CHECK(cluster.stage_nodes() == std::vector<std::string>{"a", spare});
  CHECK(mentions(cluster.told(Kind::kSuspect), "node " + bad + " is suspect"));
}

TEST_CASE("a node that cannot be done without: an error that names it and its layers, an exam, and on") {
  KeptCluster cluster({"a", "b"}, "b", 0);
  for (const Reply& reply : ask(cluster)) {
    CHECK(reply.reason == FinishReason::kError);
    CHECK(reply.error.code == Errc::kPeerLost);  // status 503
    CHECK_MESSAGE(mentions(reply.error.message, "without node b, which is suspect: node b (layers"),
                  reply.error.message);
  }
  REQUIRE(comes_true([&] { return !cluster.told(Kind::kCleared).empty(); }));
  CHECK(mentions(cluster.told(Kind::kCleared), "node b gives the known answers"));
}

TEST_CASE("a node that fails the exam stays out") {
  KeptCluster cluster({"a", "b"}, "b", 0);
  cluster.fail_exams("b");
  CHECK(ask(cluster)[0].reason == FinishReason::kError);
  REQUIRE(comes_true([&] { return !cluster.told(Kind::kRefused).empty(); }));
  CHECK(mentions(cluster.told(Kind::kRefused), "node b computes known numbers wrongly and stays out"));
  CHECK(cluster.state_of("b") == "suspect");
  CHECK(ask(cluster)[0].error.code == Errc::kPeerLost);  // refused at once
}

TEST_CASE("a frame that comes damaged once is computed again; always, without the node behind that wire") {
  const std::vector<std::string> names = {"a", "b", "c"};
  const std::string bad = used(names), spare = bad == "b" ? "c" : "b";
  KeptCluster cluster(names);
  cluster.wire_to(bad).flip(1);
  check_undisturbed(ask(cluster));
  CHECK(cluster.wire_to(bad).flipped() == 1);
  const std::string hop = "a > " + bad;
  CHECK(cluster.counters().failed == std::map<std::string, uint64_t>{{hop, 1}});
  CHECK(cluster.counters().suspected == 0);
  CHECK(cluster.stage_nodes().back() == bad);
  CHECK_MESSAGE(mentions(cluster.told(Kind::kFailed), "payload is damaged"), cluster.told(Kind::kFailed));
  cluster.wire_to(bad).flip(1 << 20);
  check_undisturbed(ask(cluster));
  CHECK(cluster.wire_to(bad).flipped() >= 2);
  CHECK(cluster.counters().failed == std::map<std::string, uint64_t>{{hop, 2}});
  CHECK(cluster.state_of(bad) == "suspect");
  CHECK(cluster.stage_nodes().back() == spare);
}

TEST_CASE("answers that nobody asked for: once is chance, then their sender is taken out and counted") {
  const std::vector<std::string> names = {"a", "b", "c"};
  const std::string bad = used(names), spare = bad == "b" ? "c" : "b";
  KeptCluster cluster(names);
  for (uint64_t epoch = 1; epoch <= 2; ++epoch) {
    ResultMessage answer;
    answer.epoch = epoch;
    answer.step_id = 1000;
    cluster.node(bad).tell_head(answer);
    const auto anew = [&] {
      return cluster.on_io([&] {
        return cluster.keeper().epoch() > epoch && cluster.keeper().state() == Recovery::State::kRunning;
      });
    };
    REQUIRE(comes_true(anew));
    CHECK(cluster.state_of(bad) == (epoch == 1 ? "in use" : "suspect"));
  }
  CHECK(cluster.counters().failed == std::map<std::string, uint64_t>{{bad, 2}});
  CHECK(cluster.counters().suspected == 1);
  const std::string told = cluster.told(Kind::kSuspect);
  CHECK_MESSAGE(mentions(told, "an answer from node " + bad + " (layers"), told);
  CHECK(mentions(told, "step 1000, which is not under way"));
  CHECK(cluster.stage_nodes() == std::vector<std::string>{"a", spare});
  check_undisturbed(ask(cluster));
}

}  // namespace shoal::test
