# shellcheck shell=bash
# Sourced after common.sh by scripts that work in a Debian root of their own, made by debootstrap.

need_root() {
  if [ "$(id -u)" != 0 ]; then die "needs root: debootstrap and chroot do"; fi
}

# With AS=exec the command takes this shell's place: a background job's pid is the command's own.
inside() {
  local root=$1; shift
  ${AS:-} chroot "$root" /usr/bin/env -i \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"
}

make_base() { # RELEASE ROOT PACKAGES…
  local release=$1 root=$2 mirror=${DEBIAN_MIRROR:-}; shift 2
  need debootstrap debootstrap debian-archive-keyring ca-certificates
  echo "brokers: making $root (Debian $release: $*)" >&2
  rm -rf "$root"
  mkdir -p "$root"
  # The host's own Debian mirror, if it names one; debootstrap's default otherwise.
  if [ -z "$mirror" ]; then
    mirror=$(cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null |
      grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' ' || true)
  fi
  debootstrap --variant=minbase "$release" "$root" ${mirror:+"$mirror"} >"$BED/$release.log" 2>&1 ||
    { tail -n 5 "$BED/$release.log" >&2; die "debootstrap $release: see $BED/$release.log"; }
  # Installing must start nothing.
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
  # The host's way to the mirror and to the package index.
  cp -L /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
  find /etc/apt/apt.conf.d -name '*proxy*' -exec cp -t "$root/etc/apt/apt.conf.d/" {} +
  mkdir -p "$root/etc/ssl/certs"
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || true
}
