#!/usr/bin/env bash
# Every test, from a fresh Debian 12: packages, model, format and include rules, Release build, ctest.
#
#   tools/test.sh              all of it; ends on ctest's own summary
#   tools/test.sh --quick      the unit tests and rules only: no model, nothing that starts processes
#   tools/test.sh --sanitize   before that, the unit tests under ASan + UBSan, the threaded ones under TSan, and the fuzz
#                              targets, each for SHOAL_FUZZ_SECONDS (60)
#   tools/test.sh --werror     warnings are errors (as .ci/run has it)
#
# Stops at the first stage that fails, with a non-zero exit. The programs under test find the model in SHOAL_TEST_MODEL.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"

# One doctest program and one ctest name a layer (tests/CMakeLists.txt); these are the ones that run threads.
layers=(base tensor model sharding planner transport node)
threaded_layers=(tensor transport node)

quick=0 sanitize=0
for argument in "$@"; do
  case $argument in
    --quick) quick=1 ;;
    --sanitize) sanitize=1 ;;
    --werror) export SHOAL_WERROR=ON ;;
    -h | --help) print_help; exit 0 ;;
    *) die 2 "unknown argument '$argument'; see --help" ;;
  esac
done

stage() { say "=== $* (${SECONDS} s)"; }

# with_tests LAYER...: those of them that have tests.
with_tests() {
  local layer
  for layer in "$@"; do
    if compgen -G "tests/$layer/*.cc" >/dev/null; then echo "$layer"; fi
  done
}

# sanitized PRESET LAYER...: builds the layers' test programs and runs them. Address randomisation is off where the
# system lets us: the sanitizers of g++ 12 and the many random bits of newer kernels do not always go together.
sanitized() {
  local preset=$1 fixed_addresses=() names
  shift
  mapfile -t names < <(with_tests "$@")
  configure "$preset"
  cmake --build "build/$preset" --parallel "$(build_jobs)" --target "${names[@]/#/test_}" >&2
  if setarch -R true 2>/dev/null; then fixed_addresses=(setarch -R); fi
  ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 \
    "${fixed_addresses[@]}" ctest --test-dir "build/$preset" --parallel "$(nproc)" --output-on-failure --no-tests=error --timeout 1200 \
    -R "^($(IFS='|' && echo "${names[*]}"))\$"
}

stage "packages"
bash tools/setup.sh --test

if ((!quick)); then
  stage "model"
  SHOAL_TEST_MODEL=$(bash tools/fetch_model.sh)
  export SHOAL_TEST_MODEL
fi

stage "format"
bash tools/check_format.sh
stage "include rules"
python3 tools/check_includes.py --self-test
python3 tools/check_includes.py

if ((sanitize)); then
  stage "ASan and UBSan"
  sanitized asan "${layers[@]}"
  stage "TSan"
  sanitized tsan "${threaded_layers[@]}"
  stage "fuzz targets"
  bash tools/fuzz.sh "${SHOAL_FUZZ_SECONDS:-60}" || (($? == 77))  # 77: it said why it cannot be run here
fi

stage "Release build"
configure release -DSHOAL_EMULATED_TESTS=ON  # anew: it may have been configured before the packages of the tests were there
cmake --build build/release --parallel "$(build_jobs)" >&2
export_mpi_settings
stage "ctest"
selection=()
if ((quick)); then selection=(-LE model); fi
ctest --test-dir build/release --parallel "$(nproc)" --output-on-failure --no-tests=error --timeout 900 "${selection[@]}"
