#!/usr/bin/env bash
# install-deps.sh [PACKAGE...]: installs what the build needs on Debian 12 or later, and the packages named.
# Does nothing, and needs no rights, when all of it is there.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

# libssl-dev lets llama-server speak TLS; ccache makes the second build of llama.cpp short.
readonly packages=(
  g++ cmake ninja-build git ca-certificates unzip python3 python3-pip ccache
  libfmt-dev libcli11-dev nlohmann-json3-dev libgtest-dev libcpp-httplib-dev
  libssl-dev pkg-config
)

is_installed() {
  [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

install() {
  # A fresh machine may still be installing its own updates: wait for apt's lock instead of failing.
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq)
  quietly apt-update as_root "${apt[@]}" update ||
    die "apt-get update failed; check the network and the apt sources"
  quietly apt-install as_root "${apt[@]}" install --yes --no-install-recommends "$@" ||
    die "apt-get could not install: $*"
}

command -v apt-get >/dev/null ||
  die "only apt is supported; install these by other means and run scripts/build.sh: ${packages[*]}"

missing=()
for package in "${packages[@]}" "$@"; do
  is_installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} = 0 ]; then exit 0; fi

if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
  die "run this as root: apt-get install ${missing[*]}"
fi
# Before the step that hides its output, so that the question for a password is seen.
if [ "$(id -u)" != 0 ]; then sudo --validate || die "no rights to install: ${missing[*]}"; fi
echo "installing: ${missing[*]}" >&2
install "${missing[@]}"
