#!/bin/bash
# guest-image.sh: makes target/guest/vmlinuz and target/guest/initrd.gz, a guest that is up within seconds
# even without KVM. It
#
#   prints GUEST-READY on ttyS0 and hvc0's first port, then serves a shell on ttyS0
#   switches itself off at a press of the ACPI power button
#   runs qemu-guest-agent if the domain has the channel org.qemu.guest_agent.0
#   asks for an address by DHCP if it has a network card
#
# The kernel's command line: `console=ttyS0 quiet`; `guest.loop` in it keeps the vCPU busy, `guest.dirty=MIB`
# keeps writing to so much memory (for migration and save).
# Needs what install-deps.sh fetched. GUEST_DIR=DIR writes elsewhere. Nothing is done if both files are newer
# than this script and the kernel.
set -eu
. "$(dirname "$0")/lib.sh"
[ $# -eq 0 ] || usage "$0"

modules="virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover
  virtio_net virtio_blk virtio_console scsi_common scsi_mod virtio_scsi crc-t10dif_common crc-t10dif crc64
  crc64-rocksoft crc64-rocksoft_generic t10-pi sd_mod cdrom sr_mod virtio_balloon rng-core virtio-rng button
  evdev virtio_mem"

vmlinuz=$(ls "$TOOLS"/kernel/boot/vmlinuz-* 2>/dev/null | tail -1)
[ -n "$vmlinuz" ] || die "no guest kernel; run install-deps.sh first"
busybox=$(command -v busybox) || die "no busybox; run install-deps.sh first"
mkdir -p "$GUEST"
exec 9>"$GUEST/.lock"
flock 9
if [ "$GUEST/initrd.gz" -nt "$0" ] && [ "$GUEST/initrd.gz" -nt "$vmlinuz" ] && [ -s "$GUEST/vmlinuz" ]; then
  exit 0
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

# copies a program with the libraries it is linked with
add_program() {
  install -D -m 755 "$1" "$root$2"
  ldd "$1" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
    [ -e "$root$library" ] || install -D -m 755 "$(readlink -f "$library")" "$root$library"
  done
}

mkdir -p "$root"/{bin,sbin,etc,proc,sys,dev,run,tmp,root,mnt,modules,usr/sbin,var/run}
install -m 755 "$busybox" "$root/bin/busybox"
order=0
for module in $modules; do
  file=$(find "$TOOLS/kernel/lib/modules" -name "$module.ko*" | head -1)
  [ -n "$file" ] || continue
  order=$((order + 1))
  to=$root/modules/$(printf %02d $order)-$module.ko
  case $file in *.xz) xz -dc "$file" >"$to" ;; *) cp "$file" "$to" ;; esac
done
if [ -x "$TOOLS/agent/usr/sbin/qemu-ga" ]; then
  # linked against libraries that QEMU's own tools bring along; without them the guest has no agent
  if ldd "$TOOLS/agent/usr/sbin/qemu-ga" | grep -q 'not found'; then
    say "qemu-ga lacks libraries here, left out"
  else
    add_program "$TOOLS/agent/usr/sbin/qemu-ga" /usr/sbin/qemu-ga
  fi
fi
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
printf 'root::20000:0:99999:7:::\n' >"$root/etc/shadow"
printf 'root:x:0:\n' >"$root/etc/group"
printf 'ID=testguest\nNAME="test guest"\nPRETTY_NAME="test guest"\nVERSION_ID="1"\n' >"$root/etc/os-release"

cat >"$root/sbin/dhcp-event" <<'GUEST'
#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr flush dev "$interface"
ip addr add "$ip/${mask:-24}" dev "$interface"
for gateway in $router; do ip route add default via "$gateway"; break; done
GUEST

cat >"$root/sbin/shutdown" <<'GUEST'
#!/bin/sh
# what the guest agent calls
sync
case "$*" in *-r*) reboot -f ;; *-H*) halt -f ;; *) poweroff -f ;; esac
GUEST

cat >"$root/init" <<'GUEST'
#!/bin/busybox sh
/bin/busybox mkdir -p /bin /sbin
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/sbin HOME=/root TERM=dumb PS1='guest# '
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/virtio-ports
mount -t devpts none /dev/pts
hostname testguest
# what depends on a later one goes in with the next round
for round in 1 2 3; do
  for module in /modules/*.ko; do insmod "$module" 2>/dev/null && rm "$module"; done
done
rm -rf /modules
ip link set lo up

for port in /sys/class/virtio-ports/*; do
  [ -s "$port/name" ] && ln -sf "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
if [ -x /usr/sbin/qemu-ga ] && [ -e /dev/virtio-ports/org.qemu.guest_agent.0 ]; then
  qemu-ga --daemonize --pidfile=/run/qemu-ga.pid --logfile=/run/qemu-ga.log --statedir=/run
fi
for card in /sys/class/net/eth*; do
  [ -e "$card" ] || continue
  ip link set "${card##*/}" up
  udhcpc -b -q -i "${card##*/}" -s /sbin/dhcp-event -t 3 -T 2 >/dev/null 2>&1 &
done

# an input event is 24 bytes; the first from a button is a press
for device in /sys/class/input/event*/device/name; do
  grep -qi 'power button' "$device" 2>/dev/null || continue
  event=${device#/sys/class/input/}
  (head -c 24 "/dev/input/${event%%/*}" >/dev/null && echo GUEST-BUTTON >/dev/ttyS0 && sync && poweroff -f) &
done

for word in $(cat /proc/cmdline); do
  case $word in
    guest.loop) (while :; do :; done) & ;;
    guest.dirty=*) (mount -t tmpfs -o size=90% none /mnt
      while :; do dd if=/dev/urandom of=/mnt/dirt bs=1M count="${word#*=}" conv=notrunc 2>/dev/null; done) & ;;
  esac
done
[ -e /dev/hvc0 ] && echo GUEST-READY >/dev/hvc0
echo GUEST-READY >/dev/ttyS0
while :; do setsid cttyhack sh -i </dev/ttyS0 >/dev/ttyS0 2>&1; sleep 1; done
GUEST
chmod 755 "$root/init" "$root/sbin/dhcp-event" "$root/sbin/shutdown"

(cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) | gzip -6 >"$GUEST/initrd.tmp"
install -m 644 "$vmlinuz" "$GUEST/vmlinuz"
chmod 644 "$GUEST/initrd.tmp"
mv "$GUEST/initrd.tmp" "$GUEST/initrd.gz"
say "made $GUEST/vmlinuz and $GUEST/initrd.gz ($(du -k "$GUEST/initrd.gz" | cut -f1) KiB)"
