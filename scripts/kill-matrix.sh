#!/bin/bash
# kill-matrix.sh [N]: kills the daemon N times (500 if not said) in the midst of its operations, evenly spread over them
# and over the time that each takes, and compares service, files, QEMU and events after each. Ends with 0 if nothing
# differs; the figures are in the output.
set -eu
. "$(dirname "$0")/lib.sh"
kills=${1:-500}
case $kills in *[!0-9]* | '') usage "$0" ;; esac
operations=$(sed -n 's/.*const ALL: \[Self; \([0-9]*\)\].*/\1/p' "$ROOT"/tests/it/kill*.rs | awk '{ sum += $1 } END { print sum }')
# rounded up, so that there are at least as many as asked for
KILL_MATRIX=$(((kills + operations - 1) / operations)) exec cargo test --manifest-path "$ROOT/Cargo.toml" --package virtqemud --test it -- \
  --test-threads 1 --nocapture kill::a_daemon_killed kill_backups kill_blockjobs kill_externals kill_live kill_saves kill_snapshots
