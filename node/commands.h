// What each subcommand does, once its flags are read. Each returns the exit code or throws SetupError /
// SilentExit.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/sampler.h"
#include "node/bootstrap.h"
#include "node/cluster.h"

namespace shoal {

// Flags that several subcommands share. A model or a cluster file is given, or both: the flag's model wins.
struct CommonFlags {
  std::string model;   // positional or --model
  std::string config;  // -c
  std::string node;
  std::string kernels;
  std::string objective, keep_on_head;  // override the cluster file's
  std::string stall_timeout;            // overrides the cluster file's
  std::string cache_size;               // overrides the cluster file's
  std::string verify;                   // "1%"; the same
  int context = 0;                      // 0: the cluster file's, or 4096 (less where the model's is less)
  int threads = 0;
  int sequences = 0;
  std::vector<std::string> adapters;  // NAME=PATH, beside the cluster file's
  std::string lora;                   // NAME or NAME:SCALE of the one that a run's text passes through
  std::string kv_cache;               // empty: the cluster file's, or f16
  int64_t kv_cells = 0;               // 0: the cluster file's
  bool quiet = false;                 // no plan, no table
  bool insecure = false, trust_network = false;  // no TLS between nodes; off loopback too
  std::string model_key;     // the model must be signed with this key; overrides the file's
  std::string trace;         // a file to record the steps in; empty: none
  bool await_nodes = false;  // the head alone: nodes join by address
};

struct RunFlags {
  std::string prompt;
  std::string system;
  int max_tokens = 256;
  bool raw = false;  // the prompt is sent as it is, without the chat template
  bool ignore_eos = false;
  SamplerOptions sampling;
};

// A node that joins a head by address.
struct NodeFlags {
  std::string join;        // HEAD:PORT
  std::string token;       // of shoal invite; empty: this machine has a certificate
  std::string token_file;  // where it stands; "-": standard input
  std::string name;        // empty: the host's
  std::string memory;      // "1GiB"; empty: the head's cluster file says, else most of what the device has
  std::string address;     // where it listens; empty: on all, and peers call where the head heard it from
  int port = 0;            // 0: any
};

struct InviteFlags {
  std::string node;  // the name that the device must have; empty: any new one
  int port = 0;      // 0: any
  double wait_s = 600;
};

struct RevokeFlags {
  std::string node;
  bool undo = false;
  bool force = false;  // a name that no node has, as far as is known here
};

struct PlanFlags {
  bool explain = false;
  bool json = false;
  std::vector<std::string> profiles;         // --profile: planning profiles instead of a cluster
  std::vector<std::string> others;           // --or: further models, of lower quality than the first
  int prompt_tokens = 0, output_tokens = 0;  // of the workload; 0: as it is
  double ttft_ms = 0, ms_per_token = 0, power_cap = 0;  // targets; 0: the cluster file's, or none
  bool what_if = false;                                 // the usual questions
  std::vector<std::string> without, add, link;          // asked one by one, and together
  bool pareto = false;
  std::string csv, svg;  // files for the trade-offs
  bool simulate = false;
  double rate = 1;  // requests a second; 0: all at once
  int requests = 200;
  uint64_t seed = 1;
  std::string trace;        // a file of arrivals instead
  std::string replan_from;  // a plan (JSON) that runs now
  double gain_min = 15;     // per cent
  double horizon_s = 600;
};

struct BenchFlags {
  std::vector<int> prompt = {512};
  std::vector<int> generate = {128};
  int depth = 0;  // tokens of context that generation starts after
  std::vector<int> concurrency = {1};
  int repetitions = 5;
  std::string output = "md";  // md | json | csv
};

struct ServeFlags {
  std::string listen;           // overrides the cluster file's; empty: 127.0.0.1:8080
  std::string api_key_file;     // overrides the cluster file's
  std::string admin_key_file;   // overrides the cluster file's
  std::string allow_origin;     // overrides the cluster file's
  int requests_per_minute = 0;  // of one key; 0: the cluster file's, or no limit
  bool without_keys = false;    // off loopback, though nobody needs a key
  double grace_s = 10;          // for answers under way after a signal to end
};

struct QuantizeFlags {
  std::string in, out, type;
  std::string imatrix;  // importance matrix, GGUF; empty: none
  std::string report;   // text to compare source and result on; empty: no report
  bool pure = false, allow_requantize = false;
  int threads = 0;  // 0: all
};

struct SignFlags {
  std::string model;
  std::string key;      // the private key, PEM
  std::string new_key;  // where one is to be made
  std::string verify;   // a public key: nothing is signed, the signature that is there is checked
};

struct TopFlags {
  std::string url = "http://127.0.0.1:8080";
  std::string api_key_file;
  bool once = false;
};

struct InspectFlags {
  std::string model;
  bool prompt = false;       // shows a rendered prompt instead
  std::string conversation;  // file with a request body of /v1/chat/completions; empty: a sample
};

struct PullFlags {
  std::string name;
  std::string mirror;  // empty: SHOAL_MIRROR, HF_ENDPOINT or the default hub
  bool allow_http = false;
  int tries = 6;
};

struct ListFlags {
  bool json = false;
  bool known = false;  // the short names that may be pulled instead
  bool verify = false;
};

int run_command(const CommonFlags& common, const RunFlags& flags);
int chat_command(const CommonFlags& common, const RunFlags& flags);
int plan_command(const CommonFlags& common, const PlanFlags& flags);
int probe_command(const CommonFlags& common, bool json);
int bench_command(const CommonFlags& common, const BenchFlags& flags);
int serve_command(const CommonFlags& common, const ServeFlags& flags);
int top_command(const TopFlags& flags);
int drain_command(const TopFlags& server, const std::string& node, bool undo, double timeout_s);
int invite_command(const CommonFlags& common, const InviteFlags& flags);
int revoke_command(const CommonFlags& common, const RevokeFlags& flags);
int node_command(const CommonFlags& common, const NodeFlags& flags);
int inspect_command(const InspectFlags& flags);
int quantize_command(const QuantizeFlags& flags);
int sign_command(const SignFlags& flags);
int pull_command(const PullFlags& flags);
int list_command(const ListFlags& flags);
int rm_command(const std::string& name);

}  // namespace shoal
