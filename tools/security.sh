#!/usr/bin/env bash
# What docs/security.md promises, tried: strangers, hostile bytes, crowds, and what TLS costs. Prints a table; the first
# failure of each row is shown below it. Needs a Release build, python3, openssl, and a model (tools/fetch_model.sh).
#
#   tools/security.sh                   all of it, about ten minutes
#   tools/security.sh --quick           what needs neither model nor crowd
#   tools/security.sh --fuzz SECONDS    each fuzz target for so long instead of 10 s; 0: none
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"

quick=0 fuzz_seconds=10
while (($#)); do
  case $1 in
    --quick) quick=1 ;;
    --fuzz) fuzz_seconds=$2; shift ;;
    -h | --help) print_help; exit 0 ;;
    *) die 2 "unknown argument '$1'; see --help" ;;
  esac
  shift
done

configure release
cmake --build build/release --parallel "$(build_jobs)" --target shoal test_sharding test_transport test_model test_node >&2
export SHOAL_PROGRAM=$ROOT/build/release/shoal
if ((!quick)); then
  SHOAL_TEST_MODEL=${SHOAL_TEST_MODEL:-$(bash tools/fetch_model.sh)}
  export SHOAL_TEST_MODEL
fi
export_mpi_settings
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
failed=()

# row WHAT COMMAND...: a line of the table; `shown` is what its log says of itself.
row() {
  local what=$1 log="$logs/${#failed[@]}-$RANDOM" begin=$SECONDS result
  shift
  if "$@" >"$log" 2>&1; then result="ok"; else result="FAILED"; failed+=("$what: $log"); fi
  printf '| %s | %s | %s | %d |\n' "$what" "$result" "$(shown "$log")" $((SECONDS - begin))
}
shown() {
  sed -n -e 's/.*test cases: *\([0-9]*\) |.*/\1 cases/p' -e 's/^Ran \([0-9]* tests*\) in.*/\1/p' \
    -e 's/^RESULT //p' "$1" | tail -1
}
# A filter that fits nothing must not pass.
unit() { build/release/"$1" -tc="$2" --test-suite-exclude=model-file && ! build/release/"$1" -tc="$2" -c | grep -q ': 0$'; }
cluster_test() { PYTHONPATH=tests/cluster python3 "tests/cluster/$1" "${@:2}"; }
tls_cost() {
  local with without
  with=$(tokens_per_second) && without=$(tokens_per_second --insecure) || return 1
  awk -v a="$with" -v b="$without" 'BEGIN {printf "RESULT %.1f tokens/s with, %.1f without: %+.1f %%\n", a, b, 100 * (a / b - 1)}'
}
# Three nodes on this machine, the median of five runs.
tokens_per_second() {
  mpirun --oversubscribe -n 3 "$SHOAL_PROGRAM" bench -c configs/three-nodes.yaml --model "$SHOAL_TEST_MODEL" -p 0 -n 64 -r 5 -o json -q "$@" |
    python3 -c 'import json,sys; print([row["avg_ts"] for row in json.load(sys.stdin)][-1])'
}
crowd() { python3 bench/crowd.py --runs 3 | tee /dev/stderr | awk -F'|' 'NR == 3 {a = $5} NR > 3 {printf "RESULT p99 between tokens %+.0f %% with %s\n", 100 * ($5 / a - 1), $2}' | paste -sd';' | sed 's/;RESULT/,/'; }

printf '| check | result | | s |\n|---|---|---|---|\n'
row "expired, revoked, foreign, other node's or no certificate; plain text" unit test_transport "*certificate*,*no hello is sent*,*revoked*"
row "who was shut out is shut out everywhere, and by the head alone" unit test_node "*shut out*,*joins no other than the head*,*loses its head lets nobody in*"
row "plans unsigned, changed, foreign, replayed" unit test_node "*plan is taken as the head*,*without the head's signature*,*plan of another*,*unsigned plan*"
row "renewal while running, and for whom not" unit test_node "*certificate is renewed*,*head signs for the node*,*a renewal is refused*,*uses no certificate*"
row "records repeated, swapped, dropped, replayed, changed, made up" unit test_transport "*records that are*"
row "frames over TLS as they are" unit test_transport "*over TLS*"
row "hostile frames (F1 to F11), mutated messages" unit test_transport "*hostile*,*mutated*,*truncation*"
row "a stalling, slow, large or foreign sender" unit test_transport "*stalls*,*one byte*,*before the hello*,*another protocol*,*silence*"
row "strangers, garbage and bad steps at a node (F11, F13)" unit test_node "strangers*,garbage*,a step that breaks*"
row "hostile model files (G1 to G18)" unit test_sharding "*hostile*,*vocabulary entry*"
row "hostile templates, manifests, signatures" unit test_model "*hostile*,*manifest*,*signature*,*private key*"
row "HTTP: malformed, large, slow, too many, too often" unit test_node "*malformed*,*too large*,*the slow*,*send slowly*,*beyond the limit*,*requests at once*"
row "keys, and what they keep apart" unit test_node "*key*,*prefix*"
if ((fuzz_seconds)); then row "fuzz targets, $fuzz_seconds s each" bash tools/fuzz.sh "$fuzz_seconds"; fi
if ((!quick)); then
  row "strangers at a running cluster; nothing readable in a capture" cluster_test links_test.py
  row "a device shut out, certificates renewed, while answers stream" cluster_test revoke_test.py
  row "the HTTP corpus (H1 to H20) at a running server" cluster_test hostile_http_test.py
  row "10,000 idle and 1,000 slow connections beside a stream" crowd
  row "what TLS costs, three nodes on loopback" tls_cost
fi
for one in "${failed[@]}"; do
  say "$one"
  tail -30 "${one##*: }" >&2
done
((!${#failed[@]}))
