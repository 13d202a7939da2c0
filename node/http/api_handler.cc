#include "node/http/api_handler.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/beast/core/string.hpp>
#include <boost/json.hpp>

#include "base/trimmed.h"
#include "base/uptime.h"
#include "node/http/dashboard.h"
#include "node/http/host_header.h"
#include "node/http/status_page.h"

namespace shoal {

namespace json = boost::json;
using boost::asio::awaitable;
using namespace std::chrono_literals;

namespace {

constexpr auto kStatsAgeMax = 500ms;
constexpr std::string_view kModelsPath = "/v1/models";
constexpr std::string_view kDrainPath = "/cluster/drain";
constexpr std::string_view kChatPath = "/v1/chat/completions";
constexpr std::string_view kEmbeddingsPath = "/v1/embeddings";
constexpr std::string_view kRerankPath = "/v1/rerank";

struct Route {
  std::string_view path;
  bool posts;  // POST with a JSON body; otherwise GET and HEAD
  bool open;   // needs no key
  bool administers = false;
};

constexpr Route kRoutes[] = {
    {"/", false, true},         {"/health", false, true},         {"/ready", false, true},
    {"/metrics", false, false}, {"/status.json", false, false},   {kModelsPath, false, false},
    {kChatPath, true, false},   {"/v1/completions", true, false}, {kEmbeddingsPath, true, false},
    {kRerankPath, true, false}, {kDrainPath, true, false, true},
};

const Route* find_route(std::string_view path) {
  if (path.starts_with("/v1/models/")) path = kModelsPath;
  for (const Route& route : kRoutes) {
    if (route.path == path) return &route;
  }
  return nullptr;
}

// JSON is UTF-8 (RFC 8259, 8.1); a client that says otherwise would have its text misread.
bool is_json(std::string_view content_type) {
  const size_t end = std::min(content_type.find(';'), content_type.size());
  if (!boost::beast::iequals(trimmed(content_type.substr(0, end)), "application/json")) return false;
  for (std::string_view rest = content_type.substr(end); !rest.empty();) {
    rest.remove_prefix(1);
    const std::string_view parameter = trimmed(rest.substr(0, rest.find(';')));
    rest.remove_prefix(std::min(rest.find(';'), rest.size()));
    constexpr std::string_view kCharset = "charset=";
    if (!boost::beast::iequals(parameter.substr(0, kCharset.size()), kCharset)) continue;
    const std::string_view charset = parameter.substr(kCharset.size());
    if (!boost::beast::iequals(charset, "utf-8") && !boost::beast::iequals(charset, "\"utf-8\""))
      return false;
  }
  return true;
}

HttpResponse text_response(std::string content_type, std::string body) {
  return {200, std::move(content_type), std::move(body), {{"Cache-Control", "no-store"}}};
}

}  // namespace

ApiHandler::ApiHandler(Cluster& cluster, CompletionService& service, EmbeddingService& embeddings,
                       ApiMetrics& metrics, StatsCollector& stats, ApiKeys keys, ApiKeys admins,
                       AllowedOrigins origins, int requests_per_minute)
    : cluster_(cluster),
      service_(service),
      embeddings_(embeddings),
      metrics_(metrics),
      stats_(stats),
      keys_(std::move(keys)),
      admins_(std::move(admins)),
      origins_(std::move(origins)),
      rate_(requests_per_minute) {}

std::vector<std::pair<std::string, std::string>> ApiHandler::common_headers(const HttpRequest& request) {
  return origins_.headers(request.origin, request.method == "OPTIONS", request.asked_headers);
}

HttpResponse ApiHandler::refusal(int status, const std::string& problem) {
  metrics_.count_request("none", status);
  return to_response({status, problem, "", "", status == 503 ? 1 : 0});
}

std::optional<HttpResponse> ApiHandler::refuse_early(const HttpRequest& head) {
  std::optional<HttpResponse> response = find_refusal(head);
  if (!response) response = too_often(head);
  if (response) {
    const Route* route = find_route(head.path);
    metrics_.count_request(route == nullptr ? "none" : std::string(route->path), response->status);
  }
  return response;
}

// Whoever tries keys is seen in the log and cannot fill it. One that gives none is a client that nobody told
// of keys, or the live page before its user has typed one.
void ApiHandler::note_wrong_key(const HttpRequest& head) {
  if (head.authorization.empty()) return;
  const std::string what = fmt::format("a request from {} was refused: its key is not one for {}", head.peer,
                                       find_route(head.path)->path);
  wrong_keys_.warn(head.peer, what, uptime_s());
}

std::optional<HttpResponse> ApiHandler::find_refusal(const HttpRequest& head) {
  if (keys_.empty() && !head.host.empty() && !names_this_device(head.host)) {
    return to_response(
        {403,
         "without API keys this server answers to its address, its host name and localhost, not to the name "
         "in the Host header: ask for it by its address, or start it with --api-key-file",
         "", "wrong_host", 0});
  }
  const Route* route = find_route(head.path);
  if (route == nullptr)
    return to_response({404, "no such path; see /v1/models and /", "", "unknown_path", 0});
  const char* allow = route->posts ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
  if (head.method == "OPTIONS") return HttpResponse{204, "", "", {{"Allow", allow}}};
  const bool allowed = route->posts ? head.method == "POST" : head.method == "GET" || head.method == "HEAD";
  if (!allowed) {
    HttpResponse response = to_response({405, fmt::format("this path takes {}", allow), "", "", 0});
    response.headers.emplace_back("Allow", allow);
    return response;
  }
  if (route->administers && !admins_.empty()) {
    if (!admins_.opens(head.authorization)) {
      note_wrong_key(head);
      return to_response({403, "an administrator's key is needed (--admin-key-file)", "", "admin_only", 0});
    }
  } else if (route->administers && !head.from_this_device) {
    return to_response({403,
                        "only over loopback (127.0.0.1), on the head's own machine: otherwise start it with "
                        "--admin-key-file and give one of its keys",
                        "", "admin_only", 0});
  } else if (!route->open && !keys_.empty() && !keys_.opens(head.authorization)) {
    note_wrong_key(head);
    return to_response({401,
                        head.authorization.empty() ? "an API key is needed: Authorization: Bearer KEY"
                                                   : "this API key is not known",
                        "", "invalid_api_key", 0});
  }
  if (route->posts && !is_json(head.content_type))
    return to_response({415, "the body must be JSON in UTF-8: Content-Type: application/json", "", "", 0});
  if (route->posts && stopping_) return to_response({503, "the server is stopping", "", "stopping", 5});
  return std::nullopt;
}

// Only what makes work counts, and only by those who may ask.
std::optional<HttpResponse> ApiHandler::too_often(const HttpRequest& head) {
  if (head.method != "POST") return std::nullopt;
  const std::optional<int> wait_s = rate_.take(keys_.user_of(head.authorization).value_or(""), uptime_s());
  if (!wait_s) return std::nullopt;
  return to_response({429, "more requests in a minute than this server takes of one key", "",
                      "rate_limit_exceeded", *wait_s});
}

awaitable<void> ApiHandler::handle(HttpExchange& exchange) {
  const std::string endpoint(find_route(exchange.request().path)->path);
  metrics_.count_request(endpoint, co_await answer(exchange));
}

awaitable<int> ApiHandler::answer(HttpExchange& exchange) {
  const std::string& path = exchange.request().path;
  if (path.starts_with("/v1/") && find_route(path)->posts) {
    std::string user =
        keys_.user_of(exchange.request().authorization).value_or("");  // nobody where no keys are
    if (path == kEmbeddingsPath) co_return co_await embeddings_.embed(exchange, std::move(user));
    if (path == kRerankPath) co_return co_await embeddings_.rerank(exchange, std::move(user));
    co_return co_await service_.complete(exchange, path == kChatPath, std::move(user));
  }
  HttpResponse response;
  if (path == "/health") {
    response = text_response("application/json", R"({"status":"ok"})");
  } else if (path == "/ready") {
    response = co_await ready();
  } else if (path == "/metrics") {
    response = co_await metrics();
  } else if (path == "/status.json") {
    response = co_await status();
  } else if (path == kDrainPath) {
    response = drain(exchange.request().body);
  } else if (path == "/") {
    response = text_response("text/html; charset=utf-8", std::string(kDashboardHtml));
    response.headers.emplace_back(
        "Content-Security-Policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'");
  } else {
    response = models(path);
  }
  const int status = response.status;
  co_await exchange.respond(std::move(response));
  co_return status;
}

awaitable<HttpResponse> ApiHandler::ready() {
  if (!stopping_ && co_await service_.ready())
    co_return text_response("application/json", R"({"ready":true})");
  HttpResponse response = text_response("application/json", R"({"ready":false})");
  response.status = 503;
  co_return response;
}

// {"node": NAME}: its layers move to others. What came of it is in status.json. With "undo": true that ends.
HttpResponse ApiHandler::drain(const std::string& body) {
  boost::system::error_code malformed;
  const json::value asked = json::parse(body, malformed);
  const json::object* fields = malformed ? nullptr : asked.if_object();
  const json::value* node = fields == nullptr ? nullptr : fields->if_contains("node");
  if (node == nullptr || !node->is_string())
    return to_response({400, "node: a node's name is needed", "node", "", 0});
  if (!cluster_.keeper) return to_response({400, "node: this cluster has one node alone", "node", "", 0});
  const json::value* undo = fields->if_contains("undo");
  if (undo != nullptr && !undo->is_bool())
    return to_response({400, "undo: true or false is needed", "undo", "", 0});
  const bool back = undo != nullptr && undo->get_bool();
  const Result<void> drained = cluster_.keeper->drain(std::string(node->get_string()), back);
  if (drained.has_error()) return to_response({400, "node: " + drained.error().message, "node", "", 0});
  HttpResponse response =
      text_response("application/json", back ? R"({"draining":false})" : R"({"draining":true})");
  response.status = 202;
  return response;
}

awaitable<HttpResponse> ApiHandler::metrics() {
  const std::shared_ptr<const StatsSample> sample = co_await stats_.newest(kStatsAgeMax);
  co_return text_response(
      "text/plain; version=0.0.4; charset=utf-8",
      metrics_.render(server_->counters(), sample ? sample->nodes : std::vector<StatsMessage>(),
                      cluster_.coordinator->preempted(), cluster_counts()));
}

ClusterCounts ApiHandler::cluster_counts() const {
  ClusterCounts counts;
  counts.replayed = cluster_.coordinator->replayed();
  if (cluster_.verifier) counts.verified = cluster_.verifier->counts();
  if (!cluster_.keeper) return counts;
  const PipelineKeeper::Counters kept = cluster_.keeper->counters();
  counts.joined = kept.joined, counts.lost = kept.lost, counts.failed = kept.failed,
  counts.resumed = kept.resumed, counts.suspected = kept.suspected;
  for (const PipelineKeeper::Member& member : cluster_.keeper->members()) {
    counts.suspects += member.state == "suspect";
    if (member.ahead.wanted_bytes > 0) counts.ahead[member.name] = member.ahead;
  }
  counts.stale = kept.stale, counts.stood_still_s = kept.stood_still_s;
  counts.plan = cluster_.keeper->epoch();
  counts.running = cluster_.keeper->state() == Recovery::State::kRunning;
  return counts;
}

awaitable<HttpResponse> ApiHandler::status() {
  const std::shared_ptr<const StatsSample> now = co_await stats_.newest(kStatsAgeMax);
  co_return text_response("application/json", status_json(cluster_, service_, metrics_, server_->counters(),
                                                          now, stats_.previous()));
}

HttpResponse ApiHandler::models(const std::string& path) const {
  json::array models;
  const auto add = [&](const std::string& id) {
    models.push_back({{"id", id},
                      {"object", "model"},
                      {"created", service_.created()},
                      {"owned_by", "shoal"},
                      {"context_length", cluster_.layout.context}});
  };
  add(service_.model_id());
  for (const AdapterConfig& adapter : cluster_.config.adapters) add(service_.model_id() + ":" + adapter.name);
  if (path == kModelsPath) {
    return text_response("application/json",
                         json::serialize(json::object{{"object", "list"}, {"data", std::move(models)}}));
  }
  const std::string asked = path.substr(kModelsPath.size() + 1);
  for (const json::value& model : models) {
    if (asked == model.at("id").as_string() || asked == "default")
      return text_response("application/json", json::serialize(model));
  }
  return to_response({404, fmt::format("this server has the model \"{}\" alone", service_.model_id()),
                      "model", "model_not_found", 0});
}

}  // namespace shoal
