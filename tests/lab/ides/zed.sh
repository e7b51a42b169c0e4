# shellcheck shell=bash disable=SC2016,SC2086,SC2029,SC2154 # a part of a script: tests/lab/ways.py has the beginning
# What Zed does: one master connection, the server's binary by sftp or scp over it, and a proxy that speaks on standard
# input and output for as long as the window is open.
"${SSH[@]}" -N -M -S $ROOM/mux -o ControlPersist=no $HOST >/dev/null 2>log & master=$!
trap 'kill $master' EXIT
eventually test -S $ROOM/mux
over() { command ssh -F $CONFIG -S $ROOM/mux -o ControlMaster=no "$@"; }
over -n $HOST 'uname -sm; mkdir -p .ide-bin'
printf '#!/bin/sh\nwhile read -r line; do echo "answer to $line"; done\n' >server
scp -q -F $CONFIG -o ControlPath=$ROOM/mux server $HOST:.ide-bin/server
over -n $HOST 'chmod +x .ide-bin/server'
seq 1 1000 | over -T $HOST '.ide-bin/server' | tail -1
over -n $HOST 'rm -r .ide-bin'
