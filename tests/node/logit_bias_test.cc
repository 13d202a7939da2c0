#include "node/logit_bias.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <future>
#include <random>

#include "tests/node/local_cluster.h"

namespace shoal::test {
namespace {

// The events of one request that asks for log-probabilities.
std::vector<GenerationEvent> events_of(LocalCluster& cluster, GenerationRequest request) {
  std::promise<void> ended;
  std::vector<GenerationEvent> events;
  request.on_event = [&](const GenerationEvent& event) {
    if (event.token >= 0) events.push_back(event);
    if (event.finished) ended.set_value();
  };
  cluster.coordinator().submit(std::move(request));
  REQUIRE(ended.get_future().wait_for(std::chrono::seconds(30)) == std::future_status::ready);
  return events;
}

}  // namespace

TEST_CASE("the candidates asked for are enough for the best after the bias") {
  std::mt19937 random(7);
  std::normal_distribution<float> logit;
  for (int round = 0; round < 200; ++round) {
    std::vector<float> logits(64);
    for (float& l : logits) l = logit(random);
    LogitBias bias;
    const int biased_tokens = static_cast<int>(random() % 6);
    for (int i = 0; i < biased_tokens; ++i)
      bias.emplace_back(random() % 64,
                        round % 2 == 0 ? -static_cast<float>(random() % 5) : logit(random) * 4);
    const int needed = 1 + static_cast<int>(random() % 8);
    std::vector<Candidate> all;
    for (int32_t token = 0; token < 64; ++token) all.push_back({token, logits[static_cast<size_t>(token)]});
    std::stable_sort(all.begin(), all.end(),
                     [](const Candidate& a, const Candidate& b) { return a.logit > b.logit; });
    std::vector<Candidate> few = all;
    const int asked = candidates_for_bias(bias, needed);
    if (asked > 0) few.resize(std::min<size_t>(few.size(), static_cast<size_t>(asked)));
    const std::vector<Candidate> got = biased(few, bias), want = biased(all, bias);
    for (int i = 0; i < needed; ++i) {
      CHECK(got[static_cast<size_t>(i)].token == want[static_cast<size_t>(i)].token);
      CHECK(got[static_cast<size_t>(i)].logit == want[static_cast<size_t>(i)].logit);
    }
  }
  CHECK(candidates_for_bias({}, 0) == 0);
  CHECK(candidates_for_bias({{1, 0.5f}}, 3) == 0);
  CHECK(candidates_for_bias({{1, -0.5f}}, 3) == 4);
}

TEST_CASE("log-probabilities are told with each token, best first, and change no token") {
  ClusterShape shape;
  shape.node_of_stage = {"a", "b"};
  LocalCluster cluster(shape);
  GenerationRequest request = greedy(prompt_of(9, 3), 8);
  const std::vector<Reply> plain = answers(cluster, {request});
  request.logprobs = 384;  // the whole vocabulary
  const std::vector<GenerationEvent> events = events_of(cluster, request);
  REQUIRE(events.size() == plain[0].tokens.size());
  for (size_t i = 0; i < events.size(); ++i) {
    CHECK(events[i].token == plain[0].tokens[i]);
    REQUIRE(events[i].best.size() == 384);
    CHECK(events[i].best[0].first == events[i].token);
    CHECK(events[i].best[0].second == events[i].logprob);
    double sum = 0;
    for (const auto& [token, logprob] : events[i].best) sum += std::exp(logprob);
    CHECK(sum == doctest::Approx(1).epsilon(1e-4));
  }
  request.logprobs = 0;
  CHECK(events_of(cluster, request)[0].best.empty());
  CHECK(events_of(cluster, request)[0].logprob == events[0].logprob);
}

TEST_CASE("a banned token is not taken, a lifted one is") {
  LocalCluster cluster({});
  const GenerationRequest plain = greedy(prompt_of(9, 3), 1);
  const int32_t first = answers(cluster, {plain})[0].tokens.at(0);
  GenerationRequest banned = plain, lifted = plain;
  banned.logit_bias = {{first, -100.0f}};
  lifted.logit_bias = {{77, 100.0f}};
  const std::vector<Reply> replies = answers(cluster, {banned, lifted});
  CHECK(replies[0].tokens.at(0) != first);
  CHECK(replies[1].tokens.at(0) == 77);
}

}  // namespace shoal::test
