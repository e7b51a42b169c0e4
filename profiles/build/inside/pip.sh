#!/bin/sh
# pip.sh REQUIREMENT...: install Python packages into /opt/venv, which sees Debian's own packages too.
set -eu
[ -x /opt/venv/bin/pip ] || python3 -m venv --system-site-packages /opt/venv
exec /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --progress-bar off -- "$@"
