#!/usr/bin/env bash
# Checks the C++ files against .clang-format with clang-format 14, the version that Debian 12 has.
#
#   tools/check_format.sh          names each place that differs; exit 1 if there is one
#   tools/check_format.sh --fix    rewrites the files instead
#   tools/check_format.sh FILE...  these files only (after --fix too)
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

mode=(--dry-run -Werror)
case ${1:-} in
  --fix) mode=(-i); shift ;;
  -h | --help) print_help; exit 0 ;;
  -*) die 2 "unknown argument '$1'; see --help" ;;
esac
command -v clang-format-14 >/dev/null || die 2 "no clang-format-14; install it (tools/setup.sh --test does)"

files=("$@")
if ((!$#)); then
  cd "$ROOT"
  # The files of the checkout, or all but the build folder where this is no checkout. A checkout that another user
  # owns is fine to read.
  mapfile -d '' -t files < <(
    git -c safe.directory='*' ls-files -z --cached --others --exclude-standard -- '*.h' '*.cc' 2>/dev/null ||
      find . -path ./build -prune -o \( -name '*.h' -o -name '*.cc' \) -print0
  )
  present=()
  for file in "${files[@]}"; do
    if [[ -f $file ]]; then present+=("$file"); fi
  done
  files=("${present[@]}")
fi
((${#files[@]})) || die 1 "found no C++ files"
clang-format-14 --style=file "${mode[@]}" "${files[@]}"
