// The cluster file: one YAML page that describes devices, links, the model and what plan is wanted.
// Every key is checked; an unknown one is an error that names the nearest known key. Values only, no I/O
// beyond reading.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tensor/float_ops.h"
#include "transport/certificates.h"

namespace shoal {

struct NodeConfig {
  std::string name;
  std::string address = "127.0.0.1";  // where this node listens for its peers
  uint16_t port = 0;                  // 0: any free port, told to the others at start-up
  uint64_t memory_bytes = 0;          // what Shoal may use on the device, all told
  int threads = 0;                    // 0: as many as the device has processors
  std::string kernels;                // empty: the fastest table the processor can run
  bool trusted = true;                // with the layers that plan.keep-on-trusted names; the head always is
  std::optional<bool>
      says_trusted;          // what the file says; without a word: trusted, unless others are named so
  bool pin = false;          // binds each kernel thread to a processor of its own
  bool own_file = true;      // whether the model file is looked for on this node
  bool needs_file = false;   // and must be there; otherwise the node fetches its share from the others
  uint64_t cache_bytes = 0;  // of weights kept on its disk; 0: half of what is free there
  bool cache = true;
  double idle_watts = 0, busy_watts = 0;  // drawn while waiting and while computing; 0: not known
};

struct LinkConfig {
  std::string a, b;                        // both directions
  std::optional<double> bytes_per_second;  // measured at start-up where absent
  std::optional<double> latency_s;
};

struct LayersOfNode {
  int first = 0, last = 0;  // both included, as a person writes them
};

struct PlanConfig {
  std::string objective = "latency";           // latency | throughput | energy
  std::string keep_on_head = "first-layer";    // none | first-layer | ends | first:K | first:K,last:L
  std::string keep_on_trusted;                 // the same, of the nodes that are trusted; empty: none
  std::map<std::string, LayersOfNode> layers;  // a split by hand; empty: the planner's choice
  double ttft_ms = 0, ms_per_token = 0, power_cap = 0;  // targets (power in watts); 0: none
};

// The head's HTTP door (shoal serve).
struct ServeConfig {
  std::string listen;           // empty: 127.0.0.1:8080
  std::string api_key_file;     // relative to the cluster file's folder
  std::string admin_key_file;   // the same: keys that may drain nodes
  std::string allow_origin;     // empty: no web page from elsewhere
  int requests_per_minute = 0;  // of one key; 0: no limit
};

// A low-rank adapter that requests may choose by name.
struct AdapterConfig {
  std::string name, path;
  std::string missing;  // as for the model
};

struct ClusterConfig {
  std::string path;  // of the file; empty for a cluster of one made from flags
  std::string cluster = "local";
  std::string model;
  std::string model_missing;  // why a pulled model's name led to no file here; other nodes may have it
  std::vector<AdapterConfig> adapters;
  std::string model_key;  // public key that the model must be signed with; empty: none is asked for
  int context = 4096;
  int sequences = 8;
  KvType kv_cache = KvType::kF16;
  int64_t kv_cells = 0;  // positions that the caches hold for all sequences together; 0: sequences x context
  std::string head;
  std::vector<NodeConfig> nodes;  // in file order: rank i is nodes[i] unless --node names it
  std::vector<LinkConfig> links;
  PlanConfig plan;
  double stall_timeout_s = 0;  // no answer to any step for so long: the run ends. 0: chosen from the plan
  ServeConfig serve;
  double certificate_days = kCertificateDays;  // that a node's certificate holds; renewed at two thirds of it
  double verify = 0;      // of all rows computed, the share that the head computes again (--verify); 0: none
  bool insecure = false;  // links without TLS (--insecure)

  int node_index(const std::string& name) const;  // -1 if absent
  int head_index() const { return node_index(head); }
  std::chrono::seconds certificate_life() const;
  // What all nodes must agree on, as text to hash: everything but the path of the file, the head's HTTP door,
  // for how long it signs and what it computes again.
  std::string canonical() const;
};

// "f16" or "q8_0"; throws SetupError that begins with `place`.
KvType parse_kv_cache(const std::string& text, const std::string& place);
const char* kv_cache_name(KvType type);
inline constexpr int64_t kKvCellsMax = int64_t{1} << 32;
inline constexpr size_t kAdaptersMax = 1024;

// Throws SetupError naming the file, line and key. `model_override`: --model.
ClusterConfig load_cluster_config(const std::string& path, const std::string& model_override = {});
ClusterConfig parse_cluster_config(const std::string& yaml, const std::string& path);

// 1 to 63 letters, digits, '-', '_' or '.'.
bool is_node_name(const std::string& name);

// "8GiB", or "none": sets the node's cache of weights. Throws SetupError that begins with `place`.
void parse_cache_size(const std::string& text, const std::string& place, NodeConfig& node);

// "1GiB", above 0: what Shoal may use of a device. Throws SetupError that begins with `place`.
uint64_t parse_memory(const std::string& text, const std::string& place);

// "30s", from 1 s to a day. Throws SetupError that begins with `place`: a flag, or a key's file and line.
double parse_stall_timeout(const std::string& text, const std::string& place);

// "1%": a share above 0, up to 100%. Throws SetupError that begins with `place`.
double parse_share(const std::string& text, const std::string& place);

// Adds an adapter. Throws SetupError that begins with `place` where the name is malformed or taken.
void add_adapter(ClusterConfig& config, const std::string& name, const std::string& path,
                 const std::string& place);

// "~" and paths relative to the cluster file's folder; otherwise a file of that name in the model cache
// (${XDG_CACHE_HOME:-~/.cache}/shoal/), or the model that was pulled under that name. Throws SetupError where
// it is such a name and the model is not here.
std::string resolve_model_path(const std::string& model, const std::string& config_path);
// The same, but where the model is not here the name itself, and why in *missing.
std::string find_model_path(const std::string& model, const std::string& config_path, std::string* missing);

}  // namespace shoal
