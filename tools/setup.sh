#!/usr/bin/env bash
# Installs the Debian 12 packages that Shoal needs, only those that are missing.
#
#   tools/setup.sh           what building and running need
#   tools/setup.sh --test    that, and what tools/test.sh and bench/testbed need; with it OpenAI's Python client, which
#                            is no Debian package, by pip into ~/.cache/shoal/ (without a network its test is skipped)
#   tools/setup.sh --list    print the package names (after --test: all of them) and do nothing
#   tools/setup.sh --check   exit 0 if nothing is missing, else name what is and exit 1
#
# Needs root or sudo when something is missing. Never removes a package. On another system install what --list
# prints (or its equals) by hand and set SHOAL_SKIP_SETUP=1.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

packages=(g++ cmake ninja-build pkg-config libboost1.81-dev libopenmpi-dev openmpi-bin openssh-client capnproto
  libcapnp-dev libspdlog-dev doctest-dev libssl-dev libyaml-cpp-dev libcli11-dev libpcre2-dev libopenblas0-pthread prometheus-cpp-dev python3
  python3-pip ca-certificates openssl)
test_packages=(clang-format-14 iproute2 git libsimde-dev g++-aarch64-linux-gnu qemu-user-static)

action=install
for argument in "$@"; do
  case $argument in
    --test) packages+=("${test_packages[@]}") ;;
    --list | --check) action=${argument#--} ;;
    -h | --help) print_help; exit 0 ;;
    *) die 2 "unknown argument '$argument'; see --help" ;;
  esac
done

if [[ $action == list ]]; then
  printf '%s\n' "${packages[@]}"
  exit 0
fi
if [[ ${SHOAL_SKIP_SETUP:-} == 1 ]]; then exit 0; fi

system=$(. /etc/os-release 2>/dev/null && echo "${ID:-unknown} ${VERSION_ID:-}") || system=unknown
if [[ $system != "debian 12" ]] || ! command -v dpkg-query >/dev/null; then
  say "this is '$system', and only Debian 12 is known to work. Needed, by their Debian names:"
  printf '  %s\n' "${packages[@]}" >&2
  die 2 "install their equals (g++ 12 or newer, Boost 1.81) and set SHOAL_SKIP_SETUP=1 to go on without this check"
fi

installed_packages() {
  dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | awk '$1 == "installed" {print $2}' || true
}

installed=" $(installed_packages "${packages[@]}" libboost1.74-dev | tr '\n' ' ')"
missing=()
for package in "${packages[@]}"; do
  [[ $installed == *" $package "* ]] || missing+=("$package")
done
# For the test of the official client; a folder of its own, so that nothing else on this machine changes.
install_openai_client() {
  [[ $action == install && " ${packages[*]} " == *" ${test_packages[0]} "* ]] || return 0
  local folder
  folder=${XDG_CACHE_HOME:-$HOME/.cache}/shoal/python-$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  [[ ! -d $folder/openai ]] || return 0
  say "installing OpenAI's Python client into $folder"
  python3 -m pip install --quiet --disable-pip-version-check --timeout 10 --retries 1 --target "$folder" openai >&2 ||
    say "OpenAI's Python client could not be installed (no network?): the test cluster-openai_client will be SKIPPED"
}

((${#missing[@]})) || { install_openai_client; exit 0; }
if [[ $action == check ]]; then die 1 "missing: ${missing[*]}"; fi

if [[ " ${missing[*]} " == *" libboost1.81-dev "* && $installed == *" libboost1.74-dev "* ]]; then
  say "Boost 1.74 (libboost1.74-dev) is installed, and Debian does not allow it beside libboost1.81-dev,"
  say "which Shoal needs. Nothing was changed. To replace it, look at what this would remove:"
  say "    apt-get --simulate install libboost1.81-dev"
  die 2 "and if you agree run 'sudo apt-get install libboost1.81-dev', then this again"
fi

as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null ||
    die 2 "not root and no sudo; as root run: apt-get install --no-install-recommends ${missing[*]}"
  as_root=(sudo)
  [[ -t 0 ]] || as_root=(sudo --non-interactive)
fi
as_root+=(env DEBIAN_FRONTEND=noninteractive)

say "installing ${missing[*]}"
apt_options=(-o DPkg::Lock::Timeout=120 -q)
"${as_root[@]}" apt-get "${apt_options[@]}" update >&2 || die 1 "apt-get update failed; is this machine online?"
"${as_root[@]}" apt-get "${apt_options[@]}" install --yes --no-remove --no-install-recommends "${missing[@]}" >&2 ||
  die 1 "apt-get could not install all of: ${missing[*]}"
install_openai_client
