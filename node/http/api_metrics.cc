#include "node/http/api_metrics.h"

#include <prometheus/text_serializer.h>

#include <cmath>
#include <iterator>
#include <map>

namespace shoal {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

namespace {

constexpr double kRateSeconds = 3;  // an event this old counts for 1/e of a new one

prometheus::Counter& counter(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

prometheus::Histogram& histogram(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(
      {}, prometheus::Histogram::BucketBoundaries{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
                                                  60});
}

// Values that others keep, as families of one reading.
class Reading {
 public:
  MetricFamily& family(const char* name, const char* help, MetricType type) {
    MetricFamily family;
    family.name = name;
    family.help = help;
    family.type = type;
    families_.push_back(std::move(family));
    return families_.back();
  }
  static void add(MetricFamily& family, double value,
                  std::vector<std::pair<std::string, std::string>> labels = {}) {
    ClientMetric metric;
    for (auto& [name, text] : labels) metric.label.push_back({name, text});
    (family.type == MetricType::Gauge ? metric.gauge.value : metric.counter.value) = value;
    family.metric.push_back(std::move(metric));
  }
  std::vector<MetricFamily> take() { return std::move(families_); }

 private:
  std::vector<MetricFamily> families_;
};

std::vector<MetricFamily> head_families(const HttpCounters& http, uint64_t preempted) {
  Reading reading;
  auto one = [&](const char* name, const char* help, MetricType type, double value) {
    Reading::add(reading.family(name, help, type), value);
  };
  one("shoal_http_connections", "HTTP connections open", MetricType::Gauge,
      static_cast<double>(http.connections));
  one("shoal_http_connections_total", "HTTP connections accepted", MetricType::Counter,
      static_cast<double>(http.accepted));
  one("shoal_http_connections_refused_total", "HTTP connections beyond the limit", MetricType::Counter,
      static_cast<double>(http.refused));
  one("shoal_http_connections_dropped_total", "HTTP connections that were too slow", MetricType::Counter,
      static_cast<double>(http.dropped));
  one("shoal_preempted_sequences_total", "Sequences taken off for want of cache, to be computed again",
      MetricType::Counter, static_cast<double>(preempted));
  return reading.take();
}

std::vector<MetricFamily> cluster_families(const ClusterCounts& cluster) {
  Reading reading;
  auto count = [&](const char* name, const char* help, double value) {
    Reading::add(reading.family(name, help, MetricType::Counter), value);
  };
  count("shoal_nodes_joined_total", "Nodes that joined while the head ran",
        static_cast<double>(cluster.joined));
  count("shoal_nodes_lost_total", "Nodes that were lost", static_cast<double>(cluster.lost));
  MetricFamily& failures =
      reading.family("shoal_step_failures_total",
                     "Steps that failed though nobody was lost, by the node or the hop that was at fault",
                     MetricType::Counter);
  if (cluster.failed.empty()) Reading::add(failures, 0, {{"at", ""}});
  for (const auto& [at, failed] : cluster.failed)
    Reading::add(failures, static_cast<double>(failed), {{"at", at}});
  count("shoal_nodes_suspected_total", "Nodes that were taken out because their numbers were wrong",
        static_cast<double>(cluster.suspected));
  Reading::add(reading.family("shoal_nodes_suspect", "Nodes that are out for it now", MetricType::Gauge),
               static_cast<double>(cluster.suspects));
  MetricFamily& wanted =
      reading.family("shoal_fetch_ahead_bytes",
                     "Weights that a node without layers would get if another were lost", MetricType::Gauge);
  for (const auto& [node, ahead] : cluster.ahead)
    Reading::add(wanted, static_cast<double>(ahead.wanted_bytes), {{"node", node}});
  MetricFamily& held =
      reading.family("shoal_fetched_ahead_bytes", "What of it is on the node's disk", MetricType::Gauge);
  for (const auto& [node, ahead] : cluster.ahead)
    Reading::add(held, static_cast<double>(ahead.held_bytes), {{"node", node}});
  count("shoal_recoveries_total", "Pipelines laid out anew", static_cast<double>(cluster.resumed));
  count("shoal_recovery_seconds_total", "Seconds that answers stood still for it", cluster.stood_still_s);
  count("shoal_replayed_tokens_total", "Tokens computed again after a loss",
        static_cast<double>(cluster.replayed));
  count("shoal_stale_messages_total", "Messages of a plan that was over, refused",
        static_cast<double>(cluster.stale));
  count("shoal_verified_steps_total", "Steps that the head has computed again (--verify)",
        static_cast<double>(cluster.verified.steps));
  count("shoal_verified_rows_total", "Rows that it computed for it",
        static_cast<double>(cluster.verified.rows));
  count("shoal_verify_differences_total", "Steps of which a node had computed something else",
        static_cast<double>(cluster.verified.different));
  count("shoal_verify_failures_total", "Steps that it could not compute again",
        static_cast<double>(cluster.verified.failed));
  count("shoal_verify_seconds_total", "Seconds that it took", cluster.verified.seconds);
  Reading::add(reading.family("shoal_plan", "Number of the plan that runs", MetricType::Gauge),
               static_cast<double>(cluster.plan));
  Reading::add(
      reading.family("shoal_pipeline_running", "1: answers are given; 0: recovering, or no plan is possible",
                     MetricType::Gauge),
      cluster.running ? 1 : 0);
  return reading.take();
}

std::vector<MetricFamily> stage_families(const std::vector<StatsMessage>& nodes) {
  Reading reading;
  auto per_stage = [&](const char* name, const char* help, auto value) {
    MetricFamily& family = reading.family(name, help, MetricType::Counter);
    for (const StatsMessage& node : nodes) {
      for (const StageReport& stage : node.stages)
        Reading::add(family, value(stage),
                     {{"node", node.node_name}, {"stage", std::to_string(stage.stage)}});
    }
  };
  per_stage("shoal_stage_busy_seconds_total", "Seconds that a stage computed",
            [](const StageReport& stage) { return static_cast<double>(stage.busy_ns) * 1e-9; });
  per_stage("shoal_stage_steps_total", "Steps that a stage computed",
            [](const StageReport& stage) { return static_cast<double>(stage.steps); });
  per_stage("shoal_stage_rows_total", "Rows that a stage computed",
            [](const StageReport& stage) { return static_cast<double>(stage.rows); });
  MetricFamily& memory =
      reading.family("shoal_node_resident_bytes", "Memory that a node's process holds", MetricType::Gauge);
  for (const StatsMessage& node : nodes)
    Reading::add(memory, static_cast<double>(node.resident_bytes), {{"node", node.node_name}});
  return reading.take();
}

std::vector<MetricFamily> link_families(const std::vector<StatsMessage>& nodes) {
  Reading reading;
  MetricFamily& sent =
      reading.family("shoal_link_sent_bytes_total", "Bytes that a node sent to a peer", MetricType::Counter);
  for (const StatsMessage& node : nodes) {
    std::map<std::string, uint64_t> bytes;  // two nodes may share more than one link
    for (const LinkReport& link : node.links) bytes[link.peer] += link.bytes_sent;
    for (const auto& [peer, count] : bytes)
      Reading::add(sent, static_cast<double>(count), {{"node", node.node_name}, {"peer", peer}});
  }
  return reading.take();
}

}  // namespace

void EventRate::count(Clock::time_point now) {
  rate_ = per_second(now) + 1 / kRateSeconds;
  last_ = now;
}

double EventRate::per_second(Clock::time_point now) const {
  return rate_ * std::exp(-std::chrono::duration<double>(now - last_).count() / kRateSeconds);
}

ApiMetrics::ApiMetrics()
    : requests_(prometheus::BuildCounter()
                    .Name("shoal_requests_total")
                    .Help("HTTP requests by endpoint and status")
                    .Register(registry_)),
      prompt_(counter(registry_, "shoal_prompt_tokens_total", "Prompt tokens of requests that began")),
      cached_(counter(registry_, "shoal_prompt_tokens_cached_total", "Prompt tokens found in the cache")),
      generated_(counter(registry_, "shoal_generated_tokens_total", "Tokens generated")),
      cancelled_(counter(registry_, "shoal_cancelled_requests_total", "Requests whose client went away")),
      in_flight_(prometheus::BuildGauge()
                     .Name("shoal_requests_in_flight")
                     .Help("Answers being generated or waiting")
                     .Register(registry_)
                     .Add({})),
      first_token_(
          histogram(registry_, "shoal_time_to_first_token_seconds", "From a request to its first token")),
      between_tokens_(
          histogram(registry_, "shoal_time_between_tokens_seconds", "Between tokens of one answer")) {}

void ApiMetrics::count_request(const std::string& endpoint, int status) {
  requests_.Add({{"endpoint", endpoint}, {"status", std::to_string(status)}}).Increment();
}

void ApiMetrics::count_token() {
  generated_.Increment();
  rate_.count(EventRate::Clock::now());
}

double ApiMetrics::uptime_s() const {
  return std::chrono::duration<double>(EventRate::Clock::now() - begun_).count();
}

void ApiMetrics::count_prompt(int tokens, int cached) {
  prompt_.Increment(tokens);
  cached_.Increment(cached);
}

std::string ApiMetrics::render(const HttpCounters& http, const std::vector<StatsMessage>& nodes,
                               uint64_t preempted, const ClusterCounts& cluster) const {
  std::vector<MetricFamily> families = registry_.Collect();
  for (std::vector<MetricFamily> more : {head_families(http, preempted), cluster_families(cluster),
                                         stage_families(nodes), link_families(nodes)})
    families.insert(families.end(), std::make_move_iterator(more.begin()),
                    std::make_move_iterator(more.end()));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace shoal
