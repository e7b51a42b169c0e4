#!/bin/sh
# resolve-pip.sh own|new REQUIREMENT...: write pip's report of what pip.sh would install to the kit; install nothing.
#   own: into the /opt/venv that the tree has. new: into a fresh one, whatever the tree's has already.
# Runs as root of the tree.
set -eu
venv=/opt/venv
if [ "$1" = new ]; then
    venv=/tmp/berth-venv
    python3 -m venv --system-site-packages "$venv" >&2
fi
shift
exec "$venv/bin/pip" install --dry-run --quiet --no-cache-dir --disable-pip-version-check \
    --report /run/berth-build/pip-report.json -- "$@"
