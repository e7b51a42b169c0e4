#!/bin/bash
# layer.sh: run a script in a root whose changes land in a directory of their own.
#
# In the environment: LOWER, UPPER, WORK, ROOT (the overlay), SCRIPT, INPUTS (a path a line), and SETTINGS (NAME=VALUE a line).
set -euo pipefail
umask 022
: "${LOWER:?}" "${UPPER:?}" "${WORK:?}" "${ROOT:?}" "${SCRIPT:?}" "${SETTINGS:?}"
here=$(dirname "$(readlink -f "$0")")
# shellcheck source-path=SCRIPTDIR source=mounts.sh
. "$here/mounts.sh"

if [ "${1-}" != inside ]; then
  exec unshare --mount --pid --uts --ipc --fork --kill-child --propagation private bash "$here/layer.sh" inside
fi

mkdir -p "$ROOT" "$UPPER" "$WORK"
mount -t overlay overlay -o "volatile,lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" "$ROOT"
mount_basics "$ROOT"
mkdir "$ROOT/run/inputs"
cp "$SCRIPT" "$ROOT/run/script"
while read -r input; do
  [ -n "$input" ] || continue
  target=$ROOT/run/inputs/$(basename "$input")
  if [ -d "$input" ]; then mkdir "$target"; else touch "$target"; fi
  mount --bind "$input" "$target"
  mount -o remount,bind,ro "$target"
done <<<"$INPUTS"
mapfile -t settings <<<"$SETTINGS"
enter_root "$ROOT"
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
  XDG_CACHE_HOME=/tmp/cache PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE= INPUTS=/run/inputs "${settings[@]}" \
  bash -euo pipefail /run/script
