// The same answers, whatever the number of stages, where they are, how prompts are cut and who else asks.
#include <doctest/doctest.h>

#include <algorithm>

#include "tests/node/local_cluster.h"

namespace shoal::test {
namespace {

// The answer of the whole model, one row at a time: no pipeline, no scheduler, no coordinator.
std::vector<int32_t> plain_answer(TensorType type, const std::vector<int32_t>& prompt, int max_tokens) {
  const GgufFile file = GgufFile::open(small_model_file(type));
  const ModelConfig config = ModelConfig::from(file);
  ThreadPool pool(1);
  const ShardSpec all{true, {0, config.n_layer}, true};
  Stage model(config, load_shard(file, config, all, pool), {128, 1, 1}, select_kernels(), pool);
  AlignedBuffer hidden(static_cast<size_t>(config.n_embd) * sizeof(float));
  std::vector<RowOutput> outputs;
  std::vector<int32_t> tokens = prompt, answer;
  for (int position = 0; static_cast<int>(answer.size()) < max_tokens; ++position) {
    const BatchRow row{tokens[static_cast<size_t>(position)], position, 0, true};
    REQUIRE(model.run({}, std::span(&row, 1), 1, hidden.as<float>(), outputs).has_value());
    if (position + 1 < static_cast<int>(tokens.size())) continue;
    answer.push_back(outputs[0].candidates[0].token);
    tokens.push_back(answer.back());
  }
  return answer;
}

std::vector<ClusterShape> shapes() {
  std::vector<ClusterShape> all(7);
  all[1].node_of_stage = {"a", "b"};
  all[2].node_of_stage = {"a", "b", "c"};
  all[3].node_of_stage = {"a", "b", "c", "d", "e"};
  all[4].node_of_stage = {"a", "b", "a"};
  all[4].ends = true;
  all[5].node_of_stage = {"b", "c"};  // token ids travel
  all[6].node_of_stage = {"b", "b", "a"};
  return all;
}

std::string text_of(const ClusterShape& shape) {
  std::string text = shape.ends ? "ends:" : "";
  for (const std::string& node : shape.node_of_stage) text += node;
  return text + " chunk " + std::to_string(shape.chunk_rows);
}

std::vector<GenerationRequest> mixed_requests() {
  return {greedy(prompt_of(1, 1), 12),  greedy(prompt_of(7, 2), 20), greedy(prompt_of(40, 3), 5),
          greedy(prompt_of(90, 4), 16), greedy(prompt_of(3, 5), 1),  greedy(prompt_of(33, 6), 30),
          greedy(prompt_of(16, 7), 9),  greedy(prompt_of(17, 8), 25)};
}

}  // namespace

TEST_CASE(
    "greedy answers are the whole model's for every pipeline, with several requests at once and more than "
    "slots") {
  for (const TensorType type : {TensorType::kF32, TensorType::kQ4_0}) {
    const std::vector<GenerationRequest> requests = mixed_requests();
    std::vector<std::vector<int32_t>> expected;
    for (const GenerationRequest& r : requests)
      expected.push_back(plain_answer(type, r.prompt, r.max_tokens));
    CHECK(expected[1] != expected[5]);
    for (ClusterShape shape : shapes()) {
      shape.type = type;
      shape.slots = 3;
      CAPTURE(text_of(shape));
      LocalCluster cluster(shape);
      const std::vector<Reply> alone = answers(cluster, {requests[3]});
      CHECK(alone[0].tokens == expected[3]);
      const std::vector<Reply> together = answers(cluster, requests);
      for (size_t i = 0; i < requests.size(); ++i) {
        CAPTURE(i);
        CHECK(together[i].reason == FinishReason::kLength);
        CHECK(together[i].tokens == expected[i]);
      }
    }
  }
}

TEST_CASE("how prompts are cut into chunks does not change an answer") {
  const std::vector<GenerationRequest> requests = mixed_requests();
  std::vector<std::vector<int32_t>> expected;
  for (const GenerationRequest& r : requests) {
    expected.push_back(plain_answer(TensorType::kF32, r.prompt, r.max_tokens));
  }
  for (const int chunk : {1, 3, 7, 32}) {
    ClusterShape shape;
    shape.node_of_stage = {"a", "b", "a"};
    shape.ends = true;
    shape.chunk_rows = chunk;
    CAPTURE(text_of(shape));
    LocalCluster cluster(shape);
    const std::vector<Reply> replies = answers(cluster, requests);
    for (size_t i = 0; i < requests.size(); ++i) CHECK(replies[i].tokens == expected[i]);
  }
}

TEST_CASE("a slot whose cache begins like the prompt is taken again, and the answer stays the same") {
  ClusterShape shape;
  shape.node_of_stage = {"a", "b"};
  shape.slots = 1;
  LocalCluster cluster(shape);
  const std::vector<int32_t> first = prompt_of(40, 11);
  std::vector<int32_t> alike(first.begin(), first.begin() + 30);
  for (const int32_t token : prompt_of(8, 12)) alike.push_back(token);
  std::vector<int32_t> follow_up = first;
  for (const int32_t token : plain_answer(TensorType::kF32, first, 10)) follow_up.push_back(token);
  follow_up.push_back(5);
  const std::vector<int32_t> shorter(first.begin(), first.begin() + 12);
  auto rows_computed = [&] { return cluster.node("a").collect_stats().front().stages.front().rows; };
  struct Case {
    const std::vector<int32_t>* prompt;
    uint64_t rows;  // prompt rows not in the cache, and those of the answer but its last token
  };
  for (const Case& c : {Case{&first, 40 + 9}, Case{&first, 1 + 9}, Case{&follow_up, 51 - 49 + 9},
                        Case{&alike, 8 + 9}, Case{&shorter, 1 + 9}, Case{&first, 40 - 12 + 9}}) {
    const uint64_t before = rows_computed();
    const std::vector<Reply> reply = answers(cluster, {greedy(*c.prompt, 10)});
    CHECK(reply[0].tokens == plain_answer(TensorType::kF32, *c.prompt, 10));
    CHECK(rows_computed() - before == c.rows);
  }
}

TEST_CASE("sampling depends on the seed alone, whole-vocabulary candidates included") {
  std::vector<GenerationRequest> requests;
  for (const int top_k : {40, 0}) {
    for (const uint64_t seed : {1, 2, 1}) {
      GenerationRequest request = greedy(prompt_of(9, 21), 16);
      request.sampling = {};
      request.sampling.temperature = 1.5f;
      request.sampling.min_p = 0;
      request.sampling.top_k = top_k;
      request.sampling.seed = seed;
      requests.push_back(request);
    }
  }
  requests[5].sampling.repeat_penalty = 1.3f;
  requests.push_back(greedy(prompt_of(9, 21), 16));
  LocalCluster one({});
  const std::vector<Reply> expected = answers(one, requests);
  CHECK(expected[0].tokens == expected[2].tokens);
  CHECK(expected[0].tokens != expected[1].tokens);
  CHECK(expected[3].tokens != expected[4].tokens);
  CHECK(expected[6].tokens == plain_answer(TensorType::kF32, requests[6].prompt, 16));
  for (const ClusterShape& shape : shapes()) {
    CAPTURE(text_of(shape));
    LocalCluster cluster(shape);
    const std::vector<Reply> replies = answers(cluster, requests);
    for (size_t i = 0; i < requests.size(); ++i) CHECK(replies[i].tokens == expected[i].tokens);
  }
}

TEST_CASE("an answer ends where the context does") {
  ClusterShape shape;
  shape.context = 32;
  LocalCluster cluster(shape);
  const std::vector<Reply> replies =
      answers(cluster, {greedy(prompt_of(31, 1), 100), greedy(prompt_of(20, 2), 100)});
  CHECK(replies[0].tokens.size() == 1);
  CHECK(replies[1].tokens == plain_answer(TensorType::kF32, prompt_of(20, 2), 12));
  CHECK(replies[1].reason == FinishReason::kContextFull);
}

TEST_CASE("a cancelled request ends at once, disturbs no other, and its slot serves again") {
  for (const ClusterShape& shape : shapes()) {
    CAPTURE(text_of(shape));
    ClusterShape two_slots = shape;
    two_slots.slots = 2;
    two_slots.chunk_rows = 4;
    LocalCluster cluster(two_slots);
    Requests requests;
    const size_t in_prompt = requests.submit(cluster.coordinator(), greedy(prompt_of(100, 31), 20));
    cluster.coordinator().cancel(requests.id(in_prompt));
    const size_t in_answer = requests.submit(cluster.coordinator(), greedy(prompt_of(10, 32), 100), 5);
    const size_t other = requests.submit(cluster.coordinator(), greedy(prompt_of(12, 33), 40));
    const size_t waiting = requests.submit(cluster.coordinator(), greedy(prompt_of(12, 34), 40));
    cluster.coordinator().cancel(requests.id(waiting));
    const size_t after = requests.submit(cluster.coordinator(), greedy(prompt_of(100, 31), 20));
    const size_t again = requests.submit(cluster.coordinator(), greedy(prompt_of(10, 32), 20));
    cluster.coordinator().cancel(4711);  // nobody
    REQUIRE(requests.wait_all());
    CHECK(requests.reply(in_prompt).reason == FinishReason::kCancelled);
    CHECK(requests.reply(in_answer).reason == FinishReason::kCancelled);
    CHECK(requests.reply(waiting).reason == FinishReason::kCancelled);
    CHECK(requests.reply(waiting).tokens.empty());
    CHECK(requests.reply(in_prompt).tokens.empty());
    const std::vector<int32_t> whole = plain_answer(TensorType::kF32, prompt_of(10, 32), 20);
    const std::vector<int32_t> part = requests.reply(in_answer).tokens;
    REQUIRE(part.size() >= 5);
    CHECK(part.size() <= 20);
    CHECK(std::equal(part.begin(), part.end(), whole.begin()));
    CHECK(requests.reply(other).tokens == plain_answer(TensorType::kF32, prompt_of(12, 33), 40));
    CHECK(requests.reply(after).tokens == plain_answer(TensorType::kF32, prompt_of(100, 31), 20));
    CHECK(requests.reply(again).tokens == whole);
    for (size_t i = 0; i < requests.size(); ++i) CHECK(requests.reply(i).ends == 1);
  }
}

TEST_CASE("a cache too small for all: who is taken off and computed again says what it would have said") {
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < 12; ++i) {
    requests.push_back(greedy(prompt_of(5 + 7 * i, 40 + static_cast<uint64_t>(i)), 40 - 2 * (i % 5)));
    requests.back().priority = i % 4 == 3;
    if (i % 3 == 2) requests.back().sampling = {.temperature = 0.9F, .seed = 5};
  }
  ClusterShape shape;
  shape.node_of_stage = {"a", "b"};
  shape.slots = 6;
  LocalCluster roomy(shape);
  const std::vector<Reply> expected = answers(roomy, requests);
  CHECK(roomy.coordinator().preempted() == 0);
  shape.kv_cells = 160;
  LocalCluster tight(shape);
  const std::vector<Reply> replies = answers(tight, requests);
  CHECK(tight.coordinator().preempted() > 0);
  for (size_t i = 0; i < requests.size(); ++i) {
    CAPTURE(i);
    CHECK(replies[i].tokens == expected[i].tokens);
    CHECK(replies[i].reason == expected[i].reason);
  }
}

}  // namespace shoal::test
