"""Check the machine before anything is begun, with one clear message for each missing part."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab import cgroups
from slurm.lab.commands import run_tool
from slurm.lab.errors import LabError

if TYPE_CHECKING:
    from slurm.lab.paths import LabPaths
    from slurm.lab.progress import ProgressLog

GIB = 1 << 30
MIN_FREE_GIB = 6.0

HOST_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
    "mount": "mount",
}
"""The programs that the lab runs on the machine itself, and their Debian packages."""


def check_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab needs root: it makes namespaces, mounts and control groups", hint="run it with sudo")


def check_host(place: LabPaths, cache: Path, progress: ProgressLog, *, free_gib: float = MIN_FREE_GIB) -> None:
    """Raise LabError for the first missing part. Programs that Debian has are installed."""
    check_root()
    check_disk([place.state, cache], free_gib)
    cgroups.hierarchies()
    _check_namespaces()
    _check_overlay(place)
    _install_programs(progress)


def check_disk(paths: list[Path], free_gib: float) -> None:
    for path in paths:
        existing = next(each for each in (path, *path.parents) if each.exists())
        free = shutil.disk_usage(existing).free / GIB
        if free < free_gib:
            raise LabError(
                f"{existing} has {free:.1f} GiB of free disk space, and the lab needs {free_gib:g}",
                hint="make room, or choose other directories with --state and --cache",
            )


def _check_namespaces() -> None:
    kinds = ("mnt", "net", "pid", "uts", "ipc", "cgroup", "user")
    missing = [kind for kind in kinds if not Path(f"/proc/self/ns/{kind}").exists()]
    if missing:
        raise LabError(f"the kernel has no namespaces of kind {', '.join(missing)}", hint="another kernel is needed")
    argv = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode != 0:
        raise LabError(
            f"namespaces cannot be made here: {done.stderr.strip()}", hint="in a container, run it privileged"
        )


def _check_overlay(place: LabPaths) -> None:
    """Mount a small overlay where the nodes' own will be: not every file system supports one."""
    parent = next(each for each in (place.state, *place.state.parents) if each.exists())
    with tempfile.TemporaryDirectory(dir=parent, prefix=".slurmlab-probe-") as probe:
        script = 'cd "$0"; mkdir l u w m; mount -t overlay overlay -o volatile,lowerdir=l,upperdir=u,workdir=w m'
        argv = ["unshare", "--mount", "sh", "-ec", script, probe]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode != 0:
        raise LabError(
            f"overlayfs cannot be mounted below {parent}: {done.stderr.strip()}",
            hint="choose a --state directory on ext4, XFS or btrfs; the kernel needs overlayfs (5.10 or newer)",
        )


def _install_programs(progress: ProgressLog) -> None:
    missing = sorted({package for program, package in HOST_PROGRAMS.items() if shutil.which(program) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise LabError(f"{', '.join(missing)} are not installed", hint="install them; on Debian it is done for you")
    progress.say(f"installing {', '.join(missing)} with apt-get")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    hint = f"apt-get install {' '.join(missing)}"
    run_tool(["apt-get", "update", "-q"], seconds=300, env=env, hint=hint)
    run_tool(["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], seconds=600, env=env, hint=hint)
