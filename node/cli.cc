#include "node/cli.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "base/logging.h"
#include "base/version.h"
#include "node/cli_errors.h"
#include "node/commands.h"
#include "planner/simulate.h"

namespace shoal {
namespace {

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
  CLI::Option* insecure = app.add_flag("--insecure", flags.insecure,
                                       "no TLS between nodes (off loopback only with --trust-network)");
  app.add_flag("--trust-network", flags.trust_network,
               "everybody who reaches the nodes' ports may read and send activations")
      ->needs(insecure);
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
  app.add_option("--token", flags.token, "from shoal invite on the head: for the first time on this machine");
  app.add_option("--name", flags.name, "of this node, the same every time (default: the host's name)");
  app.add_option("--memory", flags.memory,
                 "what Shoal may use here, e.g. 1GiB (default: the head's cluster file says)");
  app.add_option("--address", flags.address, "address of this machine to listen on (default: all)");
  app.add_option("--port", flags.port, "port to listen on (default: any)")->check(whole_number(0, 65535));
  app.add_option("-t,--threads", common.threads, "threads that compute (default: all)")
      ->check(whole_number(1, 1024, "-t"));
  app.add_option("--kernels", common.kernels,
                 "kernel table: generic, avx2, ... (default: the fastest), or blas");
  app.add_option("--cache-size", common.cache_size,
                 "disk for weights that are fetched, e.g. 8GiB, or none (default: half of what is free)");
  app.add_flag("--insecure", common.insecure, "without TLS, as the head");
}

void add_revoke_flags(CLI::App& app, CommonFlags& common, RevokeFlags& flags) {
  app.add_option("-c,--config", common.config, "cluster file (YAML)")->required();
  app.add_option("node", flags.node, "whose certificates are not believed any more")->required();
  app.add_flag("--undo", flags.undo, "let it in again");
}

void add_invite_flags(CLI::App& app, CommonFlags& common, InviteFlags& flags) {
  app.add_option("-c,--config", common.config, "cluster file (YAML) of the head")->required();
  app.add_option("--name", flags.node, "of the device, where it had a certificate before (default: any new)");
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

int run_parsed(int argc, char** argv) {
  CLI::App app{"Shoal runs one language model on several small devices.", "shoal"};
  app.set_version_flag("--version", std::string("shoal ") + kVersion);
  app.require_subcommand(1);
  app.fallthrough();
  std::string log_level = "info";
  app.add_option("--log-level", log_level, "trace, debug, info, warning, error, off")->capture_default_str();

  CommonFlags common;
  RunFlags run;
  PlanFlags plan;
  BenchFlags bench;
  ServeFlags serve;
  TopFlags top;
  NodeFlags node;
  InviteFlags invited;
  RevokeFlags revoked;
  std::string drained;
  double drain_timeout_s = 300;
  QuantizeFlags quantize;
  SignFlags sign;
  bool probe_json = false;
  InspectFlags inspect;
  PullFlags pull;
  ListFlags list;
  std::string removed;

  CLI::App* run_app = app.add_subcommand("run", "generate once, stream to stdout");
  add_cluster_flags(*run_app, common);
  add_run_flags(*run_app, run);
  add_lora_flag(*run_app, common);
  add_trace_flag(*run_app, common);
  run_app->add_option("-p,--prompt", run.prompt, "what to ask")->required();
  run_app->add_flag("--raw", run.raw, "send the prompt as it is, without the model's chat template");
  CLI::App* chat_app = app.add_subcommand("chat", "talk");
  add_cluster_flags(*chat_app, common);
  add_run_flags(*chat_app, run);
  add_lora_flag(*chat_app, common);
  CLI::App* serve_app = app.add_subcommand("serve", "OpenAI-compatible HTTP server, with a live page");
  add_cluster_flags(*serve_app, common);
  add_trace_flag(*serve_app, common);
  serve_app->add_option("--listen", serve.listen, "ADDRESS:PORT (default 127.0.0.1:8080)");
  serve_app->add_option("--api-key-file", serve.api_key_file, "file with one API key a line");
  serve_app->add_option("--admin-key-file", serve.admin_key_file,
                        "file with the keys that may drain nodes (default: only from this machine)");
  serve_app->add_option("--allow-origin", serve.allow_origin,
                        "web pages that may use the server through a browser, e.g. http://localhost:3000");
  serve_app
      ->add_option("--requests-per-minute", serve.requests_per_minute,
                   "of one key, or of all without keys (default: any)")
      ->check(whole_number(1, 1 << 20));
  serve_app->add_flag("--without-api-key", serve.without_keys,
                      "listen off loopback though anybody there may then use the server");
  serve_app->add_option("--grace", serve.grace_s, "seconds that answers under way may take after SIGTERM")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  serve_app->add_flag("--await-nodes", common.await_nodes,
                      "start as the head alone: nodes join by address (shoal node --join)");
  CLI::App* invite_app =
      app.add_subcommand("invite", "on the head: a token with which one device may join, once");
  add_invite_flags(*invite_app, common, invited);
  CLI::App* revoke_app =
      app.add_subcommand("revoke", "on the head: shut a device out of the cluster, at once");
  add_revoke_flags(*revoke_app, common, revoked);
  CLI::App* node_app = app.add_subcommand("node", "join a running head as one of its devices");
  add_node_flags(*node_app, common, node);
  CLI::App* drain_app =
      app.add_subcommand("drain", "take a node's layers off it, so that it can be unplugged");
  drain_app->add_option("node", drained, "its name")->required();
  drain_app->add_option("--url", top.url, "where the head serves")->capture_default_str();
  drain_app->add_option("--api-key-file", top.api_key_file, "the first key of this file is used");
  drain_app->add_option("--timeout", drain_timeout_s, "seconds to wait for it")->capture_default_str();
  CLI::App* top_app = app.add_subcommand("top", "what a running server does, in the terminal");
  top_app->add_option("--url", top.url, "where it serves")->capture_default_str();
  top_app->add_option("--api-key-file", top.api_key_file, "the first key of this file is used");
  top_app->add_flag("--once", top.once, "print once and end");
  CLI::App* plan_app = app.add_subcommand("plan", "what would run where, and why");
  add_cluster_flags(*plan_app, common);
  add_plan_flags(*plan_app, plan);
  plan_app->add_option("--concurrency", common.sequences, "the same as --sequences")
      ->check(CLI::Range(1, 4096));
  CLI::App* probe_app = app.add_subcommand("probe", "measure this device");
  add_cluster_flags(*probe_app, common);
  probe_app->add_flag("--json", probe_json, "for machines");
  CLI::App* bench_app = app.add_subcommand("bench", "prompt and generation speed, as a table");
  add_cluster_flags(*bench_app, common);
  add_trace_flag(*bench_app, common);
  bench_app->add_option("-p,--n-prompt", bench.prompt, "prompt lengths; 0: none")
      ->delimiter(',')
      ->check(whole_number(0, 1 << 20, "-p"));
  bench_app->add_option("-n,--n-gen", bench.generate, "tokens to generate; 0: none")
      ->delimiter(',')
      ->check(whole_number(0, 1 << 20, "-n"));
  bench_app->add_option("-d,--n-depth", bench.depth, "tokens of context to generate after")
      ->check(whole_number(0, 1 << 20, "-d"));
  bench_app->add_option("--concurrency", bench.concurrency, "sequences at once")
      ->delimiter(',')
      ->check(whole_number(1, 4096));
  bench_app->add_option("-r,--repetitions", bench.repetitions, "runs of each test")
      ->check(whole_number(1, 1000, "-r"));
  bench_app->add_option("-o,--output", bench.output, "md, json or csv")
      ->check(CLI::IsMember({"md", "json", "csv"}));
  CLI::App* inspect_app = app.add_subcommand("inspect", "what is in a model file");
  inspect_app->add_option("model", inspect.model, "GGUF model file")->required();
  CLI::Option* show_prompt = inspect_app->add_flag("--template", inspect.prompt,
                                                   "show a prompt as the model's chat template writes it");
  inspect_app
      ->add_option("--conversation", inspect.conversation,
                   "JSON file with messages, and tools if wanted, as for /v1/chat/completions")
      ->needs(show_prompt);
  CLI::App* quantize_app = app.add_subcommand("quantize", "write a model file in another format");
  add_quantize_flags(*quantize_app, quantize);
  CLI::App* sign_app = app.add_subcommand("sign", "sign a model file, so that others can tell who made it");
  add_sign_flags(*sign_app, sign);
  CLI::App* pull_app = app.add_subcommand("pull", "get a model from a hub");
  add_pull_flags(*pull_app, pull);
  CLI::App* list_app = app.add_subcommand("list", "the models that were pulled");
  list_app->add_flag("--json", list.json, "for machines");
  list_app->add_flag("--known", list.known, "the short names that shoal pull knows instead");
  CLI::App* rm_app = app.add_subcommand("rm", "remove a model that was pulled");
  rm_app->add_option("name", removed, "as shoal list shows it")->required();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error, std::cout, std::cerr);  // --help, --version
    const std::unique_ptr<Bootstrap> bootstrap = make_bootstrap();  // every rank reads the flags; one speaks
    (void)agree(*bootstrap, {"", usage_text(app, error, argc, argv), kExitUsage});
  }
  init_logging("shoal", log_level);
  if (*run_app) return run_command(common, run);
  if (*chat_app) return chat_command(common, run);
  if (*plan_app) return plan_command(common, plan);
  if (*probe_app) return probe_command(common, probe_json);
  if (*serve_app) return serve_command(common, serve);
  if (*invite_app) return invite_command(common, invited);
  if (*revoke_app) return revoke_command(common, revoked);
  if (*node_app) return node_command(common, node);
  if (*top_app) return top_command(top);
  if (*drain_app) return drain_command(top, drained, drain_timeout_s);
  if (*bench_app) return bench_command(common, bench);
  if (*pull_app) return pull_command(pull);
  if (*list_app) return list_command(list);
  if (*rm_app) return rm_command(removed);
  if (*quantize_app) return quantize_command(quantize);
  if (*sign_app) return sign_command(sign);
  return inspect_command(inspect);
}

// A line for each node that has something to say.
void say_error(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    std::fputs(fmt::format("shoal: error: {}\n", line).c_str(), stderr);
}

}  // namespace

int run_cli(int argc, char** argv) {
  try {
    const int code = run_parsed(argc, argv);
    std::cout.flush();
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0 || !std::cout) {
      throw SetupError("the results could not be written to the standard output (disk full, or closed?)",
                       kExitFailed);
    }
    return code;
  } catch (const SilentExit& exit) {
    // mpirun ends every rank as soon as one has failed, and rank 0 has yet to say why.
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    return exit.exit_code;
  } catch (const SetupError& error) {
    say_error(error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    say_error(error.what());
    return kExitFailed;
  }
}

}  // namespace shoal
