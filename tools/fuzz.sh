#!/usr/bin/env bash
# Builds the fuzz targets of tests/fuzz (clang, AddressSanitizer, UBSan) and runs them, as many at a time as there are
# processors. A crash, a sanitizer's report, an input that takes 5 s (sanitized; that is about one second without), one
# allocation of 128 MiB or 2 GiB in all ends a target and fails the run; the input is kept in build/fuzz/findings.
#
#   tools/fuzz.sh [SECONDS] [TARGET...]     60 s and all targets unless said otherwise
#   tools/fuzz.sh --keep SECONDS [TARGET..] the same, and what was learnt goes into tests/fuzz/corpus (to be committed)
#   tools/fuzz.sh --coverage                lines of our sources that the kept corpora reach, by file (llvm-cov)
#   tools/fuzz.sh --input FILE TARGET       one input again
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"

keep=0 coverage=0 input='' seconds=60 targets=()
while (($#)); do
  case $1 in
    --keep) keep=1 ;;
    --coverage) coverage=1 ;;
    --input) input=$2; shift ;;
    -h | --help) print_help; exit 0 ;;
    -*) die 2 "unknown argument '$1'; see --help" ;;
    [0-9]*) seconds=$1 ;;
    *) [[ -f tests/fuzz/$1_fuzz.cc ]] || die 2 "there is no target '$1' (tests/fuzz/*_fuzz.cc)"; targets+=("$1") ;;
  esac
  shift
done
if ((!${#targets[@]})); then
  for file in tests/fuzz/*_fuzz.cc; do
    name=${file##*/}
    targets+=("${name%_fuzz.cc}")
  done
fi

# The longest input that is tried: what a door's own structure needs, not what its limit allows.
length_of() {
  case $1 in
    gguf) echo 16384 ;;
    request | http | cluster_file | plan) echo 8192 ;;
    step | tokenizer) echo 512 ;;
    *) echo 4096 ;;
  esac
}

# The sanitizers of clang 14 and the many random address bits of newer kernels do not go together.
fixed=()
if setarch -R true 2>/dev/null; then
  fixed=(setarch -R)
elif (($(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 0) > 28)); then
  die 77 "not run: this system has more random address bits than the sanitizers of clang 14 bear (vm.mmap_rnd_bits) and does not let them be switched off"
fi

build=build/fuzz
if ((coverage)); then build=build/fuzz-coverage; fi
cmake --preset fuzz -B "$build" -DSHOAL_FUZZ_COVERAGE="$coverage" >&2
cmake --build "$build" --parallel "$(build_jobs)" --target "${targets[@]/%/_fuzz}" >&2
mkdir -p "$build/findings"
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=0:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1
symbolizer=$(command -v llvm-symbolizer-14 || true)
[[ -z $symbolizer ]] || export ASAN_SYMBOLIZER_PATH=$symbolizer
limits=(-timeout=5 -rss_limit_mb=2048 -malloc_limit_mb=128)

unpack() {  # TARGET: the kept corpus, as files
  rm -rf "$build/kept/$1"
  mkdir -p "$build/kept/$1" "$build/corpus/$1"
  python3 tools/fuzz_corpus.py unpack "tests/fuzz/corpus/$1.txt" "$build/kept/$1"
}

if [[ -n $input ]]; then
  exec "${fixed[@]}" "$build/${targets[0]}_fuzz" "${limits[@]}" "$input"
fi

if ((coverage)); then
  command -v llvm-cov-14 >/dev/null || die 2 "needs llvm-cov-14 and llvm-profdata-14: apt-get install llvm-14"
  objects=()
  for target in "${targets[@]}"; do
    unpack "$target"
    LLVM_PROFILE_FILE="$build/$target.profraw" "${fixed[@]}" "$build/${target}_fuzz" "${limits[@]}" -runs=0 \
      "$build/kept/$target" "$build/corpus/$target" >/dev/null 2>"$build/$target.log" || die 1 "$target: see $build/$target.log"
    objects+=(-object "$build/${target}_fuzz")
  done
  (cd "$build" && llvm-profdata-14 merge -sparse "${targets[@]/%/.profraw}" -o all.profdata)
  exec llvm-cov-14 report "${objects[@]:1}" -instr-profile="$build/all.profdata" -show-region-summary=false \
    -show-branch-summary=false -ignore-filename-regex='/usr/|/gen/|/tests/|/base/'
fi

run_one() {  # TARGET
  local target=$1 dictionary=() log=$build/$1.log
  [[ ! -f tests/fuzz/$target.dict ]] || dictionary=(-dict="tests/fuzz/$target.dict")
  unpack "$target"
  # A sanitizer that hangs while it reports is not to hang the run.
  if timeout --kill-after=5 "$((seconds + 90))" "${fixed[@]}" "$build/${target}_fuzz" "${limits[@]}" "${dictionary[@]}" -max_len="$(length_of "$target")" \
    -max_total_time="$seconds" -print_final_stats=1 -report_slow_units=1 \
    -artifact_prefix="$build/findings/$target-" "$build/corpus/$target" "$build/kept/$target" 2>"$log" >&2; then
    echo ok >"$build/$target.result"
  else
    echo "FOUND $(ls -t "$build/findings" | grep -m1 "^$target-" || true)" >"$build/$target.result"
  fi
}

say "fuzzing ${targets[*]}: $seconds s each, $(nproc) at a time"
running=0
for target in "${targets[@]}"; do
  rm -f "$build/$target.result"
  if ((running >= $(nproc))); then
    wait -n
    ((running--))
  fi
  run_one "$target" &
  ((++running))
done
wait

failed=0
printf '%-14s %12s %9s %7s %9s  %s\n' target inputs per/s edges slowest/s result
for target in "${targets[@]}"; do
  log=$build/$target.log
  stat() { sed -n "s/^stat::$1: *//p" "$log" | tail -1; }
  edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
  result=$(cat "$build/$target.result" 2>/dev/null || echo "FOUND nothing was said")
  [[ $result == ok ]] || failed=1
  printf '%-14s %12s %9s %7s %9s  %s\n' "$target" "$(stat number_of_executed_units)" "$(stat average_exec_per_sec)" \
    "${edges:-?}" "$(stat slowest_unit_time_sec)" "$result"
  [[ $result == ok ]] || tail -40 "$log" >&2
done

if ((keep)); then
  for target in "${targets[@]}"; do
    merged=$build/merged/$target
    rm -rf "$merged" && mkdir -p "$merged"
    "${fixed[@]}" "$build/${target}_fuzz" "${limits[@]}" -merge=1 "$merged" "$build/kept/$target" "$build/corpus/$target" \
      >/dev/null 2>&1 || say "$target: not merged"
    python3 tools/fuzz_corpus.py pack "$merged" "tests/fuzz/corpus/$target.txt"
  done
fi
exit "$failed"
