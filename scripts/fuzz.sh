#!/bin/bash
# fuzz.sh [SECONDS [TARGET...]]: runs the fuzz targets, each for so long (10 s), guided by coverage. They begin with
# the tests' data and keep what they find in fuzz/corpus; an input that breaks one is left in fuzz/artifacts.
# The compiler is the usual one: counters are compiled in, no sanitizer is. Needs a C++ compiler.
set -u
. "$(dirname "$0")/lib.sh"
case ${1:-} in -h | --help) usage "$0" ;; esac
seconds=${1:-10}
[ $# -eq 0 ] || shift
have c++ || "$ROOT/scripts/install-deps.sh" --with-compiler || exit 1

cd "$ROOT/fuzz" || exit 1
host=$(rustc -vV | sed -n 's/^host: //p')
# naming the target keeps the counters out of what runs while building
build=(cargo build --quiet --release --target "$host" --target-dir "$TARGET/fuzz")
counters="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
cargo build --quiet --target-dir "$TARGET/fuzz" --bin seeds || exit 1
all=$("$TARGET/fuzz/debug/seeds" "$ROOT" corpus) || exit 1
[ $# -gt 0 ] || set -- $all
for target; do
  # those of the daemon itself take its whole dependencies; the others are leaves
  needs=$(awk -v name="\"$target\"" '$1 == "name" && $3 == name { found = 1 } found && /required-features/ { print; exit } found && /^$/ { exit }' Cargo.toml)
  RUSTFLAGS=$counters "${build[@]}" ${needs:+--features daemon} --bin "$target" || exit 1
done

run() {
  local target=$1
  mkdir -p "artifacts/$target"
  if "$TARGET/fuzz/$host/release/$target" "corpus/$target" -max_total_time="$seconds" -timeout=10 \
    -rss_limit_mb=1024 -artifact_prefix="artifacts/$target/" -print_final_stats=1 >"artifacts/$target.log" 2>&1; then
    say "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "artifacts/$target.log") inputs, none breaks it"
  else
    tail -30 "artifacts/$target.log" >&2
    say "$target: broken; the input is in fuzz/artifacts/$target"
    return 1
  fi
}

# one on every processor
status=0 running=0
for target; do
  if [ $running -ge "$(nproc)" ]; then
    wait -n || status=1
    running=$((running - 1))
  fi
  run "$target" &
  running=$((running + 1))
done
while [ $running -gt 0 ]; do
  wait -n || status=1
  running=$((running - 1))
done
exit $status
