# shellcheck shell=bash
# What every root of the lab needs mounted, for node.sh and layer.sh. Sourced, with the root's mount point as $1.

mount_basics() {
  local root=$1 name type major minor
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount -t tmpfs -o mode=755,size=64k tmpfs "$root/dev"
  mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/dri"
  while read -r name type major minor; do
    mknod -m 666 "$root/dev/$name" "$type" "$major" "$minor"
  done <<'DEVICES'
null c 1 3
zero c 1 5
full c 1 7
random c 1 8
urandom c 1 9
tty c 5 0
fuse c 10 229
DEVICES
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  ln -s /proc/self/fd/0 "$root/dev/stdin"
  ln -s /proc/self/fd/1 "$root/dev/stdout"
  ln -s /proc/self/fd/2 "$root/dev/stderr"
  mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  mkdir -m 1777 "$root/run/lock"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
}

# Not chroot: a process in a chroot may not create user namespaces, and rootless containers need them.
enter_root() {
  cd "$1" || exit
  mkdir run/old
  pivot_root . run/old
  cd /
  umount -l /run/old
  rmdir /run/old
}
