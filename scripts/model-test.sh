#!/bin/bash
# model-test.sh [N]: takes N random steps (2,000 if not said) with one guest: external snapshots, returns, removals, block
# jobs, kills of the daemon; after each its disks are compared with a model. MODEL_SEED=S makes a run again. Ends with 0
# if nothing differs.
set -eu
. "$(dirname "$0")/lib.sh"
steps=${1:-2000}
case $steps in *[!0-9]* | '') usage "$0" ;; esac
MODEL_STEPS=$steps exec cargo test --manifest-path "$ROOT/Cargo.toml" --package virtqemud --test it -- \
  --test-threads 1 --nocapture model_externals::random_steps
