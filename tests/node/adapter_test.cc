// Requests behind adapters beside others: each answers as if alone, and no cache is shared between them.
#include <doctest/doctest.h>

#include <cmath>

#include "node/command_support.h"
#include "node/stage_factory.h"
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

// What a stage of the whole model computes of two rows behind two adapters.
std::vector<float> computed(Stage& stage, int n_embd) {
  AlignedBuffer hidden(sizeof(float) * 2 * static_cast<size_t>(n_embd));
  const std::vector<BatchRow> rows = {{5, 0, 0, false, 1, 1}, {7, 0, 1, false, 2, 0.5f}};
  std::vector<RowOutput> outputs;
  REQUIRE(stage.run({}, rows, 1, hidden.as<float>(), outputs).has_value());
  return {hidden.as<float>(), hidden.as<float>() + 2 * n_embd};
}

TEST_CASE("stages that are made again for another layout have the adapters of all their layers") {
  ClusterShape shape;
  shape.adapters = 2;
  shape.node_of_stage = {"a", "b"};
  const GgufFile file = GgufFile::open(small_model_file());
  const ModelConfig config = ModelConfig::from(file);
  const std::vector<LoraFile> adapters = {small_lora(1, config), small_lora(2, config)};
  ThreadPool pool(1);
  StageFactory::Source source{file};
  source.adapters = adapters;
  StageFactory factory("a", source, config, select_kernels(), pool);
  Engine::Stages stages = factory.make(layout_of(shape), {});
  shape.node_of_stage = {"a"};  // b is lost
  stages = factory.make(layout_of(shape), std::move(stages));
  Engine::Stages fresh = stages_of("a", layout_of(shape), file, pool);
  CHECK(computed(*stages[0].second, config.n_embd) == computed(*fresh[0].second, config.n_embd));
  // A head that was started again with others.
  PipelineLayout other = layout_of(shape);
  other.adapters_hash = "other";
  CHECK_THROWS_WITH_AS(factory.make(other, {}),
                       "the plan is for other adapters than node a has: start the node again", SetupError);
  shape.adapters = 1;
  CHECK_THROWS_AS(factory.make(layout_of(shape), {}), SetupError);
}

TEST_CASE("stages of a plan that is over are not made, and what they held serves the next") {
  ClusterShape shape;
  shape.node_of_stage = {"a", "b"};
  const GgufFile file = GgufFile::open(small_model_file());
  const ModelConfig config = ModelConfig::from(file);
  ThreadPool pool(1);
  std::stop_source over;
  std::vector<size_t> missing;  // pieces, at each time
  StageFactory::Source source{file};
  source.fetch = [&](const PipelineLayout&, const StageFactory::Needs& needs) {
    missing.push_back(needs.missing.size());
    CHECK(needs.stop.stop_possible() == (missing.size() == 2));
    if (missing.size() == 2) over.request_stop();
  };
  StageFactory factory("a", source, config, select_kernels(), pool);
  Engine::Stages stages = factory.make(layout_of(shape), {});
  shape.node_of_stage = {"a"};
  CHECK_THROWS_WITH_AS(factory.make(layout_of(shape), std::move(stages), over.get_token()),
                       "the plan is over", SetupError);
  CHECK_THROWS_WITH_AS(factory.make(layout_of(shape), {}, over.get_token()), "the plan is over", SetupError);
  shape.node_of_stage = {"a", "b"};
  stages = factory.make(layout_of(shape), {});
  REQUIRE(missing.size() == 3);
  CHECK(missing[0] > 0);
  CHECK(missing[1] > 0);
  CHECK(missing[2] == 0);  // it was never given up
  CHECK(stages.size() == 1);
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
