#include "node/cli_flags.h"

#include <fmt/format.h>

#include <cstdint>
#include <string>

#include "node/cli_errors.h"
#include "planner/simulate.h"

namespace shoal {
namespace {

// "" is more often a variable that was not set than what is meant by leaving the option out.
CLI::Validator not_empty() {
  return CLI::Validator([](const std::string& text) { return text.empty() ? "an empty text" : ""; }, "");
}

// `what` it means for the command.
void add_insecure_flags(CLI::App& app, CommonFlags& flags, const char* what) {
  CLI::Option* insecure = app.add_flag("--insecure", flags.insecure, what);
  app.add_flag("--trust-network", flags.trust_network,
               "everybody who reaches the nodes' ports may read and send activations")
      ->needs(insecure);
}

}  // namespace

void add_cluster_flags(CLI::App& app, CommonFlags& flags) {
  app.add_option("model,-m,--model", flags.model, "GGUF model file (overrides the cluster file's)");
  app.add_option("-c,--config", flags.config, "cluster file (YAML)");
  app.add_option("--node", flags.node, "which node of the cluster file this process is (default: by rank)");
  app.add_option("--kernels", flags.kernels,
                 "kernel table: generic, avx2, ... (default: the fastest), or blas");
  app.add_option("-t,--threads", flags.threads, "threads that compute (default: the cluster file's, or all)")
      ->check(whole_number(1, 1024, "-t"));
  app.add_option("--context", flags.context, "tokens per sequence, answer included")
      ->check(whole_number(16, 1 << 20));
  app.add_option("--sequences", flags.sequences, "concurrent sequences")->check(whole_number(1, 4096));
  app.add_option("--stall-timeout", flags.stall_timeout,
                 "give up when no step is answered for so long, e.g. 30s (default: chosen from the plan)");
  app.add_option("--verify", flags.verify,
                 "share of the rows computed that the head computes again and compares bit for bit, e.g. 1%");
  app.add_option("--kv-cache", flags.kv_cache,
                 "what K and V are kept as: f16, or q8_0 in nearly half the memory");
  app.add_option("--kv-cells", flags.kv_cells,
                 "positions that the caches hold for all sequences together (default: sequences x context)")
      ->check(whole_number(16, kKvCellsMax));
  app.add_option("--adapter", flags.adapters,
                 "NAME=FILE.gguf: a LoRA adapter that requests may choose; several");
  app.add_option(
      "--cache-size", flags.cache_size,
      "disk for weights that a node without the model file fetches, e.g. 8GiB, or none (default: half of "
      "what is free)");
  app.add_option("--objective", flags.objective, "latency | throughput | energy (plan: what to make best)");
  app.add_option("--keep-on-head", flags.keep_on_head, "none | first-layer | ends | first:K,last:L");
  app.add_option("--model-key", flags.model_key,
                 "public key (PEM) that the model must be signed with (shoal sign)");
  add_insecure_flags(app, flags, "no TLS between nodes (off loopback only with --trust-network)");
  app.add_flag("-q,--quiet", flags.quiet, "only the answer: no plan, no table");
}

void add_lora_flag(CLI::App& app, CommonFlags& flags) {
  app.add_option("--lora", flags.lora, "NAME or NAME:SCALE of an adapter that the text passes through");
}

void add_trace_flag(CLI::App& app, CommonFlags& flags) {
  app.add_option("--trace", flags.trace,
                 "record each step's way through the pipeline (for chrome://tracing or ui.perfetto.dev)");
}

void add_plan_flags(CLI::App& app, PlanFlags& flags) {
  app.add_flag("--explain", flags.explain,
               "in words, with each device's share and reason, and what would change it");
  app.add_flag("--json", flags.json, "for machines: the plan, its profile and every answer");
  CLI::Option* profile =
      app.add_option("--profile", flags.profiles,
                     "plan from a profile (JSON) without devices; several: models offered, the best first");
  app.add_option("--or", flags.others,
                 "another model to fall back on when the first misses the targets; several")
      ->excludes(profile);
  app.add_option("--prompt-tokens", flags.prompt_tokens, "length of a prompt")->check(CLI::Range(1, 1 << 20));
  app.add_option("--output-tokens", flags.output_tokens, "length of an answer")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--ttft-ms", flags.ttft_ms, "target: time to first token")
      ->check(number() & CLI::Range(1e-3, 1e9));
  app.add_option("--ms-per-token", flags.ms_per_token, "target: time per token with all sequences active")
      ->check(number() & CLI::Range(1e-3, 1e9));
  app.add_option("--power-cap", flags.power_cap, "target: watts that the nodes used may draw together")
      ->check(number() & CLI::Range(1e-3, 1e9));
  app.add_flag("--what-if", flags.what_if,
               "what one node more or less, a faster link or another context changes");
  app.add_option("--without", flags.without,
                 "what if this node were gone? (several times: each, and all together)");
  app.add_option("--add", flags.add, "what if there were more? type=pi5,count=2, or a node's name");
  app.add_option("--link", flags.link, "what if this link were another? laptop,pi-1=5Mbps");
  app.add_flag("--pareto", flags.pareto, "the trade-offs between latency, throughput and energy");
  app.add_option("--csv", flags.csv, "with --pareto: also write the table to this file");
  app.add_option("--svg", flags.svg, "with --pareto: also draw it into this file");
  app.add_flag("--simulate", flags.simulate, "run the plan on a simulated pipeline under a workload");
  app.add_option("--rate", flags.rate, "requests a second (Poisson arrivals); 0: all at once")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--requests", flags.requests, "requests to simulate")
      ->check(CLI::Range(1, kSimulatedRequestsMax))
      ->capture_default_str();
  app.add_option("--seed", flags.seed, "of the simulated arrivals")->capture_default_str();
  app.add_option("--trace", flags.trace,
                 "simulate these arrivals: lines of seconds, prompt and output tokens");
  app.add_option("--replan-from", flags.replan_from,
                 "a plan (--json) that runs now: is it worth moving layers?");
  app.add_option("--min-gain", flags.gain_min, "per cent that a move must gain")
      ->check(CLI::Range(0.0, 1000.0))
      ->capture_default_str();
  app.add_option("--horizon", flags.horizon_s, "seconds in which a move must pay")
      ->check(CLI::Range(1.0, 1e7))
      ->capture_default_str();
}

void add_run_flags(CLI::App& app, RunFlags& flags) {
  SamplerOptions& s = flags.sampling;
  app.add_option("--system", flags.system, "system message");
  app.add_option("-n,--max-tokens", flags.max_tokens, "longest answer, in tokens")
      ->check(whole_number(1, 1 << 20, "-n"));
  app.add_option("--temp", s.temperature, "temperature; 0 always takes the likeliest token")
      ->capture_default_str()
      ->check(number());
  app.add_option("--top-k", s.top_k, "only the k likeliest tokens; 0 is off")
      ->capture_default_str()
      ->check(whole_number(0, INT32_MAX));
  app.add_option("--top-p", s.top_p, "only the likeliest tokens that add up to p; 1 is off")
      ->capture_default_str()
      ->check(number());
  app.add_option("--min-p", s.min_p, "only tokens at least p times as likely as the best; 0 is off")
      ->capture_default_str()
      ->check(number());
  app.add_option("--repeat-penalty", s.repeat_penalty, "1 is off")->capture_default_str()->check(number());
  app.add_option("--frequency-penalty", s.frequency_penalty, "0 is off")
      ->capture_default_str()
      ->check(number());
  app.add_option("--presence-penalty", s.presence_penalty, "0 is off")
      ->capture_default_str()
      ->check(number());
  app.add_option("--repeat-last-n", s.repeat_last_n, "tokens that the penalties look back on")
      ->capture_default_str()
      ->check(whole_number(0, kRepeatLastMax));
  app.add_option("--seed", s.seed, "the same seed gives the same answer")
      ->capture_default_str()
      ->check(whole_number(0, UINT64_MAX));
  app.add_flag("--ignore-eos", flags.ignore_eos, "go on after the model ends its answer");
}

void add_pull_flags(CLI::App& app, PullFlags& flags) {
  app.add_option("name", flags.name, "USER/REPO:QUANT, USER/REPO/FILE.gguf, or a name of shoal list --known")
      ->required();
  app.add_option("--mirror", flags.mirror,
                 "another hub (default: SHOAL_MIRROR or HF_ENDPOINT of the environment, or huggingface.co)");
  app.add_option("--tries", flags.tries, "give up after so many in a row that bring nothing new")
      ->check(whole_number(1, 1000))
      ->capture_default_str();
  app.add_flag("--allow-http", flags.allow_http, "from a mirror elsewhere without encryption, too");
}

void add_node_flags(CLI::App& app, CommonFlags& common, NodeFlags& flags) {
  app.add_option("model,-m,--model", common.model, "GGUF model file, the head's (default: fetched from it)");
  app.add_option("--join", flags.join, "HEAD:PORT, the head's address in the cluster file")->required();
  CLI::Option* token = app.add_option("--token", flags.token,
                                      "from shoal invite on the head: for the first time on this machine");
  app.add_option("--token-file", flags.token_file,
                 "file with the token, or - for standard input: --token shows in the list of processes")
      ->excludes(token)
      ->check(not_empty());
  app.add_option("--name", flags.name, "of this node, the same every time (default: the host's name)")
      ->check(not_empty());
  app.add_option("--memory", flags.memory,
                 "what Shoal may use here, e.g. 1GiB (default: the head's cluster file says)");
  app.add_option("--address", flags.address,
                 "address of this machine to listen on (default: all; with --insecure alone 127.0.0.1)");
  app.add_option("--port", flags.port, "port to listen on (default: any)")->check(whole_number(0, 65535));
  app.add_option("-t,--threads", common.threads, "threads that compute (default: all)")
      ->check(whole_number(1, 1024, "-t"));
  app.add_option("--kernels", common.kernels,
                 "kernel table: generic, avx2, ... (default: the fastest), or blas");
  app.add_option("--cache-size", common.cache_size,
                 "disk for weights that are fetched, e.g. 8GiB, or none (default: half of what is free)");
  add_insecure_flags(
      app, common, "without TLS, as the head (off loopback, and to listen there, only with --trust-network)");
}

void add_revoke_flags(CLI::App& app, CommonFlags& common, RevokeFlags& flags) {
  app.add_option("-c,--config", common.config, "cluster file (YAML)")->required();
  app.add_option("node", flags.node, "whose certificates are not believed any more")->required();
  app.add_flag("--undo", flags.undo, "let it in again");
  app.add_flag("--force", flags.force, "though no node of that name is known here");
}

void add_invite_flags(CLI::App& app, CommonFlags& common, InviteFlags& flags) {
  app.add_option("-c,--config", common.config, "cluster file (YAML) of the head")->required();
  app.add_option("--name", flags.node, "of the device, where it had a certificate before (default: any new)")
      ->check(not_empty());
  app.add_option("--port", flags.port, "port to wait on (default: any)")->check(whole_number(0, 65535));
  app.add_option("--wait", flags.wait_s, "seconds that the token is good for")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
}

void add_quantize_flags(CLI::App& app, QuantizeFlags& flags) {
  app.add_option("in", flags.in, "GGUF model file: F32, F16 or BF16, whole or split")->required();
  app.add_option("out", flags.out, "file to write")->required();
  app.add_option("type", flags.type, "what the matrices become, e.g. Q4_K_M")->required();
  app.add_option("--imatrix", flags.imatrix, "importance matrix of llama.cpp (GGUF): where errors matter");
  app.add_option("--report", flags.report,
                 "text file: perplexity of source and result on it, and how far their predictions differ");
  app.add_flag("--pure", flags.pure, "the output head too in this type");
  app.add_flag("--allow-requantize", flags.allow_requantize, "the source may be quantised itself");
  app.add_option("-t,--threads", flags.threads, "threads that compute (default: all)")
      ->check(whole_number(1, 1024, "-t"));
}

void add_sign_flags(CLI::App& app, SignFlags& flags) {
  app.add_option("model", flags.model, "GGUF model file; the signature is written beside it, MODEL.sig");
  CLI::Option* key = app.add_option("--key", flags.key, "the private key (PEM, Ed25519)");
  CLI::Option* made =
      app.add_option("--new-key", flags.new_key, "make a key: this file, and FILE.pub for others");
  app.add_option("--verify", flags.verify, "sign nothing: check the signature with this public key")
      ->excludes(key)
      ->excludes(made);
}

void add_serve_flags(CLI::App& app, CommonFlags& common, ServeFlags& flags) {
  app.add_option("--listen", flags.listen, "ADDRESS:PORT (default 127.0.0.1:8080)")
      ->check([](const std::string& text) { return text.empty() ? "an empty address" : ""; }, "");
  app.add_option("--api-key-file", flags.api_key_file, "file with one API key a line");
  app.add_option("--admin-key-file", flags.admin_key_file,
                 "file with the keys that may drain nodes (default: only from this machine)");
  app.add_option("--allow-origin", flags.allow_origin,
                 "web pages that may use the server through a browser, e.g. http://localhost:3000");
  app.add_option("--requests-per-minute", flags.requests_per_minute,
                 "of one key, or of all without keys (default: any)")
      ->check(whole_number(1, 1 << 20));
  app.add_flag("--without-api-key", flags.without_keys,
               "listen off loopback though anybody there may then use the server");
  app.add_option("--grace", flags.grace_s, "seconds that answers under way may take after SIGTERM")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app.add_flag("--await-nodes", common.await_nodes,
               "start as the head alone: nodes join by address (shoal node --join)");
}

void add_bench_flags(CLI::App& app, BenchFlags& flags) {
  app.add_option("-p,--n-prompt", flags.prompt, "prompt lengths; 0: none")
      ->delimiter(',')
      ->check(whole_number(0, 1 << 20, "-p"));
  app.add_option("-n,--n-gen", flags.generate, "tokens to generate; 0: none")
      ->delimiter(',')
      ->check(whole_number(0, 1 << 20, "-n"));
  app.add_option("-d,--n-depth", flags.depth, "tokens of context to generate after")
      ->check(whole_number(0, 1 << 20, "-d"));
  app.add_option("--concurrency", flags.concurrency, "sequences at once")
      ->delimiter(',')
      ->check(whole_number(1, 4096));
  app.add_option("-r,--repetitions", flags.repetitions, "runs of each test")
      ->check(whole_number(1, 1000, "-r"));
  app.add_option("-o,--output", flags.output, "md, json or csv")->check(CLI::IsMember({"md", "json", "csv"}));
}

void add_inspect_flags(CLI::App& app, InspectFlags& flags) {
  app.add_option("model", flags.model, "GGUF model file")->required();
  CLI::Option* show_prompt =
      app.add_flag("--template", flags.prompt, "show a prompt as the model's chat template writes it");
  app.add_option("--conversation", flags.conversation,
                 "JSON file with messages, and tools if wanted, as for /v1/chat/completions")
      ->needs(show_prompt);
}

void add_server_flags(CLI::App& app, TopFlags& flags) {
  app.add_option("--url", flags.url, "where the head serves")->capture_default_str();
  app.add_option("--api-key-file", flags.api_key_file, "the first key of this file is used");
}

}  // namespace shoal
