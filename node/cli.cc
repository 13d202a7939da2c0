#include "node/cli.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <CLI/CLI.hpp>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/logging.h"
#include "base/version.h"
#include "node/cli_errors.h"
#include "node/cli_flags.h"
#include "node/commands.h"

namespace shoal {
namespace {

struct Flags {
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
  bool drain_undo = false;
  QuantizeFlags quantize;
  SignFlags sign;
  bool probe_json = false;
  InspectFlags inspect;
  PullFlags pull;
  ListFlags list;
  std::string removed;
};

// The subcommands and what each does.
class Commands {
 public:
  Commands(CLI::App& app, Flags& flags) : app_(app), flags_(flags) {
    add_answering();
    add_clusters();
    add_models();
  }

  // The one that was named on the command line, after it was parsed.
  int run() const {
    for (const auto& [command, work] : commands_) {
      if (*command) return work();
    }
    return kExitUsage;  // not reached: one is required
  }

 private:
  CLI::App& add(const char* name, const char* help, std::function<int()> work) {
    commands_.emplace_back(app_.add_subcommand(name, help), std::move(work));
    return *commands_.back().first;
  }

  void add_answering() {
    Flags& f = flags_;
    CLI::App& run =
        add("run", "generate once, stream to stdout", [&] { return run_command(f.common, f.run); });
    CLI::App& chat = add("chat", "talk", [&] { return chat_command(f.common, f.run); });
    for (CLI::App* app : {&run, &chat}) {
      add_cluster_flags(*app, f.common);
      add_run_flags(*app, f.run);
      add_lora_flag(*app, f.common);
    }
    add_trace_flag(run, f.common);
    run.add_option("-p,--prompt", f.run.prompt, "what to ask")->required();
    run.add_flag("--raw", f.run.raw, "send the prompt as it is, without the model's chat template");
    CLI::App& serve = add("serve", "OpenAI-compatible HTTP server, with a live page",
                          [&] { return serve_command(f.common, f.serve); });
    add_cluster_flags(serve, f.common);
    add_trace_flag(serve, f.common);
    add_serve_flags(serve, f.common, f.serve);
    CLI::App& top =
        add("top", "what a running server does, in the terminal", [&] { return top_command(f.top); });
    add_server_flags(top, f.top);
    top.add_flag("--once", f.top.once, "print once and end");
    CLI::App& bench = add("bench", "prompt and generation speed, as a table",
                          [&] { return bench_command(f.common, f.bench); });
    add_cluster_flags(bench, f.common);
    add_trace_flag(bench, f.common);
    add_bench_flags(bench, f.bench);
  }

  void add_clusters() {
    Flags& f = flags_;
    CLI::App& plan =
        add("plan", "what would run where, and why", [&] { return plan_command(f.common, f.plan); });
    add_cluster_flags(plan, f.common);
    add_plan_flags(plan, f.plan);
    plan.add_option("--concurrency", f.common.sequences, "the same as --sequences")
        ->check(CLI::Range(1, 4096));
    CLI::App& probe =
        add("probe", "measure this device", [&] { return probe_command(f.common, f.probe_json); });
    add_cluster_flags(probe, f.common);
    probe.add_flag("--json", f.probe_json, "for machines");
    CLI::App& node = add("node", "join a running head as one of its devices",
                         [&] { return node_command(f.common, f.node); });
    add_node_flags(node, f.common, f.node);
    CLI::App& invite = add("invite", "on the head: a token with which one device may join, once",
                           [&] { return invite_command(f.common, f.invited); });
    add_invite_flags(invite, f.common, f.invited);
    CLI::App& revoke = add("revoke", "on the head: shut a device out of the cluster, at once",
                           [&] { return revoke_command(f.common, f.revoked); });
    add_revoke_flags(revoke, f.common, f.revoked);
    CLI::App& drain = add("drain", "take a node's layers off it, so that it can be unplugged",
                          [&] { return drain_command(f.top, f.drained, f.drain_undo, f.drain_timeout_s); });
    drain.add_option("node", f.drained, "its name")->required();
    drain.add_flag("--undo", f.drain_undo, "it may take layers again");
    add_server_flags(drain, f.top);
    drain.add_option("--timeout", f.drain_timeout_s, "seconds to wait for it")
        ->capture_default_str()
        ->check(number() & CLI::Range(0.0, 1e6));
  }

  void add_models() {
    Flags& f = flags_;
    CLI::App& inspect = add("inspect", "what is in a model file", [&] { return inspect_command(f.inspect); });
    add_inspect_flags(inspect, f.inspect);
    CLI::App& quantize =
        add("quantize", "write a model file in another format", [&] { return quantize_command(f.quantize); });
    add_quantize_flags(quantize, f.quantize);
    CLI::App& sign = add("sign", "sign a model file, so that others can tell who made it",
                         [&] { return sign_command(f.sign); });
    add_sign_flags(sign, f.sign);
    CLI::App& pull = add("pull", "get a model from a hub", [&] { return pull_command(f.pull); });
    add_pull_flags(pull, f.pull);
    CLI::App& list = add("list", "the models that were pulled", [&] { return list_command(f.list); });
    list.add_flag("--json", f.list.json, "for machines");
    list.add_flag("--verify", f.list.verify, "read all files, and tell those that are damaged");
    list.add_flag("--known", f.list.known, "the short names that shoal pull knows instead");
    CLI::App& rm = add("rm", "remove a model that was pulled", [&] { return rm_command(f.removed); });
    rm.add_option("name", f.removed, "as shoal list shows it")->required();
  }

  CLI::App& app_;
  Flags& flags_;
  std::vector<std::pair<CLI::App*, std::function<int()>>> commands_;
};

// Every rank reads the flags; one speaks.
void refuse_usage(const std::string& text) {
  const std::unique_ptr<Bootstrap> bootstrap = make_bootstrap();
  (void)agree(*bootstrap, {"", text, kExitUsage});
}

int run_parsed(int argc, char** argv) {
  CLI::App app{"Shoal runs one language model on several small devices.", "shoal"};
  app.set_version_flag("--version", std::string("shoal ") + kVersion);
  app.require_subcommand(1);
  app.fallthrough();
  std::string log_level = "info";
  app.add_option("--log-level", log_level, "trace, debug, info, warning, error, off")->capture_default_str();
  Flags flags;
  const Commands commands(app, flags);
  if (const std::string text = no_value_text(app, argc, argv); !text.empty()) refuse_usage(text);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error, std::cout, std::cerr);  // --help, --version
    refuse_usage(usage_text(app, error, argc, argv));
  }
  init_logging("shoal", log_level);
  return commands.run();
}

// A line for each node that has something to say.
void say_error(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    std::fputs(fmt::format("shoal: error: {}\n", line).c_str(), stderr);
}

// Memory holds keys and what was asked: no copy of it is left behind where the program crashes. Whoever looks
// for the fault raises the limit of the running process again (prlimit --core).
void leave_no_core() {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_CORE, &limit) != 0) return;
  limit.rlim_cur = 0;
  (void)::setrlimit(RLIMIT_CORE, &limit);
}

}  // namespace

int run_cli(int argc, char** argv) {
  leave_no_core();
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error of the write, as a full disk is
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
