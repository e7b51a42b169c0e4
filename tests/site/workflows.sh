# shellcheck shell=bash
# The layer with Snakemake and its executor for Slurm, for one long test, which copies /opt/workflows to where it submits from:
# no node of a lab has it.
set -euo pipefail
python3 -m venv /opt/workflows
/opt/workflows/bin/pip install --no-deps --require-hashes -r "$INPUTS/requirements-workflows.lock"
/opt/workflows/bin/python -m compileall -q /opt/workflows/lib
