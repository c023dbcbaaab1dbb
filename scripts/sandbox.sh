#!/bin/bash
# sandbox.sh DIR COMMAND [ARG...]: runs COMMAND, as root, with private copies of libvirt's directories.
#
# /etc/libvirt, /run/libvirt, /var/lib/libvirt, /var/cache/libvirt and /var/log/libvirt are those below DIR for
# COMMAND and what it starts, so that a daemon under test never meets the host's guests; from outside its
# sockets are at DIR/run/libvirt/. What DIR holds is kept: use it again to try a restart. COMMAND takes the
# place of this script, so that a signal to the one reaches the other.
#
# If DIR/host is there, COMMAND sees a host with the devices that are in it: DIR/host/sys has its buses, its PCI devices,
# IOMMU groups and modules, DIR/host/dev has nodes beside the usual ones.
#
# If DIR/without-groups is there, COMMAND finds no control groups: these are the host's, and two sandboxes with guests of
# one number and name would share theirs.
#
# A new DIR gets a configuration with which guests run as root, log straight to files and have no security
# driver, and clients need no authentication.
set -eu
[ $# -ge 2 ] || { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
mkdir -p "$1"
base=$(cd "$1" && pwd)
shift

for private in /etc/libvirt /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
  mkdir -p "$base$private"
done
conf=$base/etc/libvirt
if [ ! -e "$conf/qemu.conf" ]; then
  cat >"$conf/qemu.conf" <<'CONF'
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
CONF
  for daemon in virtqemud libvirtd; do
    cat >"$conf/$daemon.conf" <<'CONF'
auth_unix_ro = "none"
auth_unix_rw = "none"
CONF
  done
fi

exec unshare --mount --propagation private bash -euc '
  base=$1
  shift
  for private in /etc/libvirt /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt; do
    mkdir -p "$private"
    mount --bind "$base$private" "$private"
  done
  if [ -e "$base/without-groups" ]; then
    # the list changes while it is worked through: it is read whole before
    mounts=$(</proc/mounts)
    while read -r _ place type _; do
      case $type in cgroup | cgroup2) umount --lazy "$place" ;; esac
    done <<<"$mounts"
  fi
  host=$base/host
  if [ -d "$host" ]; then
    for part in bus devices/pci0000:00 kernel/iommu_groups module; do
      mount --bind "$host/sys/$part" "/sys/$part"
    done
    usual=$base/usual-dev
    mkdir -p "$usual"
    mount --bind /dev "$usual"
    mkdir -p "$host/dev/pts" "$host/dev/shm" "$host/dev/net"
    for node in null zero full random urandom tty kvm net/tun; do
      [ -e "$usual/$node" ] || continue
      touch "$host/dev/$node"
      mount --bind "$usual/$node" "$host/dev/$node"
    done
    mount --rbind "$usual/pts" "$host/dev/pts"
    ln -sf pts/ptmx "$host/dev/ptmx"
    ln -sfn /proc/self/fd "$host/dev/fd"
    umount "$usual"
    mount --rbind "$host/dev" /dev
  fi
  exec "$@"' sandbox "$base" "$@"
