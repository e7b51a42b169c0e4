#!/bin/sh
# files.sh: put the kit's files where its list says. Each line is MODE and DESTINATION; file N belongs to line N.
# Runs as root of the tree, so no link in it leads out.
set -eu
number=0
while read -r mode destination; do
    number=$((number + 1))
    install -D -m "$mode" -- "/run/berth-build/files/$number" "$destination"
done </run/berth-build/files/list
