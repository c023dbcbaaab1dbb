#!/bin/bash
# test.sh [CARGO-ARG...]: runs the tests, all of them or those that the arguments select as they would
# for `cargo test` (such as -p wire), with cargo-nextest if it is here.
#
# As root it first brings what the tests need and the machine lacks, with scripts/install-deps.sh. Tests of what it cannot
# bring (root, QEMU, virsh, libvirt's own daemon) say so and count as skipped. The last line is the sum over all suites:
# `N passed, N failed, N skipped`.
set -u
. "$(dirname "$0")/lib.sh"
case ${1:-} in -h | --help) usage "$0" ;; esac
cd "$ROOT"
[ $# -gt 0 ] || set -- --workspace

if [ "$(id -u)" = 0 ]; then
  "$ROOT/scripts/install-deps.sh" --with-reference ||
    say "not all that the tests need is here; those that miss something are skipped"
fi

# the sandboxes of all tests are in here; short, since paths of sockets are limited
scratch=$(mktemp -d /tmp/vqt.XXXXXX)
# some of what is tested runs as users of its own, who have files here too
chmod 1777 "$scratch"
log=$scratch/log
export TMPDIR=$scratch TESTKIT_SKIPS=$scratch/skips CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
: >"$TESTKIT_SKIPS"

# guests outlive a test that was killed
clean_up() {
  local file pid
  for file in "$scratch"/*/run/libvirt/qemu/*.pid; do
    pid=$(cat "$file" 2>/dev/null) && [ -n "$pid" ] && grep -qs '^qemu' "/proc/$pid/comm" && kill -9 "$pid"
  done
  rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

[ ! -d "$TOOLS/kernel" ] || "$ROOT/scripts/guest-image.sh" || true

status=0
run() {
  "$@" 2>&1 | tee -a "$log"
  local rc=${PIPESTATUS[0]}
  [ "$rc" -eq 0 ] || status=1
  return "$rc"
}
if cargo nextest --version >/dev/null 2>&1; then
  run cargo nextest run --no-tests=pass "$@"
  # nextest does not run the examples of documentation; a selection without a library has none
  cargo test --doc "$@" >"$scratch/doc" 2>&1 || grep -q 'no library targets' "$scratch/doc" || status=1
  tee -a "$log" <"$scratch/doc" | grep -v '^running 0 tests\|^test result.* 0 passed; 0 failed\|^ *$'
else
  run cargo test --no-fail-fast "$@"
fi

# sums up what both runners print
read -r passed failed ignored < <(awk '
  /^ *Summary \[/ {
    for (i = 1; i <= NF; i++) {
      word = $(i + 1); sub(/,.*/, "", word)
      if (word == "passed") passed += $i
      if (word == "failed" || word == "timed" || word == "exec") failed += $i
      if (word == "skipped") ignored += $i
    }
  }
  /^test result:/ {
    for (i = 1; i <= NF; i++) {
      if ($(i + 1) ~ /^passed/) passed += $i
      if ($(i + 1) ~ /^failed/) failed += $i
      if ($(i + 1) ~ /^ignored/) ignored += $i
    }
  }
  END { print passed + 0, failed + 0, ignored + 0 }' "$log")
skipped=$(sort -u "$TESTKIT_SKIPS" | wc -l)
if [ "$skipped" -gt 0 ]; then
  echo "skipped:"
  sort -u "$TESTKIT_SKIPS" | sed 's/^/  /'
fi
# what did not compile ran no test and must not look well
[ $status -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
echo "$((passed - skipped)) passed, $failed failed, $((skipped + ignored)) skipped"
exit $status
