#!/bin/bash
# The batch job of bare_start.sh: sshd in the image, as the user.
#
#   sbatch … bare_job.sh DIRECTORY IMAGE
set -euo pipefail

dir=$1 image=$2
port=$((20000 + RANDOM % 12000))

cat >"$dir/sshd_config" <<END
HostKey $dir/host_key
AuthorizedKeysFile $HOME/.ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
PidFile none
END
echo "$SLURMD_NODENAME $port" >"$dir/endpoint.new"
mv "$dir/endpoint.new" "$dir/endpoint" # a reader sees a whole line or none
exec apptainer exec "$image" /usr/sbin/sshd -D -e -f "$dir/sshd_config" -p "$port"
