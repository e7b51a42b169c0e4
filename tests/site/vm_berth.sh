# shellcheck shell=bash
# The guest's layer with Berth: the quickstart's commands, in a copy of the checkout. The dependencies are there already.
set -euo pipefail
cp -r "$INPUTS/checkout" /tmp/checkout
cd /tmp/checkout
bash -euo pipefail "$INPUTS/install.sh"
