# shellcheck shell=bash
# The lab's layer with programs of others, as peers in tests: clients of registries, and a writer of inventories.
set -euo pipefail
apt-get update -q
apt-get install -y -q --no-install-recommends skopeo oras cosign
apt-get clean
rm -rf /var/lib/apt/lists/*
python3 -m venv /opt/peers
/opt/peers/bin/pip install --no-deps --require-hashes -r "$INPUTS/peers-requirements.txt"
ln -s /opt/peers/bin/syft /usr/local/bin/syft
