#include "node/cluster_config.h"

#include <fmt/format.h>
#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "base/error.h"
#include "base/units.h"
#include "node/yaml_map.h"
#include "planner/planner.h"

namespace shoal {
namespace {

constexpr size_t kNodesMax = 256;
constexpr int kContextMax = 1 << 20;
constexpr int kSequencesMax = 4096;
constexpr double kCertificateDaysMin = 5e-5, kCertificateDaysMax = 3650;  // seconds are for trying it out
constexpr double kStallTimeoutMin = 1, kStallTimeoutMax = 86400;          // seconds

NodeConfig read_node(const YamlMap& nodes, const std::string& name, const std::string& file) {
  const YamlMap map(nodes.get(name), file, "nodes." + name,
                    {"address", "port", "memory", "threads", "kernels", "pin", "weights", "cache-size",
                     "idle-watts", "busy-watts", "trusted"});
  NodeConfig node;
  node.name = name;
  node.address = map.text("address", node.address);
  node.port = static_cast<uint16_t>(map.integer("port", 0, 0, 65535));
  if (!map.has("memory")) {
    map.fail(nodes.get(name), fmt::format("node '{}' has no memory: say how much Shoal may use there, e.g. "
                                          "memory: 1GiB",
                                          name));
  }
  node.memory_bytes = parse_memory(map.text("memory", ""), map.place("memory"));
  node.threads = static_cast<int>(map.integer("threads", 0, 0, 1024));
  node.kernels = map.text("kernels", "");
  const auto flag = [&](const char* key, bool fallback) {
    const std::string text = map.text(key, fallback ? "true" : "false");
    if (text != "true" && text != "false")
      map.fail(map.get(key), fmt::format("{} must be true or false, not '{}'", map.path(key), text));
    return text == "true";
  };
  node.pin = flag("pin", false);
  if (map.has("trusted")) node.says_trusted = flag("trusted", true);
  const std::string weights = map.text("weights", "any");
  if (weights != "any" && weights != "file" && weights != "fetch")
    map.fail(map.get("weights"),
             fmt::format("{} must be any, file or fetch, not '{}'", map.path("weights"), weights));
  node.own_file = weights != "fetch";
  node.needs_file = weights == "file";
  if (map.has("cache-size")) parse_cache_size(map.text("cache-size", ""), map.place("cache-size"), node);
  node.idle_watts = map.number("idle-watts", 0, 0, 1e5, "W");
  node.busy_watts = map.number("busy-watts", 0, 0, 1e5, "W");
  if (node.idle_watts > 0 && node.busy_watts < node.idle_watts)
    map.fail(
        map.get("idle-watts"),
        fmt::format("node '{}' draws less busy than idle: busy-watts must be at least idle-watts", name));
  return node;
}

void read_nodes(ClusterConfig& config, const YamlMap& top) {
  if (!top.has("nodes"))
    throw SetupError(config.path + ": nodes is missing: list the devices of the cluster");
  const YamlMap nodes(top.get("nodes"), config.path, "nodes", {});
  for (const auto& entry : top.get("nodes")) {
    const std::string name = entry.first.as<std::string>();
    if (!is_node_name(name))
      nodes.fail(entry.first, "a node's name is 1 to 63 letters, digits, '-', '_' or '.'");
    config.nodes.push_back(read_node(nodes, name, config.path));
  }
  if (config.nodes.empty()) nodes.fail(top.get("nodes"), "nodes is empty: at least one device is needed");
  if (config.nodes.size() > kNodesMax) {
    nodes.fail(top.get("nodes"), fmt::format("{} nodes are more than {}", config.nodes.size(), kNodesMax));
  }
  config.head = top.text("head", config.nodes.front().name);
  if (config.head_index() < 0) {
    top.fail(top.get("head"), fmt::format("head '{}' is not one of the nodes", config.head));
  }
  const bool some_are_named = std::any_of(config.nodes.begin(), config.nodes.end(),
                                          [](const NodeConfig& node) { return node.says_trusted == true; });
  for (NodeConfig& node : config.nodes) {
    const bool head = node.name == config.head;
    if (head && node.says_trusted == false) {
      nodes.fail(nodes.get(node.name),
                 fmt::format("node '{}' is the head, where prompts come in: it cannot be "
                             "trusted: false",
                             node.name));
    }
    node.trusted = head || node.says_trusted.value_or(!some_are_named);
  }
}

void read_links(ClusterConfig& config, const YamlMap& top) {
  if (!top.has("links")) return;
  const YAML::Node list = top.get("links");
  if (!list.IsSequence()) top.fail(list, "links must be a list");
  for (const YAML::Node& item : list) {
    const YamlMap map(item, config.path, "links[]", {"between", "bandwidth", "latency"});
    const YAML::Node between = map.get("between");
    if (!between || !between.IsSequence() || between.size() != 2) {
      map.fail(item, "a link needs between: [node, node]");
    }
    LinkConfig link{between[0].as<std::string>(), between[1].as<std::string>(), {}, {}};
    for (const std::string* end : {&link.a, &link.b}) {
      if (config.node_index(*end) < 0)
        map.fail(between, fmt::format("link names an unknown node '{}'", *end));
    }
    if (link.a == link.b)
      map.fail(between, fmt::format("a link joins two nodes, not '{}' with itself", link.a));
    if (map.has("bandwidth")) {
      link.bytes_per_second = parse_bytes_per_second(map.text("bandwidth", ""), map.place("bandwidth"));
    }
    if (map.has("latency")) link.latency_s = parse_seconds(map.text("latency", ""), map.place("latency"));
    for (const LinkConfig& other : config.links) {
      if (std::minmax(other.a, other.b) == std::minmax(link.a, link.b))
        map.fail(item, fmt::format("the link between '{}' and '{}' is given twice (a link is for both ways)",
                                   link.a, link.b));
    }
    config.links.push_back(std::move(link));
  }
}

// "0-9" or "7": layers, both ends included.
LayersOfNode parse_layers(const YamlMap& map, const std::string& node) {
  const std::string text = map.text(node, "");
  LayersOfNode range;
  const char* end = text.data() + text.size();
  auto [p, errc] = std::from_chars(text.data(), end, range.first);
  range.last = range.first;
  bool good = errc == std::errc();
  if (good && p != end) {
    good = *p == '-';
    if (good) {
      const auto second = std::from_chars(p + 1, end, range.last);
      good = second.ec == std::errc() && second.ptr == end;
    }
  }
  if (!good || range.first < 0 || range.last < range.first) {
    map.fail(map.get(node), fmt::format("plan.layers.{}: write layers like 0-9, not '{}'", node, text));
  }
  return range;
}

// After the nodes.
void read_plan(ClusterConfig& config, const YamlMap& top) {
  // Also where all that stand in the file are trusted: others may join.
  if (std::any_of(config.nodes.begin(), config.nodes.end(),
                  [](const NodeConfig& node) { return node.says_trusted.has_value(); }))
    config.plan.keep_on_trusted = "ends";
  if (!top.has("plan")) return;
  const YamlMap map(
      top.get("plan"), config.path, "plan",
      {"objective", "keep-on-head", "keep-on-trusted", "layers", "ttft-ms", "ms-per-token", "power-cap"});
  PlanConfig& plan = config.plan;
  plan.objective = map.text("objective", plan.objective);
  if (plan.objective != "latency" && plan.objective != "throughput" && plan.objective != "energy") {
    map.fail(map.get("objective"),
             fmt::format("plan.objective is latency, throughput or energy, not '{}'", plan.objective));
  }
  plan.ttft_ms = map.number("ttft-ms", 0, 0, 1e9, "ms");
  plan.ms_per_token = map.number("ms-per-token", 0, 0, 1e9, "ms");
  plan.power_cap = map.number("power-cap", 0, 0, 1e9, "W");
  plan.keep_on_head = map.text("keep-on-head", plan.keep_on_head);
  const auto check_layers = [&](const char* key, const std::string& text) {
    try {
      (void)parse_keep_on_head(text);
    } catch (const SetupError&) {
      map.fail(
          map.get(key),
          fmt::format("plan.{} is none, first-layer, ends, first:K or first:K,last:L, not '{}'", key, text));
    }
  };
  check_layers("keep-on-head", plan.keep_on_head);
  plan.keep_on_trusted = map.text("keep-on-trusted", plan.keep_on_trusted);
  if (map.has("keep-on-trusted")) check_layers("keep-on-trusted", plan.keep_on_trusted);
  if (!map.has("layers")) return;
  const YamlMap layers(map.get("layers"), config.path, "plan.layers", {});
  for (const auto& entry : map.get("layers")) {
    const std::string node = entry.first.as<std::string>();
    if (config.node_index(node) < 0)
      layers.fail(entry.first, fmt::format("plan.layers: unknown node '{}'", node));
    plan.layers[node] = parse_layers(layers, node);
  }
}

// A path relative to the cluster file's folder; empty stays empty.
std::string beside_file(const std::string& config_path, const std::string& path) {
  return path.empty() ? path : (std::filesystem::path(config_path).parent_path() / path).string();
}

void read_serve(ClusterConfig& config, const YamlMap& top) {
  if (!top.has("serve")) return;
  const YamlMap map(top.get("serve"), config.path, "serve",
                    {"listen", "api-key-file", "admin-key-file", "allow-origin", "requests-per-minute"});
  config.serve.listen = map.text("listen", "");
  config.serve.allow_origin = map.text("allow-origin", "");
  config.serve.requests_per_minute = static_cast<int>(map.integer("requests-per-minute", 0, 1, 1 << 20));
  config.serve.api_key_file = beside_file(config.path, map.text("api-key-file", ""));
  config.serve.admin_key_file = beside_file(config.path, map.text("admin-key-file", ""));
}

void read_adapters(ClusterConfig& config, const YamlMap& top) {
  if (!top.has("adapters")) return;
  const YamlMap map(top.get("adapters"), config.path, "adapters", {});
  for (const auto& entry : top.get("adapters")) {
    const std::string name = entry.first.as<std::string>();
    add_adapter(config, name, map.text(name, ""), map.place(name));
  }
}

}  // namespace

void add_adapter(ClusterConfig& config, const std::string& name, const std::string& path,
                 const std::string& place) {
  const bool clean = !name.empty() && name.size() <= 63 && std::all_of(name.begin(), name.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  });
  if (!clean) throw SetupError(place + ": an adapter's name is 1 to 63 letters, digits, '-', '_' or '.'");
  if (path.empty()) throw SetupError(fmt::format("{}: adapter '{}' has no file", place, name));
  for (const AdapterConfig& other : config.adapters) {
    if (other.name == name) throw SetupError(fmt::format("{}: there are two adapters '{}'", place, name));
  }
  if (config.adapters.size() == kAdaptersMax)
    throw SetupError(fmt::format("{}: more than {} adapters", place, kAdaptersMax));
  config.adapters.push_back({name, path, ""});
}

int ClusterConfig::node_index(const std::string& name) const {
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].name == name) return static_cast<int>(i);
  }
  return -1;
}

std::chrono::seconds ClusterConfig::certificate_life() const {
  return std::chrono::seconds(static_cast<int64_t>(certificate_days * 86400));
}

std::string ClusterConfig::canonical() const {
  std::string text = fmt::format("{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}\n", cluster, context, sequences,
                                 kv_cache_name(kv_cache), kv_cells, head, plan.objective, plan.keep_on_head,
                                 plan.keep_on_trusted, stall_timeout_s, plan.ttft_ms, plan.ms_per_token,
                                 plan.power_cap, insecure);
  for (const NodeConfig& n : nodes) {
    text += fmt::format("{}|{}|{}|{}|{}|{}|{}|{}|{}|{}\n", n.name, n.address, n.port, n.memory_bytes,
                        n.threads, n.kernels, n.pin, n.idle_watts, n.busy_watts, n.trusted);
  }
  for (const LinkConfig& l : links) {
    text += fmt::format("{}|{}|{}|{}\n", l.a, l.b, l.bytes_per_second.value_or(-1), l.latency_s.value_or(-1));
  }
  for (const AdapterConfig& adapter : adapters) text += fmt::format("adapter {}\n", adapter.name);
  for (const auto& [node, range] : plan.layers)
    text += fmt::format("{}|{}-{}\n", node, range.first, range.last);
  return text;
}

KvType parse_kv_cache(const std::string& text, const std::string& place) {
  if (text == "f16") return KvType::kF16;
  if (text == "q8_0") return KvType::kQ8_0;
  throw SetupError(fmt::format("{} is f16 or q8_0, not '{}'", place, text));
}

const char* kv_cache_name(KvType type) {
  return type == KvType::kF16 ? "f16" : "q8_0";
}

ClusterConfig parse_cluster_config(const std::string& yaml, const std::string& path) {
  ClusterConfig config;
  config.path = path;
  try {
    const YAML::Node document = load_yaml_document(yaml, path);
    if (document.IsNull())
      throw SetupError(fmt::format("{}: the cluster file is empty (see configs/ for examples)", path));
    const YamlMap top(
        document, path, "",
        {"cluster", "model", "model-key", "context", "sequences", "kv-cache", "kv-cells", "head", "nodes",
         "links", "plan", "stall-timeout", "serve", "adapters", "certificate-days", "verify"});
    config.cluster = top.text("cluster", config.cluster);
    config.model = top.text("model", "");
    config.model_key = beside_file(path, top.text("model-key", ""));
    config.context = static_cast<int>(top.integer("context", config.context, 16, kContextMax));
    config.sequences = static_cast<int>(top.integer("sequences", config.sequences, 1, kSequencesMax));
    if (top.has("kv-cache")) {
      config.kv_cache = parse_kv_cache(top.text("kv-cache", ""), top.place("kv-cache"));
    }
    config.kv_cells = top.integer("kv-cells", 0, 16, kKvCellsMax);
    read_nodes(config, top);
    read_links(config, top);
    read_plan(config, top);
    if (top.has("stall-timeout"))
      config.stall_timeout_s = parse_stall_timeout(top.text("stall-timeout", ""), top.place("stall-timeout"));
    config.certificate_days = top.number("certificate-days", config.certificate_days, kCertificateDaysMin,
                                         kCertificateDaysMax, "days");
    if (top.has("verify")) config.verify = parse_share(top.text("verify", ""), top.place("verify"));
    read_serve(config, top);
    read_adapters(config, top);
  } catch (const YAML::DeepRecursion& e) {
    throw SetupError(fmt::format("{}:{}: nested too deeply", path, e.mark.line + 1));
  } catch (const YAML::BadConversion& e) {
    throw SetupError(
        fmt::format("{}:{}: a plain text or number belongs here, not a list or map", path, e.mark.line + 1));
  } catch (const YAML::Exception& e) {
    throw SetupError(fmt::format("{}:{}: {}", path, e.mark.line + 1, e.msg));
  }
  return config;
}

bool is_node_name(const std::string& name) {
  if (name == "." || name == "..") return false;  // files are called by it
  return !name.empty() && name.size() <= 63 && std::all_of(name.begin(), name.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  });
}

void parse_cache_size(const std::string& text, const std::string& place, NodeConfig& node) {
  node.cache = text != "none";
  node.cache_bytes = node.cache ? parse_bytes(text, place) : 0;
}

uint64_t parse_memory(const std::string& text, const std::string& place) {
  const uint64_t bytes = parse_bytes(text, place);
  if (bytes == 0)
    throw SetupError(
        fmt::format("{}: '{}' leaves no memory to use: say how much Shoal may use, e.g. 1GiB", place, text));
  return bytes;
}

double parse_share(const std::string& text, const std::string& place) {
  double percent = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, errc] = std::from_chars(text.data(), end, percent);
  if (errc != std::errc() || std::string_view(rest, end) != "%" || !(percent > 0 && percent <= 100))
    throw SetupError(
        fmt::format("{}: write a share like 1%, above 0 and at most 100%, not '{}'", place, text));
  return percent / 100;
}

double parse_stall_timeout(const std::string& text, const std::string& place) {
  const double seconds = parse_seconds(text, place);
  if (seconds < kStallTimeoutMin || seconds > kStallTimeoutMax) {
    throw SetupError(fmt::format("{}: must be from {:g}s to {:g}s, not '{}'", place, kStallTimeoutMin,
                                 kStallTimeoutMax, text));
  }
  return seconds;
}

}  // namespace shoal
