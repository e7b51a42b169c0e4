"""The lab's processes as the machine sees them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab import cgroups, network
from slurm.lab.errors import LabError
from slurm.lab.spec import NODES

if TYPE_CHECKING:
    from slurm.lab.paths import LabPaths

PROC = Path("/proc")


def init_pid(place: LabPaths, node: str) -> int | None:
    """Return the machine's process id of the node's PID 1; None if the node is down.

    The number in the state directory counts only while that process leads a pid namespace of its own and is in the
    node's network namespace: numbers are used again.
    """
    try:
        pid = int((place.node_dir(node) / "init.pid").read_text())
        alive = _inside_pid(pid) == 1 and _same_netns(pid, network.NAMESPACES / place.netns(node))
    except (OSError, ValueError):
        return None
    return pid if alive else None


def node_processes(pid: int) -> dict[int, str]:
    """Return the processes in the pid namespace whose init is `pid`: process id on the machine → command name."""
    space = (PROC / str(pid) / "ns/pid").readlink()
    found = {}
    for entry in _all_pids():
        with contextlib.suppress(OSError):
            if (PROC / str(entry) / "ns/pid").readlink() == space:
                found[entry] = (PROC / str(entry) / "comm").read_text().strip()
    return found


def lab_processes(place: LabPaths) -> set[int]:
    """Return every process that holds a resource of the lab: a cgroup, a network namespace, a node's pid namespace."""
    pids = cgroups.cgroup_processes(cgroups.existing_cgroups(place.cgroup("*")))
    spaces = {path.stat().st_ino for path in network.existing_namespaces(place)}
    roots = {pid for node in NODES if (pid := init_pid(place, node)) is not None}
    for root in roots:
        pids.update(node_processes(root))
    for pid in _all_pids():
        with contextlib.suppress(OSError):
            if (PROC / str(pid) / "ns/net").stat().st_ino in spaces:
                pids.add(pid)
    return pids - {os.getpid()}


def kill_all(place: LabPaths, *, seconds: float = 15) -> None:
    """Kill every process of the lab and return when none is left."""
    deadline = time.monotonic() + seconds
    while pids := {pid for pid in lab_processes(place) if not _is_zombie(pid)}:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise LabError(f"processes {sorted(pids)} do not end", hint="see /proc/<pid>/stack: the kernel holds them")
        time.sleep(0.02)


def is_port_open(pid: int, port: int) -> bool:
    """Whether a process listens on TCP `port` in the network namespace of `pid`."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (PROC / str(pid) / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    return True
    return False


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def _inside_pid(pid: int) -> int:
    """Return the process id in the process's own, innermost pid namespace."""
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return 0


def _same_netns(pid: int, path: Path) -> bool:
    return (PROC / str(pid) / "ns/net").stat().st_ino == path.stat().st_ino


def _is_zombie(pid: int) -> bool:
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
