#include "tests/node/local_cluster.h"

#include <doctest/doctest.h>
#include <spdlog/spdlog.h>
#include <filesystem>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <set>

#include "sharding/lora_shard.h"
#include "sharding/stage.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_lora.h"

namespace shoal::test {
namespace {

constexpr auto kPatience = std::chrono::seconds(30);

}  // namespace

TinyModelOptions small_model(TensorType type) {
  TinyModelOptions options;
  options.type = type;
  options.n_layer = 6;
  options.n_embd = 64;
  options.n_ff = 128;
  options.seed = 7;
  return options;
}

const std::string& small_model_file(TensorType type) {
  static const TempDir dir;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  static std::map<TensorType, std::string> files;
  std::string& path = files[type];
  if (path.empty()) {
    path = dir.file("model-" + std::to_string(static_cast<int>(type)) + ".gguf");
    write_tiny_model(path, small_model(type));
  }
  return path;
}

LoraFile small_lora(int index, const ModelConfig& config) {
  static const TempDir dir;
  const std::string path = dir.file("lora-" + std::to_string(index) + ".gguf");
  const float deviation = index == kOverflowingLora ? 1e30f : 0;
  if (!std::filesystem::exists(path))
    tiny_lora(config, {.rank = 2 + index, .deviation = deviation, .seed = static_cast<uint64_t>(index)})
        .write(path);
  return LoraFile::open("lora-" + std::to_string(index), path, config);
}

PipelineLayout layout_of(const ClusterShape& shape) {
  const TinyModelOptions model = small_model(shape.type);
  PipelineLayout layout;
  layout.node_of_stage = shape.node_of_stage;
  const int stages = static_cast<int>(shape.node_of_stage.size());
  const int with_layers = shape.ends ? stages - 1 : stages;
  for (int i = 0; i < with_layers; ++i) {
    const LayerRange layers{model.n_layer * i / with_layers, model.n_layer * (i + 1) / with_layers};
    layout.shard_of_stage.push_back({i == 0, layers, i + 1 == stages});
  }
  if (shape.ends) layout.shard_of_stage.push_back({false, {model.n_layer, model.n_layer}, true});
  layout.head = shape.head;
  layout.plan_hash = "plan";
  layout.rows_max = shape.rows_max;
  layout.n_embd = model.n_embd;
  layout.n_vocab = model.n_vocab;
  layout.context = shape.context;
  layout.slots = shape.slots;
  layout.kv_cells = shape.kv_cells;
  layout.adapters = shape.adapters;
  layout.steps_in_flight_max = stages + 1;
  return layout;
}

std::vector<std::pair<int, std::unique_ptr<Stage>>> stages_of(const std::string& node,
                                                              const PipelineLayout& layout,
                                                              const GgufFile& file, ThreadPool& pool) {
  std::vector<std::pair<int, std::unique_ptr<Stage>>> stages;
  const ModelConfig config = ModelConfig::from(file);
  const StageOptions options{layout.context, layout.slots, layout.rows_max, KvType::kF16, layout.kv_cells};
  for (int i = 0; i <= layout.last_stage(); ++i) {
    const size_t at = static_cast<size_t>(i);
    if (layout.node_of_stage[at] != node) continue;
    ShardWeights weights = load_shard(file, config, layout.shard_of_stage[at], pool);
    for (int adapter = 1; adapter <= layout.adapters; ++adapter)
      weights.adapters.push_back(load_lora(small_lora(adapter, config), config, weights.spec.layers));
    stages.emplace_back(i,
                        std::make_unique<Stage>(config, std::move(weights), options, select_kernels(), pool));
  }
  return stages;
}

LocalCluster::LocalCluster(const ClusterShape& shape)
    : file_(GgufFile::open(small_model_file(shape.type))), layout_(layout_of(shape)) {
  spdlog::set_level(spdlog::level::off);  // refusals and losses are what many of these tests are about
  std::set<std::string> names(shape.node_of_stage.begin(), shape.node_of_stage.end());
  names.insert(shape.head);
  for (const std::string& name : names) {
    const NodeIdentity identity{"home", name, file_.fingerprint()};
    pools_[name] = std::make_unique<ThreadPool>(1);
    nodes_[name] = std::make_unique<Node>(identity, "127.0.0.1", 0);
    layout_.endpoints[name] = {"127.0.0.1", nodes_[name]->port()};
  }
  for (const std::string& name : names) {
    nodes_[name]->load(layout_, [&] { return stages_of(name, layout_, file_, *pools_[name]); });
  }
  for (const std::string& name : names) nodes_[name]->connect();
  SchedulerLimits limits;
  limits.steps_in_flight_max = layout_.steps_in_flight_max;
  limits.rows_max = shape.chunk_rows;
  coordinator_ =
      std::make_unique<Coordinator>(*nodes_.at(layout_.head), layout_, limits, any_model(layout_), nullptr);
}

PipelineModel any_model(const PipelineLayout& layout) {
  std::array<double, StageModel::kRows.size()> seconds;
  for (size_t i = 0; i < seconds.size(); ++i) seconds[i] = 1e-3 + 1e-4 * StageModel::kRows[i];
  const auto stages = static_cast<size_t>(layout.last_stage()) + 1;
  return PipelineModel(std::vector<StageModel>(stages, StageModel(seconds)), 1e-3, 0);
}

LocalCluster::~LocalCluster() {
  if (nodes_.at(layout_.head)) destroy_head();
}

void LocalCluster::destroy_head() {
  coordinator_.reset();
  destroy(layout_.head);
}

size_t Requests::submit(Coordinator& coordinator, GenerationRequest request, int cancel_after) {
  size_t index = 0;
  {
    const std::lock_guard lock(shared_->mutex);
    index = shared_->replies.size();
    shared_->replies.emplace_back();
  }
  request.on_event = [shared = shared_, index, cancel_after, &coordinator](const GenerationEvent& event) {
    const std::lock_guard lock(shared->mutex);
    Reply& reply = shared->replies[index];
    if (event.token >= 0) reply.tokens.push_back(event.token);
    reply.prompt_rows += event.prompt_rows;
    if (static_cast<int>(reply.tokens.size()) == cancel_after) coordinator.cancel(event.request);
    if (event.finished) {
      reply.finished = true;
      ++reply.ends;
      reply.reason = event.reason;
      reply.error = event.error;
    }
    shared->changed.notify_all();
  };
  ids_.push_back(coordinator.submit(std::move(request)));
  return index;
}

bool Requests::wait(size_t index) {
  std::unique_lock lock(shared_->mutex);
  return shared_->changed.wait_for(lock, kPatience, [&] { return shared_->replies[index].finished; });
}

bool Requests::wait_for_tokens(size_t index, size_t tokens) {
  std::unique_lock lock(shared_->mutex);
  return shared_->changed.wait_for(lock, kPatience,
                                   [&] { return shared_->replies[index].tokens.size() >= tokens; });
}

bool Requests::wait_all() {
  std::unique_lock lock(shared_->mutex);
  return shared_->changed.wait_for(lock, kPatience, [&] {
    return std::all_of(shared_->replies.begin(), shared_->replies.end(),
                       [](const Reply& r) { return r.finished; });
  });
}

Reply Requests::reply(size_t index) {
  const std::lock_guard lock(shared_->mutex);
  return shared_->replies[index];
}

size_t Requests::size() {
  const std::lock_guard lock(shared_->mutex);
  return shared_->replies.size();
}

GenerationRequest greedy(std::vector<int32_t> prompt, int max_tokens) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  return request;
}

std::vector<int32_t> prompt_of(int length, uint64_t seed) {
  std::vector<int32_t> prompt;
  uint64_t state = seed * 2654435761u + 12345;
  for (int i = 0; i < length; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    prompt.push_back(static_cast<int32_t>(3 + (state >> 33) % 380));
  }
  return prompt;
}

std::vector<Reply> answers(LocalCluster& cluster, const std::vector<GenerationRequest>& requests) {
  Requests under_way;
  for (const GenerationRequest& request : requests) under_way.submit(cluster.coordinator(), request);
  REQUIRE(under_way.wait_all());
  std::vector<Reply> replies;
  for (size_t i = 0; i < requests.size(); ++i) {
    replies.push_back(under_way.reply(i));
    CHECK(replies.back().ends == 1);
  }
  return replies;
}

}  // namespace shoal::test
