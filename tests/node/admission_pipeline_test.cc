// Admission with the real coordinator: cached beginnings shared between slots, users kept apart, deadlines.
#include <doctest/doctest.h>

#include <chrono>
#include <thread>

#include "tests/node/local_cluster.h"
#include "tests/support/comes_true.h"

namespace shoal::test {
namespace {

std::vector<int32_t> prompt_with(const std::vector<int32_t>& beginning, int32_t last) {
  std::vector<int32_t> prompt = beginning;
  prompt.push_back(last);
  return prompt;
}

GenerationRequest of(std::string user, GenerationRequest request) {
  request.user = std::move(user);
  return request;
}

}  // namespace

TEST_CASE("a prompt that begins like one being answered is forked from it, for the same user alone") {
  ClusterShape shape;
  shape.node_of_stage = {"a", "b"};
  const std::vector<int32_t> beginning = prompt_of(80, 21);
  for (const bool same_user : {true, false}) {
    CAPTURE(same_user);
    LocalCluster cluster(shape);
    Requests requests;
    GenerationRequest first = greedy(prompt_with(beginning, 7), 40);
    GenerationRequest second = greedy(prompt_with(beginning, 9), 12);
    first.user = "anna";
    second.user = same_user ? "anna" : "bert";
    const size_t one = requests.submit(cluster.coordinator(), first);
    REQUIRE(requests.wait_for_tokens(one, 2));  // its prompt is in the cache, and it goes on
    const size_t two = requests.submit(cluster.coordinator(), second);
    REQUIRE(requests.wait_all());
    CHECK(requests.reply(one).tokens == answers(cluster, {greedy(prompt_with(beginning, 7), 40)})[0].tokens);
    LocalCluster fresh(shape);
    CHECK(requests.reply(two).tokens == answers(fresh, {greedy(prompt_with(beginning, 9), 12)})[0].tokens);
    const int computed = requests.reply(two).prompt_rows;
    CHECK(computed == (same_user ? 1 : 81));
  }
}

TEST_CASE("whose answers have ended is no longer counted as running") {
  ClusterShape shape;
  shape.slots = 1;
  shape.context = 1024;
  LocalCluster cluster(shape);
  Requests requests;
  const auto submit = [&](const char* user, std::vector<int32_t> prompt, int tokens) {
    return requests.submit(cluster.coordinator(), of(user, greedy(std::move(prompt), tokens)));
  };
  REQUIRE(requests.wait(submit("anna", {5, 6}, 2)));
  REQUIRE(requests.wait(submit("bert", {5, 9}, 2)));
  const size_t blocker = submit("carl", {5, 7}, 600);
  REQUIRE(requests.wait_for_tokens(blocker, 1));
  const size_t bert = submit("bert", prompt_of(400, 3), 2);
  const size_t anna = submit("anna", {5, 8}, 600);  // her turn is longer ago, and neither has any running
  REQUIRE(requests.wait_for_tokens(anna, 1));
  CHECK(requests.reply(bert).tokens.empty());
  REQUIRE(requests.wait_all());
}

TEST_CASE("one user's long answers in all places make way for another's first, and are what they would be") {
  ClusterShape shape;
  shape.node_of_stage = {"a", "b"};
  shape.slots = 2;
  shape.context = 2048;
  LocalCluster cluster(shape);
  Requests requests;
  const auto submit = [&](const char* user, std::vector<int32_t> prompt, int tokens) {
    return requests.submit(cluster.coordinator(), of(user, greedy(std::move(prompt), tokens)));
  };
  const size_t first = submit("anna", {5, 6}, 1800), second = submit("anna", {5, 7}, 1800);
  REQUIRE(requests.wait_for_tokens(second, 20));
  const size_t bert = submit("bert", {5, 8}, 30);
  REQUIRE(requests.wait(bert));
  CHECK_FALSE(requests.reply(first).finished);
  CHECK_FALSE(requests.reply(second).finished);
  CHECK(cluster.coordinator().preempted() == 1);
  // A user's second asks nobody to leave.
  const size_t third = submit("anna", {5, 9}, 4);
  REQUIRE(requests.wait_all());
  CHECK(cluster.coordinator().preempted() == 1);
  LocalCluster fresh(shape);
  const auto expected =
      answers(fresh, {greedy({5, 6}, 1800), greedy({5, 7}, 1800), greedy({5, 8}, 30), greedy({5, 9}, 4)});
  const size_t all[] = {first, second, bert, third};
  for (size_t i = 0; i < 4; ++i) CHECK(requests.reply(all[i]).tokens == expected[i].tokens);
}

TEST_CASE("users with one answer each keep their places while a third waits") {
  ClusterShape shape;
  shape.slots = 2;
  shape.context = 1024;
  LocalCluster cluster(shape);
  Requests requests;
  std::vector<size_t> all;
  for (const char* user : {"anna", "bert", "carl"}) {
    const auto last = static_cast<int32_t>(6 + all.size());
    all.push_back(requests.submit(cluster.coordinator(), of(user, greedy({5, last}, 300))));
  }
  REQUIRE(requests.wait_all());
  CHECK(cluster.coordinator().preempted() == 0);
}

TEST_CASE("whose cache was given away goes on before anything new of the same user begins") {
  for (const bool same_user : {true, false}) {
    CAPTURE(same_user);
    ClusterShape shape;
    shape.slots = 3;
    shape.context = 2048;
    shape.kv_cells = 2048;
    LocalCluster cluster(shape);
    Requests requests;
    const size_t first = requests.submit(cluster.coordinator(), of("anna", greedy({5, 6}, 1800)));
    const size_t second = requests.submit(cluster.coordinator(), of("anna", greedy({5, 7}, 1800)));
    REQUIRE(comes_true([&] { return cluster.coordinator().preempted() > 0; }));
    // There would be room for it.
    const size_t fresh =
        requests.submit(cluster.coordinator(), of(same_user ? "anna" : "bert", greedy({5, 8}, 4)));
    REQUIRE(requests.wait_for_tokens(fresh, 1));
    CHECK((requests.reply(first).finished || requests.reply(second).finished) == same_user);
    REQUIRE(requests.wait_all());
    for (const size_t one : {first, second}) CHECK(requests.reply(one).tokens.size() == 1800);
  }
}

TEST_CASE("a request past its deadline ends, running or waiting; the others are answered") {
  ClusterShape shape;
  shape.slots = 1;
  shape.context = 4096;
  LocalCluster cluster(shape);
  Requests requests;
  GenerationRequest endless = greedy({5, 6}, 4000);
  endless.deadline_s = 0.2;
  GenerationRequest hasty = greedy({5, 7}, 3);
  hasty.deadline_s = 0.05;
  const size_t running = requests.submit(cluster.coordinator(), endless);
  const size_t waiting = requests.submit(cluster.coordinator(), hasty);
  const size_t after = requests.submit(cluster.coordinator(), greedy({5, 8}, 3));
  REQUIRE(requests.wait_all());
  CHECK(requests.reply(running).error.code == Errc::kDeadline);
  CHECK(requests.reply(waiting).error.code == Errc::kDeadline);
  CHECK(requests.reply(waiting).tokens.empty());
  CHECK(requests.reply(after).tokens.size() == 3);
}

}  // namespace shoal::test
