#include "node/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/units.h"

namespace shoal {

void EventQueue::push(const GenerationEvent& event) {
  {
    const std::lock_guard lock(mutex_);
    events_.push_back(event);
  }
  ready_.notify_one();
}

GenerationEvent EventQueue::pop() {
  std::unique_lock lock(mutex_);
  ready_.wait(lock, [&] { return !events_.empty(); });
  GenerationEvent event = std::move(events_.front());
  events_.pop_front();
  return event;
}

Answer generate(Cluster& cluster, GenerationRequest request, const std::function<void(int32_t)>& on_token) {
  // Shared with the callback: an event may still be on its way when an error ends the wait.
  const auto queue = std::make_shared<EventQueue>();
  request.on_event = [queue](const GenerationEvent& event) { queue->push(event); };
  const auto begin = std::chrono::steady_clock::now();
  auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  cluster.coordinator->submit(std::move(request));
  Answer answer;
  while (true) {
    const GenerationEvent event = queue->pop();
    if (event.token >= 0) {
      if (answer.tokens.empty()) answer.first_token_s = elapsed(), answer.prompt_rows = event.prompt_rows;
      answer.tokens.push_back(event.token);
      if (on_token) on_token(event.token);
    }
    if (!event.finished) continue;
    answer.total_s = elapsed();
    answer.reason = event.reason;
    if (event.reason == FinishReason::kError) {
      const bool asked_too_much =
          event.error.code == Errc::kContextFull || event.error.code == Errc::kInvalidInput;
      throw SetupError(event.error.message, asked_too_much ? kExitUsage : kExitFailed);
    }
    return answer;
  }
}

namespace {

const StatsMessage* find_stats(const std::vector<StatsMessage>& all, const std::string& node) {
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const auto& stats) { return stats.node_name == node; });
  return found == all.end() ? nullptr : &*found;
}

double busy_seconds(const StatsMessage* stats) {
  double seconds = 0;
  if (stats != nullptr) {
    for (const StageReport& stage : stats->stages) seconds += static_cast<double>(stage.busy_ns) * 1e-9;
  }
  return seconds;
}

uint64_t bytes_sent(const StatsMessage* stats) {
  uint64_t bytes = 0;
  if (stats != nullptr) {
    for (const LinkReport& link : stats->links) bytes += link.bytes_sent;
  }
  return bytes;
}

}  // namespace

std::vector<NodeReport> report_nodes(const std::vector<StatsMessage>& before,
                                     const std::vector<StatsMessage>& generating,
                                     const std::vector<StatsMessage>& after, const PipelineLayout& layout) {
  std::vector<NodeReport> reports;
  for (const StatsMessage& now : after) {
    NodeReport report;
    report.name = now.node_name;
    report.resident_bytes = now.resident_bytes;
    for (const StageReport& stage : now.stages) {
      if (stage.stage >= layout.shard_of_stage.size()) continue;  // a report comes from outside
      const ShardSpec& spec = layout.shard_of_stage[stage.stage];
      auto add = [&](const std::string& what) {
        report.layers += (report.layers.empty() ? "" : ", ") + what;
      };
      if (spec.embedding) add("embedding");
      if (spec.layers.size() > 0) add(fmt::format("{}-{}", spec.layers.begin, spec.layers.end - 1));
      if (spec.output) add("output");
      report.weight_bytes += stage.weight_bytes;
      report.kv_bytes += stage.kv_bytes;
      report.scratch_bytes += stage.scratch_bytes;
    }
    report.busy_s = busy_seconds(&now) - busy_seconds(find_stats(generating, now.node_name));
    report.bytes_sent = bytes_sent(&now) - bytes_sent(find_stats(before, now.node_name));
    report.first_stage = now.stages.empty() ? UINT32_MAX : now.stages.front().stage;
    reports.push_back(std::move(report));
  }
  std::stable_sort(reports.begin(), reports.end(),
                   [](const auto& a, const auto& b) { return a.first_stage < b.first_stage; });
  return reports;
}

std::string render_report(const std::vector<NodeReport>& nodes, double generation_s, int tokens) {
  size_t name_width = 4, layer_width = 6;
  for (const NodeReport& node : nodes) {
    name_width = std::max(name_width, node.name.size());
    layer_width = std::max(layer_width, node.layers.size());
  }
  const double per_token = 1e3 / std::max(tokens, 1);
  std::string text =
      fmt::format("{:<{}}  {:<{}}  {:>10}  {:>10}  {:>10}  {:>13}  {:>13}  {:>12}\n", "node", name_width,
                  "layers", layer_width, "weights", "KV cache", "resident", "computing", "waiting", "sent");
  for (const NodeReport& node : nodes) {
    text += fmt::format("{:<{}}  {:<{}}  {:>10}  {:>10}  {:>10}  {:>7.2f} ms/tk  {:>7.2f} ms/tk  {:>12}\n",
                        node.name, name_width, node.layers.empty() ? "-" : node.layers, layer_width,
                        format_bytes(node.weight_bytes), format_bytes(node.kv_bytes),
                        format_bytes(node.resident_bytes), node.busy_s * per_token,
                        std::max(0.0, generation_s - node.busy_s) * per_token, format_bytes(node.bytes_sent));
  }
  return text;
}

}  // namespace shoal
