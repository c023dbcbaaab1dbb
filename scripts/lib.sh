# What the scripts share; sourced, never run.
#   ROOT    the repository          TARGET  cargo's target directory
#   TOOLS   programs fetched by install-deps.sh that are no system packages
#   GUEST   kernel and initrd of the test guest, made by guest-image.sh
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
TOOLS=$TARGET/tools
GUEST=${GUEST_DIR:-$TARGET/guest}
export LC_ALL=C.UTF-8

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
# usage SCRIPT: prints the comment at the head of a script
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$1" >&2; exit 2; }
