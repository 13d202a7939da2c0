#include "node/http/status_page.h"

#include <algorithm>
#include <boost/json.hpp>

#include "base/version.h"

namespace shoal {

namespace json = boost::json;

namespace {

const StatsMessage* stats_of(const std::shared_ptr<const StatsSample>& sample, const std::string& node) {
  if (!sample) return nullptr;
  for (const StatsMessage& stats : sample->nodes) {
    if (stats.node_name == node) return &stats;
  }
  return nullptr;
}

const StageReport* stage_of(const StatsMessage* stats, uint32_t stage) {
  if (stats == nullptr) return nullptr;
  for (const StageReport& report : stats->stages) {
    if (report.stage == stage) return &report;
  }
  return nullptr;
}

uint64_t sent_to(const StatsMessage* stats, const std::string& peer) {
  uint64_t bytes = 0;
  if (stats == nullptr) return 0;
  for (const LinkReport& link : stats->links) {
    if (link.peer == peer) bytes += link.bytes_sent;
  }
  return bytes;
}

// What happened between two samples of one thing.
class Window {
 public:
  Window(const std::shared_ptr<const StatsSample>& now, const std::shared_ptr<const StatsSample>& before)
      : now_(now), before_(before) {
    if (now && before) seconds_ = std::chrono::duration<double>(now->when - before->when).count();
  }
  double rate(uint64_t now, uint64_t before) const {
    return seconds_ <= 0 || now < before ? 0 : static_cast<double>(now - before) / seconds_;
  }
  const std::shared_ptr<const StatsSample>&now_, &before_;

 private:
  double seconds_ = 0;
};

json::array stages_json(const PipelineLayout& layout, const Window& window) {
  json::array stages;
  for (int i = 0; i <= layout.last_stage(); ++i) {
    const std::string& node = layout.node_of_stage[static_cast<size_t>(i)];
    const ShardSpec& spec = layout.shard_of_stage[static_cast<size_t>(i)];
    const StageReport* now = stage_of(stats_of(window.now_, node), static_cast<uint32_t>(i));
    const StageReport* before = stage_of(stats_of(window.before_, node), static_cast<uint32_t>(i));
    json::object stage{{"stage", i},
                       {"node", node},
                       {"embedding", spec.embedding},
                       {"layer_begin", spec.layers.begin},
                       {"layer_end", spec.layers.end},
                       {"output", spec.output},
                       {"heard", now != nullptr}};
    if (now != nullptr) {
      stage["steps"] = now->steps;
      stage["rows"] = now->rows;
      stage["busy"] =
          before == nullptr ? 0.0 : std::min(1.0, window.rate(now->busy_ns, before->busy_ns) * 1e-9);
      stage["rows_per_s"] = before == nullptr ? 0.0 : window.rate(now->rows, before->rows);
    }
    stages.push_back(std::move(stage));
  }
  return stages;
}

json::object node_json(const Cluster& cluster, const Window& window, const std::string& name,
                       uint64_t memory) {
  const StatsMessage* stats = stats_of(window.now_, name);
  json::object node{{"name", name},
                    {"head", name == cluster.layout.head},
                    {"memory_budget", memory},
                    {"heard", stats != nullptr}};
  if (stats != nullptr) {
    uint64_t weights = 0, kv = 0, scratch = 0;
    for (const StageReport& stage : stats->stages)
      weights += stage.weight_bytes, kv += stage.kv_bytes, scratch += stage.scratch_bytes;
    node["resident"] = stats->resident_bytes;
    node["weights"] = weights;
    node["kv"] = kv;
    node["scratch"] = scratch;
  }
  return node;
}

// Those of the cluster file, and those that have joined.
json::array nodes_json(const Cluster& cluster, const Window& window) {
  json::array nodes;
  if (!cluster.keeper) {
    for (const NodeConfig& config : cluster.config.nodes)
      nodes.push_back(node_json(cluster, window, config.name, config.memory_bytes));
    return nodes;
  }
  for (const PipelineKeeper::Member& member : cluster.keeper->members()) {
    json::object node = node_json(cluster, window, member.name, member.memory_bytes);
    node["state"] = member.state;
    if (member.quarantined_s > 0) node["quarantined_s"] = member.quarantined_s;
    nodes.push_back(std::move(node));
  }
  return nodes;
}

const char* state_text(Recovery::State state) {
  if (state == Recovery::State::kRunning) return "running";
  return state == Recovery::State::kDown ? "down" : "recovering";
}

json::array events_json(const Cluster& cluster) {
  json::array events;
  for (const ClusterEvent& event : cluster.keeper->events()) {
    events.push_back({{"ago_s", cluster.node->now_s() - event.time_s},
                      {"kind", to_string(event.kind)},
                      {"node", event.node},
                      {"text", event.text}});
  }
  return events;
}

int device_of(const PlanInput& input, const std::string& name) {
  for (size_t i = 0; i < input.devices.size(); ++i)
    if (input.devices[i].name == name) return static_cast<int>(i);
  return -1;
}

// The way of a step: from each stage to the next one on another node, and home.
json::array links_json(const Cluster& cluster, const Window& window) {
  const PipelineLayout& layout = cluster.layout;
  json::array links;
  auto add = [&](const std::string& from, const std::string& to) {
    if (from == to) return;
    json::object link{{"from", from}, {"to", to}};
    const uint64_t sent = sent_to(stats_of(window.now_, from), to);
    link["sent_bytes"] = sent;
    link["bytes_per_s"] =
        window.before_ ? window.rate(sent, sent_to(stats_of(window.before_, from), to)) : 0.0;
    const int a = device_of(cluster.plan_input, from), b = device_of(cluster.plan_input, to);
    if (a >= 0 && b >= 0 && std::max(a, b) < cluster.plan_input.links.devices()) {
      link["latency_s"] = cluster.plan_input.links.at(a, b).latency_s;
      link["capacity_bytes_per_s"] = cluster.plan_input.links.at(a, b).bytes_per_s;
    }
    links.push_back(std::move(link));
  };
  std::string at = layout.head;
  for (const std::string& node : layout.node_of_stage) add(std::exchange(at, node), node);
  if (!layout.node_of_stage.empty()) add(at, layout.head);
  return links;
}

json::array requests_json(const CompletionService& service) {
  json::array requests;
  for (const CompletionService::Active& active : service.active()) {
    requests.push_back(json::object{{"number", active.number},
                                    {"kind", active.chat ? "chat" : "text"},
                                    {"stream", active.stream},
                                    {"age_s", active.age_s},
                                    {"state", active.usage.completion_tokens > 0 ? "generating" : "waiting"},
                                    {"prompt_tokens", active.usage.prompt_tokens},
                                    {"completion_tokens", active.usage.completion_tokens}});
  }
  return requests;
}

}  // namespace

std::string status_json(const Cluster& cluster, const CompletionService& service, const ApiMetrics& metrics,
                        const HttpCounters& http, const std::shared_ptr<const StatsSample>& now,
                        const std::shared_ptr<const StatsSample>& before) {
  const Window window(now, before);
  json::object status{{"version", kVersion},
                      {"cluster", cluster.config.cluster},
                      {"model", service.model_id()},
                      {"context", cluster.layout.context},
                      {"sequences", cluster.layout.slots},
                      {"layers", cluster.model.n_layer},
                      {"stages", stages_json(cluster.layout, window)},
                      {"nodes", nodes_json(cluster, window)},
                      {"links", links_json(cluster, window)},
                      {"requests", requests_json(service)},
                      {"tokens_generated", static_cast<uint64_t>(metrics.tokens_generated())},
                      {"tokens_per_s", metrics.tokens_per_s()},
                      {"uptime_s", metrics.uptime_s()},
                      {"connections", http.connections}};
  status["state"] = cluster.keeper ? state_text(cluster.keeper->state()) : "running";
  if (cluster.keeper) {
    status["plan"] = cluster.keeper->epoch();
    status["events"] = events_json(cluster);
  }
  if (cluster.verifier) {
    const Verifier::Counts counts = cluster.verifier->counts();
    status["verify"] = json::object{
        {"share", cluster.verifier->share()}, {"steps", counts.steps},     {"rows", counts.rows},
        {"differences", counts.different},    {"failures", counts.failed}, {"seconds", counts.seconds}};
  }
  return json::serialize(status);
}

}  // namespace shoal
