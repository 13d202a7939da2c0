// Requests behind adapters beside others: each answers as if alone, and no cache is shared between them.
#include <doctest/doctest.h>

#include <cmath>

#include "node/command_support.h"
#include "tests/node/local_cluster.h"

namespace shoal::test {
namespace {

GenerationRequest through(std::vector<int32_t> prompt, int adapter, float scale = 1) {
  GenerationRequest request = greedy(std::move(prompt), 20);
  request.adapter = {adapter, scale};
  return request;
}

TEST_CASE("answers with and without adapters, together and on several stages, are each as alone") {
  ClusterShape shape;
  shape.adapters = 2;
  std::vector<GenerationRequest> requests;
  for (const int length : {5, 40, 70}) {
    const std::vector<int32_t> prompt = prompt_of(length, static_cast<uint64_t>(length));
    for (const int adapter : {0, 1, 2}) requests.push_back(through(prompt, adapter));
    requests.push_back(through(prompt, 1, 0.25f));
    requests.push_back(through(prompt, 0));
  }
  std::vector<Reply> expected;
  for (const GenerationRequest& request : requests) {
    LocalCluster alone(shape);
    expected.push_back(answers(alone, {request})[0]);
  }
  CHECK(expected[0].tokens != expected[1].tokens);
  CHECK(expected[1].tokens != expected[2].tokens);
  CHECK(expected[0].tokens == expected[4].tokens);
  for (const std::vector<std::string>& nodes : {std::vector<std::string>{"a", "b"}, {"a", "b", "c"}}) {
    shape.node_of_stage = nodes;
    LocalCluster cluster(shape);
    for (int round = 0; round < 2; ++round) {                        // the second finds caches
      for (size_t first = 0; first < requests.size(); first += 5) {  // as many as are let in at once
        const std::vector<Reply> replies =
            answers(cluster, {requests.begin() + static_cast<ptrdiff_t>(first),
                              requests.begin() + static_cast<ptrdiff_t>(first) + 5});
        for (size_t i = 0; i < replies.size(); ++i) {
          CAPTURE(first + i);
          CHECK(replies[i].reason == expected[first + i].reason);
          CHECK(replies[i].tokens == expected[first + i].tokens);
        }
      }
    }
  }
}

TEST_CASE("a cached prompt serves the same adapter and scale alone") {
  ClusterShape shape;
  shape.adapters = 2;
  shape.slots = 8;
  LocalCluster cluster(shape);
  const std::vector<int32_t> prompt = prompt_of(60, 1);
  const auto computed = [&](int adapter, float scale) {
    return answers(cluster, {through(prompt, adapter, scale)})[0].prompt_rows;
  };
  CHECK(computed(0, 1) == 60);
  CHECK(computed(1, 1) == 60);
  CHECK(computed(2, 1) == 60);
  CHECK(computed(1, 0.5f) == 60);
  for (const auto& [adapter, scale] : {std::pair(0, 1.0f), {1, 1.0f}, {2, 1.0f}, {1, 0.5f}})
    CHECK(computed(adapter, scale) < 60);
}

TEST_CASE("an adapter that is not there, or a scale beyond all reason, is refused") {
  ClusterShape shape;
  shape.adapters = 1;
  LocalCluster cluster(shape);
  for (const auto& [adapter, scale] :
       {std::pair(2, 1.0f), {-1, 1.0f}, {1, 1e6f}, {1, static_cast<float>(NAN)}}) {
    const Reply reply = answers(cluster, {through(prompt_of(4, 1), adapter, scale)})[0];
    CHECK(reply.reason == FinishReason::kError);
    CHECK(reply.error.code == Errc::kInvalidInput);
  }
}

TEST_CASE("an adapter is chosen by its name, with a scale if wanted") {
  ClusterConfig config;
  add_adapter(config, "tone", "x.gguf", "here");
  add_adapter(config, "law-2.1", "y.gguf", "here");
  CHECK(choose_adapter(config, "")->index == 0);
  CHECK(choose_adapter(config, "law-2.1")->index == 2);
  CHECK(choose_adapter(config, "tone:0.5")->scale == 0.5f);
  CHECK(choose_adapter(config, "tone:-1")->scale == -1.0f);
  for (const char* bad : {"tune", "tone:", "tone:x", "tone:1x", "tone:1e9", "tone:nan", ":1"})
    CHECK_MESSAGE(choose_adapter(config, bad).has_error(), bad);
  CHECK(choose_adapter(config, "tune").error().message ==
        "there is no adapter 'tune'; there are: tone, law-2.1");
  CHECK_THROWS_AS(add_adapter(config, "tone", "z.gguf", "here"), SetupError);
  CHECK_THROWS_AS(add_adapter(config, "a:b", "z.gguf", "here"), SetupError);
  CHECK_THROWS_AS(add_adapter(config, "empty", "", "here"), SetupError);
}

}  // namespace
}  // namespace shoal::test
