#include "node/session.h"

#include <doctest/doctest.h>

#include "tests/node/local_cluster.h"
#include "tests/support/mentions.h"

namespace shoal::test {
namespace {

GenerationRequest with_sampling(SamplerOptions sampling) {
  GenerationRequest request = greedy({5}, 1);
  request.sampling = sampling;
  return request;
}

}  // namespace

TEST_CASE("what cannot be answered is refused with its reason and disturbs no other request") {
  ClusterShape shape;
  shape.node_of_stage = {"a", "b"};
  LocalCluster cluster(shape);
  SamplerOptions cold;
  cold.temperature = -1;
  const std::vector<Reply> replies =
      answers(cluster, {greedy(prompt_of(5, 1), 30), greedy({}, 5), greedy(prompt_of(128, 1), 5),
                        greedy({5, 384}, 5), greedy({-1}, 5), with_sampling(cold),
                        greedy(prompt_of(127, 1), 5), greedy({5}, 0), greedy({5}, -3)});
  CHECK(replies[0].tokens.size() == 30);
  CHECK(replies[1].error.code == Errc::kInvalidInput);
  CHECK(replies[1].error.message == "the prompt is empty: it needs at least one token");
  CHECK(replies[2].error.code == Errc::kContextFull);
  CHECK(mentions(replies[2].error.message, "the prompt has 128 tokens and the context holds 128"));
  CHECK(mentions(replies[3].error.message, "token 384"));
  CHECK(mentions(replies[4].error.message, "token -1"));
  CHECK(replies[5].error.code == Errc::kInvalidInput);
  CHECK(mentions(replies[5].error.message, "temperature"));
  CHECK(replies[6].tokens.size() == 1);
  CHECK(replies[6].reason == FinishReason::kContextFull);
  CHECK(replies[7].error.code == Errc::kInvalidInput);
  CHECK(mentions(replies[7].error.message, "-n (--max-tokens) is 0"));
  CHECK(mentions(replies[8].error.message, "-n (--max-tokens) is -3"));
}

TEST_CASE("requests beyond the queue are refused, and those in it are answered") {
  LocalCluster cluster({});
  Requests requests;
  const size_t slots = 4, room = slots + AdmissionLimits{}.waiting_max;
  // All are asked before the first is begun: on the io thread nothing else runs meanwhile.
  cluster.node("a").io().call([&] {
    for (size_t i = 0; i < room + 3; ++i) requests.submit(cluster.coordinator(), greedy({5}, 1));
    return 0;
  });
  REQUIRE(requests.wait_all());
  const std::vector<int32_t> tokens = requests.reply(0).tokens;
  CHECK(tokens.size() == 1);
  size_t answered = 0;
  for (size_t i = 0; i < room; ++i)
    answered += requests.reply(i).tokens == tokens && requests.reply(i).ends == 1;
  CHECK(answered == room);
  for (size_t i = room; i < room + 3; ++i) CHECK(requests.reply(i).error.code == Errc::kQueueFull);
}

TEST_CASE("events come out in the order they went in") {
  EventQueue queue;
  for (int i = 0; i < 3; ++i) queue.push({7, i, false, FinishReason::kStop, {}});
  for (int i = 0; i < 3; ++i) CHECK(queue.pop().token == i);
}

TEST_CASE("a report is the difference of two moments; what a node invents is left out") {
  ClusterShape shape;
  shape.node_of_stage = {"a", "b", "a"};
  shape.ends = true;
  const PipelineLayout layout = layout_of(shape);
  StatsMessage before, after;
  before.node_name = after.node_name = "a";
  StageReport first, last;
  last.stage = 2;
  before.stages = {first, last};
  before.stages[0].busy_ns = 1'000'000'000;
  before.links = {{"b", 100, 0}};
  after = before;
  after.stages[0].busy_ns = 2'500'000'000;
  after.stages[1].busy_ns = 500'000'000;
  after.stages[0].weight_bytes = 1000;
  after.stages[0].kv_bytes = 10;
  after.links = {{"b", 350, 0}};
  StageReport invented;
  invented.stage = 3;
  invented.weight_bytes = 1 << 30;
  after.stages.push_back(invented);
  StatsMessage newcomer;
  newcomer.node_name = "c";
  StatsMessage generating = before;
  generating.stages[0].busy_ns += 250'000'000;
  generating.links = {};
  const std::vector<NodeReport> reports = report_nodes({before}, {generating}, {after, newcomer}, layout);
  REQUIRE(reports.size() == 2);
  CHECK(reports[1].name == "c");
  CHECK(reports[1].layers == "");
  CHECK(reports[0].name == "a");
  CHECK(reports[0].layers == "embedding, 0-2, output");
  CHECK(reports[0].weight_bytes == 1000);
  CHECK(reports[0].kv_bytes == 10);
  CHECK(reports[0].busy_s == doctest::Approx(1.75));
  CHECK(reports[0].bytes_sent == 250);
  const std::string table = render_report(reports, 5.0, 100);
  CHECK(mentions(table, "17.50 ms/tk"));  // computing
  CHECK(mentions(table, "32.50 ms/tk"));  // waiting
}

TEST_CASE("generate() hands over each token as it comes and throws what went wrong") {
  LocalCluster local({});
  Cluster cluster;
  cluster.coordinator = local.lend_coordinator();
  std::vector<int32_t> seen;
  const Answer answer =
      generate(cluster, greedy(prompt_of(8, 3), 10), [&](int32_t token) { seen.push_back(token); });
  CHECK(answer.tokens.size() == 10);
  CHECK(seen == answer.tokens);
  CHECK(answer.reason == FinishReason::kLength);
  CHECK(answer.first_token_s > 0);
  CHECK(answer.total_s >= answer.first_token_s);
  CHECK_THROWS_WITH_AS(generate(cluster, greedy({}, 1)), "the prompt is empty: it needs at least one token",
                       SetupError);
  local.take_back(std::move(cluster.coordinator));
}

}  // namespace shoal::test
