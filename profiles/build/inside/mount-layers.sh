#!/bin/sh
# mount-layers.sh STACK TREE COMMAND...: mount the layers of STACK at TREE, and run COMMAND. STACK has the links 1, 2, …,
# the oldest layer first, and `upper` and `work`. The names are short because mount(2) takes one page of options. Runs as
# root of the mount and PID namespaces that it was started in. The environment passes through.
set -eu
stack=$1
tree=$2
shift 2
cd "$stack"
number=1
layers=
while [ -e "$number" ]; do
    layers=$number${layers:+:$layers}
    number=$((number + 1))
done
# LIBMOUNT_FORCE_MOUNT2: fsconfig(2), which newer mount(8) prefer, takes no more than 256 bytes.
LIBMOUNT_FORCE_MOUNT2=always mount -t overlay -o "userxattr,lowerdir=$layers,upperdir=upper,workdir=work" overlay "$tree"
cd /
exec "$@"
