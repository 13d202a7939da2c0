// Answers that overflow behind an adapter end alone: in one process, on several stages, and in a cluster that
// is kept running, where no node is blamed for them that gives the known answers.
#include <doctest/doctest.h>

#include <algorithm>
#include <deque>
#include <random>

#include "tests/node/kept_cluster.h"
#include "tests/node/made_up_host.h"
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
    for (int round = 0; round < 2; ++round) {
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

// One of a few prompts, so that each is asked again: they begin alike, and some overflow somewhere.
GenerationRequest drawn(std::mt19937& random, bool& overflows) {
  const uint32_t which = random() % 6;
  std::vector<int32_t> prompt = prompt_of(200, 1 + which % 2);
  for (int32_t& token : prompt) token = token % 300;
  overflows = which >= 2;
  if (overflows) prompt[40 + 4 * which] = MadeUpHost::kOverflows;
  prompt.resize(120 + 15 * which);
  GenerationRequest request = through(std::move(prompt), static_cast<int>(random() % 4 != 0), 10);
  request.user = random() % 6 == 0 ? "bert" : "anna";
  overflows = overflows && request.adapter.index > 0;
  return request;
}

TEST_CASE(
    "nothing is made of what a cache holds behind an overflow, whoever was cancelled or began from it") {
  ClusterShape shape;
  shape.context = 256;
  shape.slots = 5;
  shape.kv_cells = 700;  // so that some are taken off
  shape.adapters = 1;
  shape.node_of_stage = {"b"};  // the head is another: tokens alone are sent
  const PipelineLayout layout = layout_of(shape);
  int ended = 0, complete = 0;
  for (uint32_t seed = 0; seed < 250; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    MadeUpHost host;
    Coordinator coordinator(host, layout,
                            {.steps_in_flight_max = 3 + static_cast<int>(seed % 4), .rows_max = 16},
                            any_model(layout), nullptr);
    struct Asked {
      uint64_t id = 0;
      int prompt = 0;
      bool overflows = false, cancelled = false;
      Reply reply;
    };
    std::deque<Asked> asked;
    for (int moment = 0; moment < 500; ++moment) {
      if (asked.size() < 30 && random() % (2 + seed % 8) == 0) {
        Asked& one = asked.emplace_back();
        GenerationRequest request = drawn(random, one.overflows);
        one.prompt = static_cast<int>(request.prompt.size());
        request.on_event = [&one](const GenerationEvent& event) {
          if (event.token >= 0) one.reply.tokens.push_back(event.token);
          if (event.finished)
            one.reply.reason = event.reason, one.reply.error = event.error, ++one.reply.ends;
        };
        one.id = coordinator.submit(std::move(request));
      } else if (!asked.empty() && random() % 12 == 0) {
        Asked& one = asked[asked.size() - 1 - random() % std::min<size_t>(asked.size(), 4)];
        one.cancelled = true;
        coordinator.cancel(one.id);
      } else {
        host.compute_one();
      }
    }
    while (host.compute_one()) continue;
    for (const Asked& one : asked) {
      CHECK(one.reply.ends == 1);
      for (size_t i = 0; i < one.reply.tokens.size(); ++i)
        CHECK(one.reply.tokens[i] == (one.prompt - 1 + static_cast<int>(i)) % 300);
      if (one.cancelled) continue;
      if (one.overflows) {
        check_overflow(one.reply);
        ++ended;
      } else {
        CHECK(one.reply.reason == FinishReason::kLength);
        CHECK(one.reply.tokens.size() == 10);
        ++complete;
      }
    }
  }
  CHECK(ended > 50);
  CHECK(complete > 150);
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
