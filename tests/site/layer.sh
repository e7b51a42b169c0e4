# shellcheck shell=bash
# The lab's layer with Berth's dependencies, as a site would install them: a virtual environment from the lock file, with hashes, and
# pyslurm's wheel built against the cluster's own Slurm. Berth itself is bound from the checkout: /opt/berth/src.
set -euo pipefail
python3 -m venv /opt/berth/venv
/opt/berth/venv/bin/pip install --no-deps --require-hashes -r "$INPUTS/requirements.lock"
/opt/berth/venv/bin/pip install --no-deps --no-index /opt/wheels/pyslurm-*.whl
site=$(/opt/berth/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo /opt/berth/src >"$site/berth.pth"
for program in berth-cli:broker.cli berth-launcher:broker.launcher.server; do
  cat >"/usr/local/bin/${program%%:*}" <<SCRIPT
#!/opt/berth/venv/bin/python -P
from ${program##*:} import main
raise SystemExit(main())
SCRIPT
  chmod 755 "/usr/local/bin/${program%%:*}"
done
ln -s /opt/berth/src/broker/cli/berth /usr/local/bin/berth
/opt/berth/venv/bin/python -m compileall -q /opt/berth/venv/lib
