#!/bin/bash
# demo.sh [--system] [--release | --program FILE] [--keep]: a real guest, from nothing, in one command.
#
# Installs what is missing, builds, starts the daemon, defines and boots a guest under emulation, shows it through
# virsh and through the gRPC service, types on its console, switches it off with its power button and stops all.
#
#   --system    the daemon uses the host's own /etc/libvirt, /run/libvirt, /var/lib/libvirt. Without it they are
#               private copies, so that nothing of the host's is touched
#   --release   the optimized build
#   --program   a daemon that has been built already, instead of building one
#   --keep      leaves daemon and guest running, and says how to reach them
set -eu
. "$(dirname "$0")/lib.sh"

system=no profile=debug keep=no program=
while [ $# -gt 0 ]; do
  case $1 in
    --system) system=yes ;;
    --release) profile=release ;;
    --program) [ $# -gt 1 ] || usage "$0"; shift; program=$(realpath "$1") ;;
    --keep) keep=yes ;;
    *) usage "$0" ;;
  esac
  shift
done
[ "$(id -u)" = 0 ] || die "must be root: the daemon is, and private directories take a mount namespace"

name=demo
step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
# shows a command, without what is the same in all of them, and runs it
show() {
  local line=$*
  line=${line/" -q -c $uri"/}
  line=${line/" ${G[*]:1}"/}
  line=${line/" $grpc_socket"/}
  printf '\033[2m$ %s\033[0m\n' "$line"
  "$@"
}
# wait_for SECONDS WHAT COMMAND...: until the command succeeds
wait_for() {
  local tries=$(($1 * 5)) what=$2
  shift 2
  while ! "$@" >/dev/null 2>&1; do
    kill -0 "$daemon" 2>/dev/null || { tail -20 "$log" >&2; die "the daemon ended; its log is above"; }
    tries=$((tries - 1))
    [ $tries -gt 0 ] || { tail -20 "$log" >&2; die "$what: not so in time; the daemon's log is above"; }
    sleep 0.2
  done
}

step "What is needed"
if [ ! -s "$GUEST/initrd.gz" ] || ! have virsh || ! have qemu-system-x86_64 ||
  ! { have grpcurl || [ -x "$TOOLS/bin/grpcurl" ]; }; then
  "$ROOT/scripts/install-deps.sh"
fi
"$ROOT/scripts/guest-image.sh"
if [ -z "$program" ]; then
  flags=(--bin virtqemud)
  [ $profile = debug ] || flags+=(--release)
  (cd "$ROOT" && cargo build --quiet "${flags[@]}")
  program=$TARGET/$profile/virtqemud
fi
[ -x "$program" ] || die "$program: no such program"
PATH=$TOOLS/bin:$PATH

if [ $system = yes ]; then
  base= run=() dir=$(mktemp -d /tmp/vqdemo.XXXXXX)
  mkdir -p /run/libvirt
  # whoever manages the host's guests now must not meet a second one
  ! virsh -q -c 'qemu+unix:///system?socket=/run/libvirt/virtqemud-sock' uri >/dev/null 2>&1 ||
    die "a daemon answers on /run/libvirt/virtqemud-sock already; stop it first"
else
  base=$(mktemp -d /tmp/vqdemo.XXXXXX) dir=$base
  chmod 755 "$base"
  run=("$ROOT/scripts/sandbox.sh" "$base")
fi
log=$dir/daemon.log
libvirt_socket=$base/run/libvirt/virtqemud-sock
grpc_socket=$base/run/libvirt/virtqemud-grpc-sock
uri="qemu+unix:///system?socket=$libvirt_socket"
V=(virsh -q -c "$uri")
G=(grpcurl -plaintext -unix -authority localhost)
echo "virsh -c '$uri'"
echo "${G[*]} $grpc_socket"

clean_up() {
  local pid
  trap - EXIT
  [ -z "${watcher:-}" ] || kill "$watcher" 2>/dev/null || true
  if "${V[@]}" domstate $name >/dev/null 2>&1; then
    "${V[@]}" destroy $name >/dev/null 2>&1 || true
    "${V[@]}" undefine $name >/dev/null 2>&1 || true
  fi
  pid=$(cat "$base/run/libvirt/qemu/$name.pid" 2>/dev/null || true)
  [ -z "$pid" ] || ! grep -qs '^qemu' "/proc/$pid/comm" || kill -9 "$pid"
  kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null || true
  rm -rf "$dir"
}
on_exit() { [ $keep = yes ] && [ "${done:-no}" = yes ] || clean_up; }

step "The daemon"
"${run[@]}" "$program" >"$log" 2>&1 &
daemon=$!
trap on_exit EXIT
trap 'exit 130' INT TERM
wait_for 20 "the daemon answers" "${V[@]}" uri
show "${V[@]}" version
show "${V[@]}" nodeinfo

step "The service, by reflection"
show "${G[@]}" "$grpc_socket" list
show "${G[@]}" "$grpc_socket" describe virtqemud.v1.Domains
"${G[@]}" -d '{"send_initial_state": true}' "$grpc_socket" virtqemud.v1.Events/Watch >"$dir/events" 2>&1 &
watcher=$!

step "A guest"
cat >"$dir/guest.xml" <<XML
<domain type='qemu'>
  <name>$name</name>
  <memory unit='MiB'>192</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>$GUEST/vmlinuz</kernel>
    <initrd>$GUEST/initrd.gz</initrd>
    <cmdline>console=ttyS0 quiet panic=-1</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <serial type='pty'><log file='/var/log/libvirt/$name-console.log'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <controller type='usb' model='none'/>
    <memballoon model='virtio'/>
  </devices>
</domain>
XML
show "${V[@]}" define "$dir/guest.xml"
show "${V[@]}" start $name
console_log=$base/var/log/libvirt/$name-console.log
echo "booting, without KVM ..."
wait_for 90 "the guest is up" grep -q GUEST-READY "$console_log"
show "${V[@]}" list --all
show "${V[@]}" dominfo $name
show "${V[@]}" domstats --state --cpu-total --balloon $name

step "The same guest over gRPC"
show "${G[@]}" -d '{"view":"VIEW_FULL"}' "$grpc_socket" virtqemud.v1.Domains/List

step "Its console"
tty=$("${V[@]}" ttyconsole $name | tr -d '[:space:]')
exec 8<>"$tty"
sleep 2 # QEMU looks once a second whether somebody has opened it
printf 'uname -sr; echo typed-$((6 * 7))\n' >&8
wait_for 20 "the guest answers" grep -q typed-42 "$console_log"
exec 8>&-
tr -d '\r\033' <"$console_log" | sed -n 's/\[6n//; /GUEST-READY/,$p'

if [ $keep = yes ]; then
  done=yes
  kill $watcher
  step "Kept running"
  echo "${V[*]@Q} list"
  echo "${G[*]} $grpc_socket list"
  echo "stop: ${V[*]@Q} destroy $name; kill $daemon"
  exit 0
fi

step "Its power button"
show "${V[@]}" shutdown $name --mode acpi
wait_for 60 "the guest is off" sh -c '"$@" | grep -q "shut off"' _ "${V[@]}" domstate $name
show "${V[@]}" domstate $name --reason
show "${V[@]}" undefine $name

step "What was seen happening meanwhile, by a gRPC watch"
sleep 0.5
grep -o '"kind": *"[A-Z_]*"\|"\(type\|state\|reason\)": *"*[A-Z_0-9]*' "$dir/events" | tr -d '"' | paste -sd ' ' | fold -sw 100

step "The daemon ends"
kill "$daemon"
wait "$daemon" && echo "orderly" || die "the daemon ended with status $?"
trap - EXIT
rm -rf "$dir"
