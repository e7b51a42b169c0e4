#!/bin/bash
# node.sh: boot one node. Runs twice: `node.sh` on the machine, joining the node's cgroups and making its namespaces, and
# `node.sh inside` as the new PID 1, which mounts the node's root and becomes its init.
#
# In the environment: READY, NODE, NETNS (path), DIR (the node's state), LOWER (overlay's lowerdir), SHARED,
# CGROUPS (a line each: directory on the machine, hierarchy's controllers, or `unified`), BINDS (a line each: source TAB target TAB rw|ro).
# READY is a file descriptor that receives `ready` once the node is up.
set -euo pipefail
umask 022
here=$(dirname "$(readlink -f "$0")")
# shellcheck source-path=SCRIPTDIR source=mounts.sh
. "$here/mounts.sh"

each_cgroup() { while read -r dir controllers; do [ -z "$dir" ] || "$1" "$dir" "$controllers"; done <<<"$CGROUPS"; }
join() { echo $$ >"$1/cgroup.procs"; }

# cgroup v1: Slurm looks for each controller at /sys/fs/cgroup/<controller>, also where two share a hierarchy.
mount_hierarchy() {
  local controllers=$2 name
  mkdir "$root/sys/fs/cgroup/$controllers"
  mount -t cgroup -o "$controllers" cgroup "$root/sys/fs/cgroup/$controllers"
  for name in ${controllers//,/ }; do
    [ -e "$root/sys/fs/cgroup/$name" ] || ln -s "$controllers" "$root/sys/fs/cgroup/$name"
  done
}

mount_cgroups() {
  case $CGROUPS in
    *unified*)
      mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
      ;;
    *)
      mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
      each_cgroup mount_hierarchy
      ;;
  esac
}

# Two devices that every kernel has and hardly any program needs stand in for GPUs: they open, so that a refusal can only be the
# fence. mknod, not bind mounts: Apptainer's --bind /dev/dri refuses a tree with mounts below it.
make_gpus() {
  mknod -m 666 "$root/dev/dri/renderD128" c 1 7
  mknod -m 666 "$root/dev/dri/renderD129" c 1 8
}

mount_binds() {
  local source target mode
  while IFS=$'\t' read -r source target mode; do
    [ -n "$source" ] || continue
    if [ -d "$source" ]; then mkdir -p "$root$target"; else mkdir -p "$(dirname "$root$target")" && touch "$root$target"; fi
    mount --bind "$source" "$root$target"
    [ "$mode" = rw ] || mount -o "remount,bind,$mode" "$root$target"
  done <<<"$BINDS"
}

if [ "${1-}" != inside ]; then
  each_cgroup join
  exec nsenter --net="$NETNS" \
    unshare --mount --pid --uts --ipc --cgroup --fork --kill-child --propagation private bash "$here/node.sh" inside
fi

# /proc is still the machine's: this is the node's PID 1 as the machine sees it.
read -r pid _ </proc/self/stat
echo "$pid" >"$DIR/init.pid"

root=$DIR/root
hostname "$NODE"
rm -rf "$DIR/work"
mkdir -p "$root" "$DIR/upper" "$DIR/work"
# volatile: no fsync reaches the disk. A node's own files live as long as the lab; /shared is outside of this.
mount -t overlay overlay -o "volatile,lowerdir=$LOWER,upperdir=$DIR/upper,workdir=$DIR/work" "$root"
mount_basics "$root"
make_gpus
mount_cgroups
mkdir -p "$root/shared"
mount --bind "$SHARED" "$root/shared"
mount_binds
echo "$NODE" >"$root/etc/hostname"
enter_root "$root"
unset NODE NETNS DIR LOWER SHARED CGROUPS BINDS
echo ready >&"$READY"
exec {READY}>&-
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin tini -- sleep infinity </dev/null
