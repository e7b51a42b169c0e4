"""The nodes' control groups on the machine, for cgroup v1 and v2."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from slurm.lab.errors import LabError

V1_CONTROLLERS = ("devices", "memory", "freezer", "cpuset", "cpu", "cpuacct")
"""The controllers of Slurm's cgroup/v1 plugins."""

V2_CONTROLLERS = ("memory", "cpuset", "cpu")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted cgroup file system; `controllers` is `unified` for cgroup v2."""

    mount: Path
    controllers: str


def hierarchies(mountinfo: Path = Path("/proc/self/mountinfo")) -> tuple[Hierarchy, ...]:
    """Return the hierarchies that Slurm will use: the unified one if it has the memory controller, else those of cgroup
    v1.

    Raises LabError with the controllers that the kernel does not offer.
    """
    v1: dict[str, Hierarchy] = {}
    for line in mountinfo.read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ")[:3]
        mount = Path(left.split(" ")[4])
        if kind == "cgroup2":
            offered = (mount / "cgroup.controllers").read_text().split()
            if all(name in offered for name in V2_CONTROLLERS):
                return (Hierarchy(mount, "unified"),)
        if kind == "cgroup":
            names = [name for name in options.split(",") if name in V1_CONTROLLERS]
            # Keyed by name: a hierarchy may be mounted at several places.
            v1.update({name: Hierarchy(mount, ",".join(names)) for name in names})
    missing = [name for name in V1_CONTROLLERS if name not in v1]
    if missing:
        raise LabError(
            f"the kernel offers no cgroup controllers {', '.join(missing)}",
            hint="mount cgroup v2, or cgroup v1 with these controllers; in a container, run it privileged",
        )
    return tuple(dict.fromkeys(v1.values()))


def create_cgroups(name: str) -> list[tuple[Path, str]]:
    """Make the cgroup `name` in every hierarchy. Return the directories with their hierarchy's controllers."""
    made = []
    for hierarchy in hierarchies():
        path = hierarchy.mount / name
        if hierarchy.controllers == "unified":
            _enable_for_children(hierarchy.mount)
        path.mkdir(exist_ok=True)
        if "cpuset" in hierarchy.controllers.split(","):
            for file in ("cpuset.cpus", "cpuset.mems"):
                (path / file).write_text((hierarchy.mount / file).read_text())
            (path / "cgroup.clone_children").write_text("1")
        made.append((path, hierarchy.controllers))
    return made


def delegate_controllers(path: Path) -> None:
    """Give the children of a cgroup v2 all its controllers.

    A cgroup may have either processes or children with controllers. So its processes move to the leaf `init`.
    """
    leaf = path / "init"
    leaf.mkdir(exist_ok=True)
    while pids := (path / "cgroup.procs").read_text().split():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(pid)
    _enable_for_children(path)


def _enable_for_children(path: Path) -> None:
    for name in (path / "cgroup.controllers").read_text().split():
        try:
            (path / "cgroup.subtree_control").write_text(f"+{name}")
        except OSError as error:
            if name in V2_CONTROLLERS:
                raise LabError(f"{path} does not hand its controller {name} down: {error.strerror}") from error


def existing_cgroups(pattern: str) -> list[Path]:
    """Return the cgroups of this name pattern in all hierarchies below /sys/fs/cgroup."""
    top = Path("/sys/fs/cgroup")
    return sorted({*top.glob(pattern), *top.glob(f"*/{pattern}")})


def cgroup_processes(paths: list[Path]) -> set[int]:
    """Return the machine's process ids of the processes in these cgroups and below."""
    pids: set[int] = set()
    for path in paths:
        for file in path.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                pids.update(int(pid) for pid in file.read_text().split())
    return pids


def remove_cgroups(paths: list[Path], *, seconds: float = 10) -> None:
    """Remove these cgroups with all below them; the last exits may take the kernel a moment."""
    deadline = time.monotonic() + seconds
    for path in paths:
        while path.exists():
            for directory, _, _ in os.walk(path, topdown=False):
                with contextlib.suppress(OSError):
                    Path(directory).rmdir()
            if path.exists():
                if time.monotonic() > deadline:
                    raise LabError(f"cgroup {path} cannot be removed", hint=f"see the processes in {path}/cgroup.procs")
                time.sleep(0.02)
