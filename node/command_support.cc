#include "node/command_support.h"

#include <fmt/format.h>

#include <boost/asio/ip/address.hpp>

#include "base/logging.h"

namespace shoal {
namespace {

void refuse_off_loopback(const ClusterConfig& config) {
  for (const NodeConfig& node : config.nodes) {
    boost::system::error_code not_a_number;
    const auto address = boost::asio::ip::make_address(node.address, not_a_number);
    if (node.address == "localhost" || (!not_a_number && address.is_loopback())) continue;
    throw SetupError(fmt::format(
        "--insecure: node {} is at {}, off loopback, where strangers could read and send activations: leave "
        "--insecure out, or add --trust-network if everybody there may",
        node.name, node.address));
  }
}

}  // namespace

ClusterConfig config_of(const CommonFlags& common) {
  if (common.config.empty()) {
    if (common.model.empty()) {
      throw SetupError("no model: name a GGUF file (shoal run MODEL.gguf ...), or a cluster file with -c");
    }
    for (const auto& [flag, value] :
         {std::pair("--objective", common.objective), std::pair("--keep-on-head", common.keep_on_head),
          std::pair("--node", common.node), std::pair("--stall-timeout", common.stall_timeout),
          std::pair("--cache-size", common.cache_size)}) {
      if (!value.empty())
        throw SetupError(fmt::format("{} {} is for a cluster: name a cluster file with -c", flag, value));
    }
    const int sequences = common.sequences > 0 ? common.sequences : 1;
    ClusterConfig config =
        single_node_config(resolve_model_path(common.model, ""), common.context, sequences, common.threads);
    if (!common.kv_cache.empty()) config.kv_cache = parse_kv_cache(common.kv_cache, "--kv-cache");
    config.kv_cells = common.kv_cells;
    return config;
  }
  ClusterConfig config = load_cluster_config(common.config, common.model);
  if (common.context > 0) config.context = common.context;
  if (common.sequences > 0) config.sequences = common.sequences;
  if (!common.kv_cache.empty()) config.kv_cache = parse_kv_cache(common.kv_cache, "--kv-cache");
  if (common.kv_cells > 0) config.kv_cells = common.kv_cells;
  if (!common.objective.empty()) config.plan.objective = common.objective;
  if (!common.keep_on_head.empty()) config.plan.keep_on_head = common.keep_on_head;
  if (!common.stall_timeout.empty())
    config.stall_timeout_s = parse_stall_timeout(common.stall_timeout, "--stall-timeout");
  config.insecure = common.insecure;
  if (config.insecure && !common.trust_network) refuse_off_loopback(config);
  if (!common.cache_size.empty()) {
    for (NodeConfig& node : config.nodes) parse_cache_size(common.cache_size, "--cache-size", node);
  }
  (void)parse_objective(config.plan.objective);  // refuse a wrong word before anything is measured
  (void)parse_keep_on_head(config.plan.keep_on_head);
  return config;
}

ClusterOptions options_of(const CommonFlags& common) {
  ClusterOptions options;
  options.node_name = common.node;
  options.kernels = common.kernels;
  options.threads = common.threads;
  options.show_plan = !common.quiet;
  return options;
}

void load_config_together(Cluster& cluster, Bootstrap& bootstrap, const CommonFlags& common,
                          const std::function<void()>& check) {
  RankReport report;
  try {
    check();
    cluster.config = config_of(common);
    if (bootstrap.size() > 1 && cluster.config.path.empty()) {
      throw SetupError(
          fmt::format("mpirun started {} processes but there is no cluster file: pass -c CLUSTER.yaml",
                      bootstrap.size()));
    }
  } catch (const SetupError& error) {
    report = {"", error.what(), error.exit_code()};
  }
  (void)agree(bootstrap, report);
}

void print_fidelity(Cluster& cluster) {
  if (!cluster.fidelity) return;
  const std::string text = cluster.node->io().call([&] { return render_fidelity(*cluster.fidelity); });
  std::fputs(text.c_str(), stderr);
}

ChatTemplate chat_template_of(const Cluster& cluster) {
  return ChatTemplate::from(*cluster.file, *cluster.tokenizer, cluster.config.model);
}

std::vector<int32_t> chat_prompt(const Tokenizer& tokenizer, const ChatTemplate& chat,
                                 const std::vector<ChatMessage>& messages) {
  const Result<std::vector<PromptPiece>> pieces = chat.render(conversation_of(messages));
  if (!pieces) throw SetupError(pieces.error().message + "; --raw sends the prompt as it is");
  return tokenizer.encode(*pieces, /*add_bos=*/true);
}

TraceSession::TraceSession(const std::string& path, Cluster& cluster) : cluster_(cluster) {
  if (path.empty()) return;
  trace_.emplace(path, cluster.layout);
  cluster.coordinator->set_trace(&*trace_);
}

TraceSession::~TraceSession() {
  if (trace_) cluster_.coordinator->set_trace(nullptr);
}

int with_cluster(const CommonFlags& common, const std::function<void()>& check,
                 const std::function<void(Cluster&)>& work, const std::function<void(Cluster&)>& on_worker) {
  const std::unique_ptr<Bootstrap> bootstrap = make_bootstrap();
  Cluster cluster;
  load_config_together(cluster, *bootstrap, common, check);
  start_cluster(cluster, *bootstrap, options_of(common));
  try {
    if (cluster.is_head()) {
      work(cluster);
      // A server goes on refusing after a loss until it is told to end; that is no success.
      if (const std::optional<Error> lost = cluster.node->lost())
        throw SetupError(lost->message, kExitFailed);
    } else {
      if (on_worker) on_worker(cluster);
      cluster.node->serve_until_shutdown();
    }
  } catch (const SetupError& error) {
    if (error.exit_code() == kExitFailed) bootstrap->abandon();  // somebody is lost or hangs
    cluster.node->shutdown_workers();
    throw;
  } catch (...) {
    bootstrap->abandon();
    throw;
  }
  cluster.node->shutdown_workers();
  return kExitDone;
}

}  // namespace shoal
