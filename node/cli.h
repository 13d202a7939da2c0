#pragma once

namespace shoal {

// Reads the command line, runs the subcommand, returns the exit code. Catches everything that set-up throws.
int run_cli(int argc, char** argv);

}  // namespace shoal
