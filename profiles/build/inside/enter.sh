#!/bin/sh
# enter.sh TREE KIT COMMAND...: run COMMAND as root of TREE, in the mount and PID namespaces this script was started in.
# TREE gets /proc, a /dev of harmless devices, the machine's name service, and KIT as /run/berth-build. /run itself is
# the tree's own, so that what is made there stays. The environment passes through.
set -eu
tree=$1
kit=$2
shift 2

# The tree may come from a stranger's image: a link here would lead the mounts below out of it.
for directory in dev etc proc run tmp run/berth-build; do
    if [ -L "$tree/$directory" ]; then
        echo "/$directory of the base is a symbolic link" >&2
        exit 1
    fi
    mkdir -p "$tree/$directory"
done

mount -t proc proc "$tree/proc"
mount -t tmpfs -o mode=755 tmpfs "$tree/dev"
for device in null zero full random urandom tty; do
    : >"$tree/dev/$device"
    mount --bind "/dev/$device" "$tree/dev/$device"
done
mkdir -m 1777 "$tree/dev/shm"
ln -s /proc/self/fd "$tree/dev/fd"
ln -s /proc/self/fd/0 "$tree/dev/stdin"
ln -s /proc/self/fd/1 "$tree/dev/stdout"
ln -s /proc/self/fd/2 "$tree/dev/stderr"
for file in resolv.conf hosts; do
    # Empty in the image: Apptainer puts the node's own over them.
    rm -f "$tree/etc/$file"
    : >"$tree/etc/$file"
    mount --bind "/etc/$file" "$tree/etc/$file"
done
mount --bind "$kit" "$tree/run/berth-build"
exec chroot "$tree" "$@"
