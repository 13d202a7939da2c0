// shoal serve: the cluster behind an OpenAI-compatible HTTP server on the head.
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>

#include "node/command_support.h"
#include "node/commands.h"
#include "node/end_signals.h"
#include "node/http/api_handler.h"
#include "node/http/http_server.h"
#include "transport/endpoint_text.h"

namespace shoal {
namespace {

using boost::asio::ip::tcp;

struct Door {
  tcp::endpoint endpoint;
  ApiKeys keys, admins;
  AllowedOrigins origins;
  int requests_per_minute = 0;
};

// Where to listen and who may come in, from the flags and the cluster file. Throws SetupError.
Door door_of(const ClusterConfig& config, const ServeFlags& flags) {
  const bool by_flag = !flags.listen.empty();
  const std::string listen = by_flag                       ? flags.listen
                             : config.serve.listen.empty() ? "127.0.0.1:8080"
                                                           : config.serve.listen;
  Door door;
  door.endpoint = parse_listen(listen, by_flag ? "--listen" : config.path + ": serve.listen");
  const std::string& file = flags.api_key_file.empty() ? config.serve.api_key_file : flags.api_key_file;
  if (!file.empty()) door.keys = ApiKeys::from_file(file);
  const std::string& admins =
      flags.admin_key_file.empty() ? config.serve.admin_key_file : flags.admin_key_file;
  if (!admins.empty()) door.admins = ApiKeys::from_file(admins);
  if (door.keys.empty() && !door.endpoint.address().is_loopback() && !flags.without_keys) {
    throw SetupError(
        fmt::format("{} can be reached from other machines and there are no API keys: give --api-key-file "
                    "FILE, listen on 127.0.0.1, or say --without-api-key if anybody there may use it",
                    listen));
  }
  door.requests_per_minute =
      flags.requests_per_minute > 0 ? flags.requests_per_minute : config.serve.requests_per_minute;
  const bool origin_by_flag = !flags.allow_origin.empty();
  door.origins =
      AllowedOrigins::parse(origin_by_flag ? flags.allow_origin : config.serve.allow_origin,
                            origin_by_flag ? "--allow-origin" : config.path + ": serve.allow-origin");
  if (door.origins.any() && door.keys.empty()) {
    throw SetupError(
        "--allow-origin *: without API keys any web page could use the server through its visitor's browser: "
        "name the origins, or give --api-key-file");
  }
  return door;
}

// As many files as the system lets us open: each connection is one.
void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

constexpr int kSequencesOfOne = 4;                      // answers at a time where nothing else is said
constexpr auto kOrderlyEnd = std::chrono::seconds(10);  // of the cluster, once its server has ended

void serve(Cluster& cluster, const Door& door, const ServeFlags& flags, const std::string& trace_path) {
  raise_file_limit();
  IoThread& io = cluster.node->io();
  const auto metrics = std::make_shared<ApiMetrics>();
  StatsCollector stats(*cluster.node);
  TraceSession trace(trace_path, cluster);
  CompletionService service(cluster, metrics);
  EmbeddingService embeddings(cluster, metrics, service.model_id());
  ApiHandler handler(cluster, service, embeddings, *metrics, stats, door.keys, door.admins, door.origins,
                     door.requests_per_minute);
  HttpServer server(io, handler, HttpLimits());
  handler.set_server(server);
  const tcp::endpoint endpoint = server.listen(door.endpoint);
  const EndSignals signals(
      io,
      [&] {
        handler.set_stopping();
        stats.stop();
      },
      [&] { server.hurry(); }, kOrderlyEnd);
  std::fputs(fmt::format("serving {} on http://{} (process {})\n", service.model_id(),
                         endpoint_text(endpoint), getpid())
                 .c_str(),
             stderr);
  stats.run([&] { trace.write(); });
  spdlog::info("stopping: answers under way have {:g} s; the same signal again ends them now", flags.grace_s);
  server.stop(std::chrono::milliseconds(static_cast<int64_t>(flags.grace_s * 1e3)), [&] {
    service.cancel_all();
    embeddings.cancel_all();
  });
}

}  // namespace

int serve_command(const CommonFlags& given, const ServeFlags& flags) {
  CommonFlags common = given;
  if (common.config.empty() && common.sequences == 0) common.sequences = kSequencesOfOne;
  Door door;
  // A signal to end goes to all processes of a cluster, as mpirun passes it on: the head lets answers finish
  // and then ends the others, so those wait for it.
  auto on_worker = [](Cluster&) {
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
  };
  return with_cluster(
      common,
      [&](bool is_head) {
        door = door_of(config_of(common), flags);
        if (is_head) check_free(door.endpoint);
      },
      [&](Cluster& cluster) {
        serve(cluster, door, flags, common.trace);
        if (!common.quiet) print_fidelity(cluster);
      },
      on_worker);
}

}  // namespace shoal
