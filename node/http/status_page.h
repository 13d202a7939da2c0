// What /status.json says: the pipeline as it is laid out, what each stage and link does, requests under way.
// The live page and `shoal top` show it.
#pragma once

#include <memory>
#include <string>

#include "node/cluster.h"
#include "node/http/api_metrics.h"
#include "node/http/completion_service.h"
#include "node/http/http_server.h"
#include "node/http/stats_collector.h"

namespace shoal {

// `now` and `before` may be null: then no node has been heard. On the io thread.
std::string status_json(const Cluster& cluster, const CompletionService& service, const ApiMetrics& metrics,
                        const HttpCounters& http, const std::shared_ptr<const StatsSample>& now,
                        const std::shared_ptr<const StatsSample>& before);

}  // namespace shoal
