// Generating from the main thread: submits requests to the coordinator and waits for their tokens; measures
// what the nodes did meanwhile.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "node/cluster.h"

namespace shoal {

// Events of several requests, from the io thread to one consumer.
class EventQueue {
 public:
  void push(const GenerationEvent& event);
  GenerationEvent pop();  // waits

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<GenerationEvent> events_;
};

struct Answer {
  std::vector<int32_t> tokens;
  FinishReason reason = FinishReason::kStop;
  int prompt_rows = 0;       // rows of the prompt that were computed; the rest was in the cache
  double first_token_s = 0;  // from submission to the first token
  double total_s = 0;
};

// Runs one request to its end; `on_token` sees each token as it comes, on this thread. Throws SetupError
// (exit 1) when the request fails.
Answer generate(Cluster& cluster, GenerationRequest request,
                const std::function<void(int32_t)>& on_token = {});

// What a node did: computing since `generating`, bytes since `before`.
struct NodeReport {
  std::string name;
  std::string layers;
  uint32_t first_stage = 0;  // reports are in pipeline order, nodes without a stage last
  uint64_t resident_bytes = 0, weight_bytes = 0, kv_bytes = 0, scratch_bytes = 0;
  double busy_s = 0;
  uint64_t bytes_sent = 0;
};
std::vector<NodeReport> report_nodes(const std::vector<StatsMessage>& before,
                                     const std::vector<StatsMessage>& generating,
                                     const std::vector<StatsMessage>& after, const PipelineLayout& layout);

// The table after an answer: per node its layers, memory, milliseconds computing and waiting for each of the
// `tokens` that `generation_s` gave, bytes sent.
std::string render_report(const std::vector<NodeReport>& nodes, double generation_s, int tokens);

}  // namespace shoal
