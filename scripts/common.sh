# shellcheck shell=bash
# Sourced by every script here: stops at the first failure, and reports what failed and where.
set -Eeuo pipefail
shopt -s inherit_errexit
# debootstrap and chroot are there, and not on everybody's path.
PATH=$PATH:/usr/sbin:/sbin

# The exit code of a failure that is already reported. Whoever sees it passes it on and is silent,
# be it the shell around a subshell or the script that called this one.
readonly REPORTED=99

die() {
  echo "${0##*/}: $*" >&2
  exit "$REPORTED"
}

report_failure() { # CODE COMMAND: the trap below
  local code=$1 command=$2 frame
  [ "$code" != "$REPORTED" ] || exit "$REPORTED"
  echo "$0: exit code $code from: $command" >&2
  for ((frame = 1; frame < ${#FUNCNAME[@]}; frame++)); do
    echo "    ${BASH_SOURCE[frame]}, line ${BASH_LINENO[frame - 1]}, in ${FUNCNAME[frame]}" >&2
  done
  exit "$REPORTED"
}
trap 'report_failure "$?" "$BASH_COMMAND"' ERR

# Installs Debian packages if a file or a command is missing.
need() { # COMMAND|/FILE PACKAGES…
  local wanted=$1 log; shift
  case $wanted in
    /*) if [ -e "$wanted" ]; then return; fi ;;
    *) if command -v "$wanted" >/dev/null; then return; fi ;;
  esac
  command -v apt-get >/dev/null || die "$wanted is missing, and there is no apt-get to install it"
  [ "$(id -u)" = 0 ] || die "$wanted is missing: as root, run apt-get install $*"
  echo "${0##*/}: installing $*" >&2
  log=$(mktemp)
  {
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
  } >"$log" 2>&1 || { cat "$log" >&2; die "cannot install $*: see above"; }
  rm -f "$log"
}

# What cargo needs on a machine that has a Rust toolchain and nothing else.
need_build_tools() {
  need cc gcc libc6-dev
  need /etc/ssl/certs/ca-certificates.crt ca-certificates
}
