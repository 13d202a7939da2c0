// The flags of the subcommands, by what they set: each adds its flags to a subcommand, which keeps references
// to `flags` until the command line has been parsed.
#pragma once

#include <CLI/CLI.hpp>

#include "node/commands.h"

namespace shoal {

void add_cluster_flags(CLI::App& app, CommonFlags& flags);
void add_lora_flag(CLI::App& app, CommonFlags& flags);
void add_trace_flag(CLI::App& app, CommonFlags& flags);
void add_plan_flags(CLI::App& app, PlanFlags& flags);
void add_run_flags(CLI::App& app, RunFlags& flags);
void add_pull_flags(CLI::App& app, PullFlags& flags);
void add_node_flags(CLI::App& app, CommonFlags& common, NodeFlags& flags);
void add_revoke_flags(CLI::App& app, CommonFlags& common, RevokeFlags& flags);
void add_invite_flags(CLI::App& app, CommonFlags& common, InviteFlags& flags);
void add_quantize_flags(CLI::App& app, QuantizeFlags& flags);
void add_sign_flags(CLI::App& app, SignFlags& flags);
void add_serve_flags(CLI::App& app, CommonFlags& common, ServeFlags& flags);
void add_bench_flags(CLI::App& app, BenchFlags& flags);
void add_inspect_flags(CLI::App& app, InspectFlags& flags);
// Where a running server is asked.
void add_server_flags(CLI::App& app, TopFlags& flags);

}  // namespace shoal
