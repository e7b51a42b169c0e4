# shellcheck shell=bash
# The guest's layer with what Berth needs from PyPI: it changes with requirements.lock alone.
set -euo pipefail
python3 -m venv /opt/berth
/opt/berth/bin/pip install --require-hashes -r "$INPUTS/requirements.lock"
