"""The root file system of all nodes: a Debian, made once for each recipe and never changed afterwards."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from slurm.lab.cache import cached_tree, digest_of
from slurm.lab.commands import run_tool
from slurm.lab.releases import RELEASES, SID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slurm.lab.progress import ProgressLog

DATADIR = "/var/lib/slurm/mariadb"

CUSTOMIZE = f"""
set -eu
cd "$1"
chroot . mkdir -p /shared {DATADIR} /var/lib/slurm/slurmctld /var/spool/slurmd /run/sshd /etc/slurm
chroot . chown -R slurm:slurm /var/lib/slurm
chroot . mariadb-install-db --user=slurm --datadir={DATADIR} --innodb-log-file-size=8M \\
  --skip-test-db --skip-name-resolve --auth-root-authentication-method=socket --auth-root-socket-user=slurm >/dev/null
# Made here, not by slurmdbd: after a connection that failed (no such database), MariaDB's client library 11.8.9 forgets
# a default and refuses every result ("Number of columns ... allowed number of columns (=0)").
echo 'CREATE DATABASE slurm_acct_db;' |
  chroot . mariadbd --bootstrap --user=slurm --datadir={DATADIR} --innodb-log-file-size=8M
rm -f etc/munge/munge.key etc/ssh/ssh_host_*_key* etc/hostname
touch etc/resolv.conf etc/hosts
"""

OPTIONS = (
    "--variant=apt",
    "--mode=root",
    # A mirror may serve a release file past its date.
    '--aptopt=Acquire::Check-Valid-Until "false"',
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)


IN_NAMESPACES = ("unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
"""In namespaces of its own: an interrupted mmdebstrap leaves neither processes nor mounts over what is deleted then."""


def node_root(cache: Path, progress: ProgressLog, suite: str = SID) -> Path:
    """Return the root's directory, made first if the cache has none of this recipe (sid: about 40 s and 0.8 GB)."""
    name = "root" if suite == SID else f"root-{suite}"
    return debian_tree(cache, name, RELEASES[suite].packages, CUSTOMIZE, progress, suite=suite)


def tree_key(packages: Sequence[str], customize: str, suite: str = SID) -> str:
    """Return a key that changes with every argument of `debian_tree`, but not with the state of the Debian archive."""
    return digest_of([suite, platform.machine(), *packages, *OPTIONS, customize])


def debian_tree(
    cache: Path, name: str, packages: Sequence[str], customize: str, progress: ProgressLog, *, suite: str = SID
) -> Path:
    """Return a directory with a Debian of these packages, made first if the cache has none.

    `customize` is a shell script; it runs after the installation, with the new tree as its first argument.
    """

    def make(work: Path) -> None:
        log = cache / f"{name}.log"
        log.unlink(missing_ok=True)
        progress.say(f"making the {name} file system with mmdebstrap (once, less than a minute; log: {log})")
        hook = work / "customize.sh"
        hook.write_text(customize)
        tree = work / "tree"
        run_tool(
            [
                *IN_NAMESPACES, "mmdebstrap", *OPTIONS, f"--include={','.join(packages)}",
                f'--customize-hook=sh {hook} "$1"',
                suite, str(tree),
            ],
            seconds=900,
            log=log,
            hint="see the log; a mirror that cannot be reached is the usual cause",
            env={"PATH": os.environ["PATH"], "TMPDIR": str(work), **_proxies()},
        )  # fmt: skip
        tree.chmod(0o755)
        progress.say(f"{name} file system made")

    return cached_tree(cache, name, tree_key(packages, customize, suite), make, progress)


def _proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
