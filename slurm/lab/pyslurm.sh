# shellcheck shell=bash
# The layer with pyslurm, for pyslurm's last release and a Slurm that is one release ahead of it.
#
# pyslurm's build compares nothing but the number in the version header, and newer Slurm ships wrappers of older calls behind
# SLURM_BACKWARD_COMPAT; so it is built against a copy of the headers that says what it wants to read.
set -euo pipefail
release=$(sed -n 's/^pyslurm==\([0-9.]*\).*/\1/p' "$INPUTS/pyslurm-requirements.txt")
IFS=. read -r major minor micro <<<"$release"

mkdir /tmp/headers
cp -r /usr/include/slurm /tmp/headers/
sed -i "s/^#define SLURM_VERSION_NUMBER .*/#define SLURM_VERSION_NUMBER $(printf '0x%02x%02x%02x' "$major" "$minor" "$micro")/" \
  /tmp/headers/slurm/slurm_version.h

python3 -m venv /tmp/venv
grep -v -e "^pyslurm" -e "^#" "$INPUTS/pyslurm-requirements.txt" >/tmp/build.txt
grep '^pyslurm' "$INPUTS/pyslurm-requirements.txt" >/tmp/pyslurm.txt
/tmp/venv/bin/pip install --require-hashes -r /tmp/build.txt

# The number behind ESLURM_ERROR_ON_DESC_TO_RECORD_COPY is that of the older release: newer headers dropped the name.
export CFLAGS="-O0 -g0 -DSLURM_BACKWARD_COMPAT -Dslurm_free_ctl_conf=slurm_free_conf
  -DESLURM_ERROR_ON_DESC_TO_RECORD_COPY=2055 -Wno-incompatible-pointer-types"
CFLAGS=$(echo "$CFLAGS" | tr '\n' ' ')
export SLURM_INCLUDE_DIR=/tmp/headers SLURM_LIB_DIR PYSLURM_BUILD_JOBS
SLURM_LIB_DIR=/usr/lib/$(gcc -print-multiarch)
PYSLURM_BUILD_JOBS=$(nproc)
PATH=/tmp/venv/bin:$PATH pip wheel --no-deps --no-build-isolation --require-hashes -r /tmp/pyslurm.txt -w /opt/wheels
/tmp/venv/bin/pip install --no-deps --no-index --target /opt/pyslurm /opt/wheels/pyslurm-*.whl
PYTHONPATH=/opt/pyslurm PYSLURM_DISABLE_AUTO_INIT=1 python3 -c 'import pyslurm'
