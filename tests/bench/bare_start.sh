#!/bin/bash
# What somebody without Berth does by hand: a host key, a batch job with sshd in the image, ssh once it listens.
#
#   bare_start.sh DIRECTORY IMAGE [COMMAND…]    DIRECTORY is made; it must lie on the shared file system
#
# The job's number stays in DIRECTORY/job. Without COMMAND it says so when sshd answers, and that is all.
set -euo pipefail

dir=$1 image=$2
shift 2

mkdir -m 700 "$dir"
ssh-keygen -q -t ed25519 -N '' -f "$dir/host_key"
sbatch --parsable --mem=1G --output="$dir/log" "${0%/*}/bare_job.sh" "$dir" "$image" >"$dir/job"
# The port is known before sshd has it, so: look until it is written down, then until somebody answers there.
until [[ -s $dir/endpoint ]]; do sleep 0.1; done
read -r node port <"$dir/endpoint"
until (: <"/dev/tcp/$node/$port") 2>/dev/null; do sleep 0.1; done
[[ $# -gt 0 ]] || exec echo "answers"
echo "bare-session $(<"$dir/host_key.pub")" >"$dir/known_hosts"
exec ssh -F ~/bench/ssh_config -o "HostKeyAlias=bare-session" -o "UserKnownHostsFile=$dir/known_hosts" -p "$port" "$node" "$@"
