#!/usr/bin/env bash
# From a fresh Debian 12 to an answer computed by three nodes on this machine.
#
#   tools/demo.sh [MODEL.gguf] [PROMPT]
#
# Installs the packages that are missing (tools/setup.sh), builds Release into build/release, gets a small chat model
# unless one is named (tools/fetch_model.sh), then starts three nodes with mpirun on configs/three-nodes.yaml: they
# measure themselves, print the plan, stream the answer and end with a table. The second run starts within seconds. For a
# model that you name the nodes' memory is set after its size, so that again no single node holds it.
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
three_nodes=$ROOT/configs/three-nodes.yaml
config=${SHOAL_DEMO_CONFIG:-$three_nodes}
nodes=${SHOAL_DEMO_NODES:-3}
if [[ -n $model ]]; then
  [[ -f $model ]] || die 2 "no such model file: $model"
  model=$(realpath -- "$model")
fi

"$ROOT/tools/setup.sh"
configure release
build release shoal
[[ -n $model ]] || model=$("$ROOT/tools/fetch_model.sh")

# Three fifths of the model's files and some for the cache: too little for the whole, enough for a third or two.
if [[ -n ${1:-} && $config == "$three_nodes" ]]; then
  parts=("$model")
  if [[ $model =~ ^(.*)-[0-9]{5}-of-([0-9]{5})\.gguf$ ]]; then
    parts=("${BASH_REMATCH[1]}"-?????-of-"${BASH_REMATCH[2]}.gguf")
  fi
  bytes=$(du --bytes --dereference --total -- "${parts[@]}" | tail -n 1 | cut -f 1)
  config=$ROOT/build/release/demo.yaml
  sed -e "s/memory: 160MiB/memory: $((bytes * 3 / 5 / 1048576 + 192))MiB/" -e 's/^sequences: 4 /sequences: 1 /' \
    "$three_nodes" >"$config"
fi

# mpirun takes this shell's place, so that Ctrl-C and a kill reach it; it ends its ranks before it ends.
export_mpi_settings
exec mpirun -n "$nodes" --oversubscribe --bind-to none "$ROOT/build/release/shoal" run \
  -c "$config" --model "$model" -p "$prompt" -n 256 </dev/null
