// A whole cluster inside one process: nodes on loopback, each with its stages of a tiny model, and a
// coordinator on the head. What a test asks of it is bounded by deadlines, so that a pipeline that stands
// still fails and does not hang.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "model/gguf_file.h"
#include "model/lora_file.h"
#include "model/model_config.h"
#include "node/coordinator.h"
#include "node/node.h"
#include "tensor/thread_pool.h"
#include "tests/support/tiny_model.h"

namespace shoal::test {

// 6 layers, a vocabulary of 384, wide enough that its answers differ from prompt to prompt.
TinyModelOptions small_model(TensorType type = TensorType::kF32);

// One file of small_model(type), written once a process.
const std::string& small_model_file(TensorType type = TensorType::kF32);

// The adapter of number `index`, from 1, for small_model(): opened.
inline constexpr int kOverflowingLora = 3;  // gives no finite numbers; the others do
LoraFile small_lora(int index, const ModelConfig& config);

struct ClusterShape {
  std::vector<std::string> node_of_stage = {"a"};
  bool ends = false;  // the last stage is the output head alone
  int context = 128, slots = 4, rows_max = 32;
  int chunk_rows = 16;  // what the scheduler puts into a step at most
  std::string head = "a";
  TensorType type = TensorType::kF32;
  int64_t kv_cells = 0;
  int adapters = 0;  // small_lora() of 1, 2, ...
};

// What a scheduler believes of so many equal stages at first.
PipelineModel any_model(const PipelineLayout& layout);

// The layout of a shape, without endpoints.
PipelineLayout layout_of(const ClusterShape& shape);

// What a node of the layout computes.
std::vector<std::pair<int, std::unique_ptr<Stage>>> stages_of(const std::string& node,
                                                              const PipelineLayout& layout,
                                                              const GgufFile& file, ThreadPool& pool);

class LocalCluster {
 public:
  explicit LocalCluster(const ClusterShape& shape);
  ~LocalCluster();

  Coordinator& coordinator() { return *coordinator_; }
  Node& node(const std::string& name) { return *nodes_.at(name); }
  const PipelineLayout& layout() const { return layout_; }
  void destroy(const std::string& name) { nodes_.at(name).reset(); }
  void destroy_head();
  // For what wants a coordinator of its own; it must come back.
  std::unique_ptr<Coordinator> lend_coordinator() { return std::move(coordinator_); }
  void take_back(std::unique_ptr<Coordinator> lent) { coordinator_ = std::move(lent); }

 private:
  GgufFile file_;
  PipelineLayout layout_;
  std::map<std::string, std::unique_ptr<ThreadPool>> pools_;
  std::map<std::string, std::unique_ptr<Node>> nodes_;
  std::unique_ptr<Coordinator> coordinator_;
};

struct Reply {
  std::vector<int32_t> tokens;
  bool finished = false;
  FinishReason reason = FinishReason::kStop;
  Error error;
  int prompt_rows = 0;  // computed, not found in a cache
  int ends = 0;         // events that said finished: one, or a bug
};

// Requests under way and what came of them. Outlives its coordinator's requests by shared ownership.
class Requests {
 public:
  // Returns the request's index here. `cancel_after`: cancels the request from its own event after so many
  // tokens.
  size_t submit(Coordinator& coordinator, GenerationRequest request, int cancel_after = -1);
  // Waits for the end, or for a number of tokens; false after 30 s.
  bool wait(size_t index);
  bool wait_for_tokens(size_t index, size_t tokens);
  bool wait_all();
  Reply reply(size_t index);
  size_t size();
  uint64_t id(size_t index) { return ids_[index]; }

 private:
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<Reply> replies;
  };
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
  std::vector<uint64_t> ids_;
};

GenerationRequest greedy(std::vector<int32_t> prompt, int max_tokens);
// `length` tokens that depend on `seed`.
std::vector<int32_t> prompt_of(int length, uint64_t seed);
// All requests at once; the replies in order. Fails the test where one does not end.
std::vector<Reply> answers(LocalCluster& cluster, const std::vector<GenerationRequest>& requests);

}  // namespace shoal::test
