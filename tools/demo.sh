#!/usr/bin/env bash
# From a fresh Debian 12 to an answer computed by three nodes on this machine.
#
#   tools/demo.sh [MODEL.gguf] [PROMPT]
#
# Installs the packages that are missing (tools/setup.sh), builds Release into build/release, gets a small chat model
# unless one is named (tools/fetch_model.sh), then starts three nodes with mpirun on configs/three-nodes.yaml: they
# measure themselves, print the plan, stream the answer and end with a table. The second run starts within seconds.
# SHOAL_DEMO_CONFIG names another cluster file, whose number of nodes SHOAL_DEMO_NODES gives.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  -h | --help) print_help; exit 0 ;;
  -*) die 2 "unknown argument '$1'; see --help" ;;
esac
(($# <= 2)) || die 2 "at most a model and a prompt; quote the prompt. See --help"

model=${1:-}
prompt=${2:-"In two sentences, why do small fish swim in a shoal?"}
config=${SHOAL_DEMO_CONFIG:-$ROOT/configs/three-nodes.yaml}
nodes=${SHOAL_DEMO_NODES:-3}
if [[ -n $model ]]; then
  [[ -f $model ]] || die 2 "no such model file: $model"
  model=$(realpath -- "$model")
fi

"$ROOT/tools/setup.sh"
configure release
build release shoal
[[ -n $model ]] || model=$("$ROOT/tools/fetch_model.sh")

# mpirun takes this shell's place, so that Ctrl-C and a kill reach it; it ends its ranks before it ends.
export_mpi_settings
exec mpirun -n "$nodes" --oversubscribe --bind-to none "$ROOT/build/release/shoal" run \
  -c "$config" --model "$model" -p "$prompt" </dev/null
