#!/bin/bash
# backup-test.sh [N]: makes N random backups (500 if not said) of one guest, whole and since a checkpoint, while it writes and
# the daemon and QEMU are killed; each is put back together and compared with a model. MODEL_SEED=S makes a run again. Ends
# with 0 if nothing differs.
set -eu
. "$(dirname "$0")/lib.sh"
backups=${1:-500}
case $backups in *[!0-9]* | '') usage "$0" ;; esac
MODEL_BACKUPS=$backups exec cargo test --manifest-path "$ROOT/Cargo.toml" --package virtqemud --test it -- \
  --test-threads 1 --nocapture model_backups::what_is_backed_up
