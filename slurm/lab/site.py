"""The lab's own /etc, written once by `up`: a read-only layer over the root and all other layers."""

from __future__ import annotations

import os
import secrets
import shutil
from typing import TYPE_CHECKING

from slurm.lab import cgroups, conf, host_settings
from slurm.lab.commands import run_tool
from slurm.lab.spec import ADDRESSES, FIRST_UID, LOGIN, SUBIDS, LabAccount

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slurm.lab.paths import LabPaths
    from slurm.lab.spec import LabSpec

FIRST_SUBID = 200_000


def write_site(place: LabPaths, spec: LabSpec, lower: Sequence[Path]) -> None:
    """Write the site layer and the users' homes. `lower` are the trees below it, the lowest first."""
    etc = place.site / "etc"
    for directory in ("slurm", "munge", "ssh", "sudoers.d", "my.cnf.d"):
        (etc / directory).mkdir(parents=True, exist_ok=True)
    host_settings.write_host_settings(place.site)
    with (etc / "hosts").open("a") as hosts:
        hosts.writelines(f"{address} {node}\n" for node, address in ADDRESSES.items())
    write_accounts(etc, spec.accounts, lower)
    _write_slurm(etc, spec)
    _write_secrets(etc)
    for account in spec.accounts:
        shared = account.home.startswith("/shared/")
        _make_home(place.state / account.home[1:] if shared else place.site / account.home[1:], account, lower)


def _write_slurm(etc: Path, spec: LabSpec) -> None:
    ids = _ids(etc, "slurm")
    unified = any(each.controllers == "unified" for each in cgroups.hierarchies())
    texts = {
        "slurm/slurm.conf": conf.slurm_conf(spec),
        "slurm/gres.conf": conf.gres_conf(),
        "slurm/cgroup.conf": conf.cgroup_conf(unified=unified),
        "slurm/slurmdbd.conf": conf.slurmdbd_conf(),
        "slurm/mariadb.conf": conf.mariadb_conf(),
        "ssh/sshd_config": conf.sshd_config(),
    }
    for name, text in texts.items():
        (etc / name).write_text(text)
    (etc / "slurm/slurmdbd.conf").chmod(0o600)
    os.chown(etc / "slurm/slurmdbd.conf", *ids)


def _write_secrets(etc: Path) -> None:
    key = etc / "munge/munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    ids = _ids(etc, "munge")
    (etc / "munge").chmod(0o700)
    for path in (etc / "munge", key):
        os.chown(path, *ids)
    host_key = etc / "ssh/ssh_host_ed25519_key"
    host_key.unlink(missing_ok=True)
    run_tool(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", LOGIN, "-f", str(host_key)])


def write_accounts(etc: Path, accounts: Sequence[LabAccount], lower: Sequence[Path]) -> None:
    """Write passwd and its companions: the content of the topmost layer that has them, and the lab's accounts."""
    lines = {
        "passwd": "".join(f"{a.name}:x:{a.uid}:{a.uid}:{a.name}:{a.home}:{a.shell}\n" for a in accounts),
        "group": "".join(f"{a.name}:x:{a.uid}:\n" for a in accounts),
        # `*`, not `!`: no password, and sshd lets keys in.
        "shadow": "".join(f"{a.name}:*:19000:0:99999:7:::\n" for a in accounts),
    }
    people = [a for a in accounts if a.uid >= FIRST_UID]
    ranges = "".join(f"{a.name}:{FIRST_SUBID + index * SUBIDS}:{SUBIDS}\n" for index, a in enumerate(people))
    for name, added in lines.items():
        source = topmost(lower, f"etc/{name}")
        shutil.copy2(source, etc / name)
        status = source.stat()
        os.chown(etc / name, status.st_uid, status.st_gid)
        with (etc / name).open("a") as file:
            file.write(added)
    for name in ("subuid", "subgid"):
        (etc / name).write_text(ranges)


def topmost(lower: Sequence[Path], name: str) -> Path:
    """Return the file that the overlay of `lower` shows."""
    return next(path / name for path in reversed(lower) if (path / name).exists())


def _make_home(home: Path, account: LabAccount, lower: Sequence[Path]) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    if not home.exists():
        skeleton = topmost(lower, "etc/skel")
        shutil.copytree(skeleton, home, symlinks=True)
        for path in (home, *home.rglob("*")):
            os.chown(path, account.uid, account.uid, follow_symlinks=False)
    home.chmod(0o700)


def _ids(etc: Path, user: str) -> tuple[int, int]:
    fields = next(line for line in (etc / "passwd").read_text().splitlines() if line.startswith(f"{user}:")).split(":")
    return int(fields[2]), int(fields[3])
