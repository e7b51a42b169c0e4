#!/bin/sh
# confine.sh PYTHON ROOT [PATH|ro:PATH]... -- COMMAND...: run COMMAND where only the machine's programs and settings,
# read-only, and these PATHs exist, each at its own place. A later PATH may lie in an earlier one. ROOT is an empty
# directory for the new root; PYTHON runs new_root.py. Runs as root of the mount and PID namespaces that it was started
# in; the network stays the machine's. The environment passes through.
set -eu
python=$1
root=$2
shift 2

show() { # PATH [ro]: at its own place below the new root
  if [ -e "$root$1" ]; then
    [ "${2-}" != ro ] || return 0 # in a directory that is shown already
  elif [ -d "$1" ]; then
    mkdir -p "$root$1"
  else
    mkdir -p "$root${1%/*}"
    : >"$root$1"
  fi
  mount --rbind "$1" "$root$1"
  [ "${2-}" = ro ] || return 0
  # A mount of the machine that is nosuid or nodev must stay so in a user namespace.
  mount -o remount,bind,ro "$root$1" 2>/dev/null || mount -o remount,bind,ro,nosuid,nodev "$root$1"
}

mount -t tmpfs -o mode=755 tmpfs "$root"
for name in bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$name" ]; then
    cp -P "/$name" "$root/$name"
  elif [ -d "/$name" ]; then
    show "/$name" ro
  fi
done
show /usr ro
show /etc ro
resolver=$(readlink -f /etc/resolv.conf || :)
case $resolver in
/run/*) show "$resolver" ro ;;
esac
mkdir -p "$root/dev/shm" "$root/dev/pts" "$root/proc" "$root/root" "$root/run" "$root/sys" "$root/var"
mkdir -m 1777 "$root/tmp" "$root/var/tmp"
for device in null zero full random urandom tty; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mount -t proc proc "$root/proc"
mount --bind /sys "$root/sys" 2>/dev/null || mount --rbind /sys "$root/sys" # the latter in a user namespace
mount -o remount,bind,ro,nosuid,nodev,noexec "$root/sys"
while [ "$1" != -- ]; do
  case $1 in
  ro:*) show "${1#ro:}" ro ;;
  *) show "$1" ;;
  esac
  shift
done
shift

exec "$python" -I -B "${0%/*}/../new_root.py" "$root" "$@"
