#!/bin/bash
# kill-matrix.sh [N [TEST...]]: kills the daemon, and in operations on storage QEMU or both in turn with it, N times (500 if not said)
# in the midst of its operations, evenly spread over them and over the time that each takes, and compares service, files,
# QEMU and events after each; guests of operations on storage write all the while, and what they were told is written must be
# there after the kill and at the next boot. TEST: parts of tests' names, such as kill_backups, of which each operation then
# gets as many kills as otherwise. Ends with 0 if nothing differs; the figures of each operation are in the output.
# TMPDIR in memory makes it faster, KILL_MATRIX_SECONDS ends each test after that time though it has not had all its kills.
# TESTED_DAEMON names another build of the daemon.
# With "changes" for N the daemon is killed in operations on storage as it is about to make each of its changes of directories.
set -eu
. "$(dirname "$0")/lib.sh"
kills=${1:-500}
case $kills in changes) ;; *[!0-9]* | '') usage "$0" ;; esac
[ $# -eq 0 ] || shift
if [ "$kills" = changes ]; then
  [ $# -gt 0 ] || set -- kill_backups kill_blockjobs::who_is kill_externals::who_is kill_saves kill_snapshots::who_is
  KILL_MATRIX=changes exec cargo test --manifest-path "$ROOT/Cargo.toml" --package virtqemud --test it -- \
    --test-threads 1 --nocapture "$@"
fi
operations=$(sed -n 's/.*const ALL: \[Self; \([0-9]*\)\].*/\1/p' "$ROOT"/tests/it/kill*.rs | awk '{ sum += $1 } END { print sum }')
[ $# -gt 0 ] ||
  set -- kill::a_daemon_killed kill_backups kill_blockjobs kill_externals kill_live kill_saves kill_snapshots
# rounded up, so that there are at least as many as asked for
KILL_MATRIX=$(((kills + operations - 1) / operations)) exec cargo test --manifest-path "$ROOT/Cargo.toml" --package virtqemud --test it -- \
  --test-threads 1 --nocapture "$@"
