// Steps computed again on the head: nothing to say of sound nodes, and one flipped bit is found.
#include "node/verifier.h"

#include <doctest/doctest.h>

#include <chrono>
#include <thread>

#include "tests/node/caller.h"
#include "tests/node/kept_cluster.h"

namespace shoal::test {
namespace {

// A cluster whose every step that may be is computed again.
struct Verified {
  explicit Verified(const std::vector<std::string>& names, const std::string& spoiled = "", uint32_t flip = 1)
      : cluster(names, spoiled, flip), model(ModelConfig::from(cluster.sound())) {
    verifier = std::make_unique<Verifier>(
        cluster.head(), Verifier::Source{cluster.sound(), model, select_kernels()}, 1.0,
        [this](const Suspects::Fault& fault) { cluster.keeper().accuse(fault); });
    verifier->sample_steps_of(cluster.coordinator());
  }
  Reply ask(int prompt, int tokens) {
    Requests requests;
    requests.submit(cluster.coordinator(), greedy(prompt_of(prompt, 3), tokens));
    REQUIRE(requests.wait(0));
    return requests.reply(0);
  }
  template <class Condition>
  bool comes(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition() && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    return condition();
  }

  KeptCluster cluster;
  ModelConfig model;
  std::unique_ptr<Verifier> verifier;
};

}  // namespace

TEST_CASE("sound nodes compute what the head computes, prompts and answers, chunked and batched") {
  Verified verified({"a", "b"});
  for (int i = 0; i < 4; ++i) {
    Requests requests;
    for (int k = 0; k < 3; ++k)
      requests.submit(verified.cluster.coordinator(), greedy(prompt_of(40 + 3 * k, 10 * i + k), 8));
    REQUIRE(requests.wait_all());
    const uint64_t steps = verified.verifier->counts().steps;
    CHECK(verified.comes([&] {
      (void)verified.ask(9, 1);
      return verified.verifier->counts().steps > steps;
    }));
  }
  CHECK(verified.verifier->counts().different == 0);
  CHECK(verified.cluster.counters().failed.empty());
  CHECK(verified.verifier->counts().rows > 0);
}

TEST_CASE("one flipped bit of one weight in a node's memory is found, and the node is taken out") {
  const std::vector<std::string> names = {"a", "b", "c"};
  std::string bad;
  {
    KeptCluster sound(names);
    bad = sound.stage_nodes().back();
  }
  Verified verified(names, bad, /*flip=*/1u << 12);
  CHECK(verified.comes([&] {
    (void)verified.ask(20, 2);
    return verified.cluster.state_of(bad) == "suspect";
  }));
  CHECK(verified.verifier->counts().different >= 1);
  const std::string told = verified.cluster.told(ClusterEvent::Kind::kSuspect);
  CHECK_MESSAGE(mentions(told, "node " + bad + " (layers"), told);
  CHECK(mentions(told, "computed other numbers than the head"));
  // The other has its layers; the answers are those of sound nodes.
  const uint64_t before = verified.verifier->counts().steps;
  Reply reply;
  CHECK(verified.comes([&] {
    reply = verified.ask(20, 6);
    return reply.error.message.empty() && verified.verifier->counts().steps > before;
  }));
  Verified sound({"a", "b"});
  CHECK(reply.tokens == sound.ask(20, 6).tokens);
  CHECK(verified.verifier->counts().different <= 2);
}

TEST_CASE("samples cost their whole history, on average the share that was asked for") {
  KeptCluster cluster({"a", "b"});
  const ModelConfig model = ModelConfig::from(cluster.sound());
  Verifier verifier(cluster.head(), {cluster.sound(), model, select_kernels()}, 0.1, {});
  double rows = 0, again = 0;
  for (int i = 0; i < 200'000; ++i) {
    const int end = 1 + i % (Verifier::kPositionsMax + 20);
    rows += end <= Verifier::kPositionsMax;
    if (verifier.wants(1, end)) again += end;
  }
  CHECK(again / rows > 0.08);
  CHECK(again / rows < 0.12);
  CHECK_FALSE(verifier.wants(1, Verifier::kPositionsMax + 1));
}

}  // namespace shoal::test
