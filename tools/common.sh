# Shared by the scripts of this folder; sourced, never run. Messages go to stderr, results alone to stdout.
# shellcheck shell=bash

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
PROGRAM="${0##*/}"

say() { printf '%s: %s\n' "$PROGRAM" "$*" >&2; }

# die CODE MESSAGE: 1 something failed, 2 wrong usage or this machine cannot.
die() {
  local code=$1
  shift
  say "$*"
  exit "$code"
}

# Prints the comment block at the top of the calling script: that block is its manual.
print_help() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"; }

# Compilers at once: one a core, and no more than memory carries (the largest files take about 1 GiB each).
build_jobs() {
  local cores gib
  cores=$(nproc)
  gib=$(awk '/^MemAvailable:/ {print int($2 / 1048576)}' /proc/meminfo)
  ((gib >= 1)) || gib=1
  echo $((cores < gib ? cores : gib))
}

# configure PRESET [CMAKE_ARG...]: only the first time, or when an argument is given; Ninja repeats it when it must.
# With SHOAL_WERROR=ON in the environment warnings are errors.
configure() {
  local preset=$1
  shift
  [[ -z ${SHOAL_WERROR:-} ]] || set -- "-DSHOAL_WERROR=$SHOAL_WERROR" "$@"
  if [[ -f $ROOT/build/$preset/build.ninja && $# -eq 0 ]]; then return; fi
  (cd "$ROOT" && cmake --preset "$preset" "$@") >&2
}

# build PRESET TARGET: says nothing where nothing is to be built. (A dry run cannot tell: it takes globs for changed.)
build() {
  cmake --build "$ROOT/build/$1" --target "$2" --parallel "$(build_jobs)" |
    sed -u '/Re-checking globbed directories/d; /^ninja: no work to do/d' >&2
}

# Open MPI on any machine: as root too, more ranks than cores, and no fabric but shared memory and TCP, so that it
# neither searches for hardware that a small device lacks nor warns about its absence.
export_mpi_settings() {
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp OMPI_MCA_btl_vader_single_copy_mechanism=none
}
