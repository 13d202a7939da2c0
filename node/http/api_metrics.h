// What the server counts for Prometheus, kept with prometheus-cpp and written in its text format. Counting is
// safe from any thread. Stages and links are not counted here: they are read from the nodes when asked for.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "node/http/http_server.h"
#include "node/node.h"
#include "node/verifier.h"

namespace shoal {

// Events a second over the last few seconds: each counts for less as it grows old.
class EventRate {
 public:
  using Clock = std::chrono::steady_clock;
  void count(Clock::time_point now);
  double per_second(Clock::time_point now) const;

 private:
  double rate_ = 0;
  Clock::time_point last_ = Clock::now();
};

// What befell the cluster since it started (node/pipeline_keeper.h).
struct ClusterCounts {
  uint64_t joined = 0, lost = 0, resumed = 0, suspected = 0, suspects = 0, stale = 0, replayed = 0;
  std::map<std::string, uint64_t> failed;     // by node or hop
  std::map<std::string, FetchedAhead> ahead;  // by node: of what it would get if another were lost
  double stood_still_s = 0;
  Verifier::Counts verified;
  uint64_t plan = 0;  // the epoch
  bool running = true;
};

// The tokens' rate and the time are read and counted on the io thread alone.
class ApiMetrics {
 public:
  ApiMetrics();

  // `endpoint`: one of the server's own paths, never the client's text: a label must not grow.
  void count_request(const std::string& endpoint, int status);
  void count_prompt(int tokens, int cached);
  void count_token();
  void count_cancelled() { cancelled_.Increment(); }
  void observe_first_token(double seconds) { first_token_.Observe(seconds); }
  void observe_between_tokens(double seconds) { between_tokens_.Observe(seconds); }
  void change_in_flight(int by) { in_flight_.Increment(by); }

  double tokens_generated() const { return generated_.Value(); }
  double tokens_per_s() const { return rate_.per_second(EventRate::Clock::now()); }
  double uptime_s() const;

  // All of it as text, with the server's connections and what the nodes said last.
  std::string render(const HttpCounters& http, const std::vector<StatsMessage>& nodes, uint64_t preempted,
                     const ClusterCounts& cluster) const;

 private:
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Counter &prompt_, &cached_, &generated_, &cancelled_;
  prometheus::Gauge& in_flight_;
  prometheus::Histogram &first_token_, &between_tokens_;
  EventRate rate_;
  const EventRate::Clock::time_point begun_ = EventRate::Clock::now();
};

}  // namespace shoal
