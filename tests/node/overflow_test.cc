// Answers that overflow behind an adapter end alone: in one process, on several stages, and in a cluster that
// is kept running, where no node is blamed for them that gives the known answers.
#include <doctest/doctest.h>

#include "tests/node/kept_cluster.h"
#include "tests/support/comes_true.h"

namespace shoal::test {
namespace {

constexpr int kSound = 1;

GenerationRequest through(std::vector<int32_t> prompt, int adapter, int tokens = 20) {
  GenerationRequest request = greedy(std::move(prompt), tokens);
  request.adapter.index = adapter;
  return request;
}

void check_overflow(const Reply& reply) {
  CHECK(reply.reason == FinishReason::kError);
  CHECK(reply.error.code == Errc::kInvalidInput);  // status 400
  CHECK(reply.tokens.empty());
  CHECK_MESSAGE(mentions(reply.error.message, "ask for a smaller scale"), reply.error.message);
}

// Of the last two a third of a prompt is the same, so that one may begin from the other's cache.
std::vector<GenerationRequest> overflowing() {
  std::vector<int32_t> prompt = prompt_of(100, 9), alike = prompt;
  alike.resize(60);
  const std::vector<int32_t> rest = prompt_of(30, 10);
  alike.insert(alike.end(), rest.begin(), rest.end());
  return {through(prompt_of(5, 8), kOverflowingLora), through(prompt, kOverflowingLora),
          through(alike, kOverflowingLora)};
}

TEST_CASE("what overflows behind an adapter ends, and all that was computed beside it is as if alone") {
  ClusterShape shape;
  shape.adapters = kOverflowingLora;
  shape.slots = 6;
  std::vector<GenerationRequest> sound;
  for (const int length : {3, 50, 90}) {
    const std::vector<int32_t> prompt = prompt_of(length, static_cast<uint64_t>(length));
    sound.push_back(through(prompt, 0));
    sound.push_back(through(prompt, kSound));
  }
  std::vector<std::vector<int32_t>> expected;
  for (const GenerationRequest& request : sound) {
    LocalCluster alone(shape);
    expected.push_back(answers(alone, {request})[0].tokens);
  }
  for (const std::vector<std::string>& nodes :
       {std::vector<std::string>{"a"}, {"a", "b"}, {"a", "b", "c"}, {"b", "a"}}) {
    shape.node_of_stage = nodes;
    LocalCluster cluster(shape);
    for (int round = 0; round < 4; ++round) {
      std::vector<GenerationRequest> requests;
      for (size_t i = 0; i < sound.size(); ++i) {
        requests.push_back(sound[i]);
        if (i % 2 == 1) requests.push_back(overflowing()[i / 2]);
      }
      const std::vector<Reply> replies = answers(cluster, requests);
      for (size_t i = 0, at = 0; i < sound.size(); ++i, ++at) {
        CAPTURE(i);
        CHECK(replies[at].error.message == "");
        CHECK(replies[at].tokens == expected[i]);
        if (i % 2 == 1) check_overflow(replies[++at]);
      }
    }
  }
}

TEST_CASE("an answer that overflows is cancelled, or its slot taken by another, while it is under way") {
  ClusterShape shape;
  shape.adapters = kOverflowingLora;
  shape.slots = 2;
  shape.node_of_stage = {"a", "b", "c"};
  LocalCluster cluster(shape);
  const GenerationRequest sound = through(prompt_of(40, 3), kSound);
  const std::vector<int32_t> expected = answers(cluster, {sound})[0].tokens;
  for (int round = 0; round < 20; ++round) {
    Requests requests;
    const size_t ended = requests.submit(cluster.coordinator(), overflowing()[1]);
    cluster.coordinator().cancel(requests.id(ended));
    const size_t other = requests.submit(cluster.coordinator(), sound);
    requests.submit(cluster.coordinator(), overflowing()[2]);
    REQUIRE(requests.wait_all());
    CHECK(requests.reply(other).tokens == expected);
    check_overflow(requests.reply(2));
  }
}

TEST_CASE("in a cluster nobody is blamed for an overflow, however often it is asked for, and all goes on") {
  KeptCluster cluster({"a", "b"}, "", 0, 0, kOverflowingLora);
  const GenerationRequest sound = through(prompt_of(30, 1), 0, 60);
  Requests first;
  first.submit(cluster.coordinator(), sound);
  REQUIRE(first.wait_all());
  for (int round = 0; round < 5; ++round) {
    Requests requests;
    requests.submit(cluster.coordinator(), sound);
    REQUIRE(requests.wait_for_tokens(0, 3));
    const size_t overflows = requests.submit(cluster.coordinator(), overflowing()[1]);
    REQUIRE(requests.wait_all());
    check_overflow(requests.reply(overflows));
    CHECK(requests.reply(0).tokens == first.reply(0).tokens);
  }
  const PipelineKeeper::Counters counters = cluster.counters();
  CHECK(counters.failed.empty());
  CHECK(counters.suspected == 0);
  CHECK(counters.resumed == 0);
  CHECK(cluster.state_of("b") == "in use");
}

TEST_CASE("a node that computes and does not give the known answers is found by what overflows") {
  KeptCluster cluster({"a", "b", "c"}, "", 0, 0, kOverflowingLora);
  const std::string bad = cluster.stage_nodes().back();
  cluster.fail_exams(bad);
  Requests requests;
  requests.submit(cluster.coordinator(), through(prompt_of(30, 1), 0, 80));
  const size_t overflows = requests.submit(cluster.coordinator(), overflowing()[0]);
  REQUIRE(requests.wait(overflows));
  check_overflow(requests.reply(overflows));
  REQUIRE(requests.wait_all());
  CHECK(requests.reply(0).error.message == "");
  CHECK(comes_true([&] { return cluster.state_of(bad) == "suspect"; }));
  CHECK_MESSAGE(mentions(cluster.told(ClusterEvent::Kind::kSuspect), "computes known numbers wrongly"),
                cluster.told(ClusterEvent::Kind::kSuspect));
  CHECK(cluster.stage_nodes().back() != bad);
}

}  // namespace
}  // namespace shoal::test
