#include "node/command_support.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "base/logging.h"
#include "base/loopback.h"
#include "base/printable.h"
#include "transport/messages.h"

namespace shoal {
namespace {

void add_adapters(const CommonFlags& common, ClusterConfig& config) {
  for (const std::string& text : common.adapters) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos)
      throw SetupError(fmt::format("--adapter: write it NAME=FILE.gguf, not '{}'", text));
    add_adapter(config, text.substr(0, equals), text.substr(equals + 1), "--adapter");
    AdapterConfig& adapter = config.adapters.back();
    adapter.path = find_model_path(adapter.path, "", &adapter.missing);
  }
  if (const Result<AdapterChoice> choice = choose_adapter(config, common.lora); !choice)
    throw SetupError("--lora: " + choice.error().message);
}

}  // namespace

void refuse_off_loopback(const std::string& who, const std::string& address) {
  if (is_loopback_host(address)) return;
  throw SetupError(fmt::format(
      "--insecure: {} is at {}, off loopback, where strangers could read and send activations: leave "
      "--insecure out, or add --trust-network if everybody there may",
      who, address));
}

Result<AdapterChoice> choose_adapter(const ClusterConfig& config, const std::string& text) {
  AdapterChoice choice;
  if (text.empty()) return choice;
  const size_t colon = std::min(text.find(':'), text.size());
  const std::string name = text.substr(0, colon);
  if (colon < text.size()) {
    const char* end = text.data() + text.size();
    const auto [rest, errc] = std::from_chars(text.data() + colon + 1, end, choice.scale);
    if (errc != std::errc() || rest != end || !(std::abs(choice.scale) <= kAdapterScaleMax))
      return Error{Errc::kInvalidInput,
                   fmt::format("the scale of an adapter is a number from {} to {}, not {}", -kAdapterScaleMax,
                               kAdapterScaleMax, in_quotes(text.substr(colon + 1)))};
  }
  std::string names;
  for (size_t i = 0; i < config.adapters.size(); ++i) {
    if (config.adapters[i].name == name) choice.index = static_cast<int>(i) + 1;
    names += (names.empty() ? "" : ", ") + config.adapters[i].name;
  }
  if (choice.index > 0) return choice;
  return Error{Errc::kInvalidInput,
               fmt::format("there is no adapter {}; {}", in_quotes(name),
                           names.empty() ? "none was loaded (--adapter NAME=FILE.gguf, or adapters: in "
                                           "the cluster file)"
                                         : "there are: " + names)};
}

ClusterConfig config_of(const CommonFlags& common) {
  if (common.config.empty()) {
    if (common.model.empty()) {
      throw SetupError("no model: name a GGUF file (shoal run MODEL.gguf ...), or a cluster file with -c");
    }
    for (const auto& [flag, value] :
         {std::pair("--objective", common.objective), std::pair("--keep-on-head", common.keep_on_head),
          std::pair("--node", common.node), std::pair("--stall-timeout", common.stall_timeout),
          std::pair("--cache-size", common.cache_size), std::pair("--verify", common.verify)}) {
      if (!value.empty())
        throw SetupError(fmt::format("{} {} is for a cluster: name a cluster file with -c", flag, value));
    }
    const int sequences = common.sequences > 0 ? common.sequences : 1;
    ClusterConfig config =
        single_node_config(resolve_model_path(common.model, ""), common.context, sequences, common.threads);
    if (!common.kv_cache.empty()) config.kv_cache = parse_kv_cache(common.kv_cache, "--kv-cache");
    config.kv_cells = common.kv_cells;
    add_adapters(common, config);
    config.model_key = common.model_key;
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
  if (!common.verify.empty()) config.verify = parse_share(common.verify, "--verify");
  add_adapters(common, config);
  if (!common.model_key.empty()) config.model_key = common.model_key;
  config.insecure = common.insecure;
  if (config.insecure && !common.trust_network) {
    for (const NodeConfig& node : config.nodes) refuse_off_loopback("node " + node.name, node.address);
  }
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
  options.await_nodes = common.await_nodes;
  return options;
}

void load_config_together(Cluster& cluster, Bootstrap& bootstrap, const CommonFlags& common,
                          const std::function<void(bool is_head)>& check) {
  RankReport report;
  try {
    check(bootstrap.rank() == 0);
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
  trace_.emplace(path, layout_now(cluster));
  cluster.coordinator->set_trace(&*trace_);
  if (!cluster.keeper) return;
  cluster.node->call(
      [&] { cluster.on_laid_out = [this](const PipelineLayout& layout) { trace_->lay_out(layout); }; });
  cluster.keeper->set_on_event([this](const ClusterEvent& event) {
    trace_->add(TracedEvent{event.time_s, event.text});
  });
}

TraceSession::~TraceSession() {
  if (!trace_) return;
  cluster_.coordinator->set_trace(nullptr);
  if (!cluster_.keeper) return;
  cluster_.keeper->set_on_event({});
  cluster_.node->call([this] { cluster_.on_laid_out = {}; });
}

namespace {

// Also one that computed nothing.
bool somebody_is_lost(const Cluster& cluster) {
  if (!cluster.keeper) return false;
  return cluster.node->io().call([&] {
    for (const PipelineKeeper::Member& member : cluster.keeper->members()) {
      if (member.state == "lost" || member.state == "quarantined") return true;
    }
    return false;
  });
}

}  // namespace

int with_cluster(const CommonFlags& common, const std::function<void(bool is_head)>& check,
                 const std::function<void(Cluster&)>& work, const std::function<void(Cluster&)>& on_worker) {
  const std::unique_ptr<Bootstrap> bootstrap = make_bootstrap();
  Cluster cluster;
  load_config_together(cluster, *bootstrap, common, check);
  start_cluster(cluster, *bootstrap, options_of(common));
  try {
    if (cluster.is_head()) {
      work(cluster);
      // A server that nodes cannot join goes on refusing after a loss until it is told to end: that is no
      // success. With a keeper it waits for them, and ends in order meanwhile.
      if (const std::optional<Error> refusal = cluster.coordinator->refuses(); refusal && !cluster.keeper)
        throw SetupError(refusal->message, kExitFailed);
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
  // Not all meet any more.
  if (cluster.node->epoch() > kFirstEpoch || somebody_is_lost(cluster)) bootstrap->abandon();
  cluster.node->shutdown_workers();
  return kExitDone;
}

}  // namespace shoal
