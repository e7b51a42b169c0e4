"""A node: node.sh boots it, and killing its init ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from slurm.lab import cgroups, network
from slurm.lab.errors import LabError
from slurm.lab.layers import lowerdir
from slurm.lab.processes import init_pid
from slurm.lab.progress import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm.lab.paths import LabPaths
    from slurm.lab.spec import LabSpec

NODE_SH = Path(__file__).with_name("node.sh")


def boot_nodes(place: LabPaths, spec: LabSpec, nodes: Sequence[str], lower: Sequence[Path]) -> None:
    """Start these nodes, all at once, and return when each has its root in place and its init runs.

    `lower` are their read-only trees, the lowest first.
    """
    made = [(node, cgroups.create_cgroups(place.cgroup(node))) for node in nodes]
    booting = [(node, groups, _start(place, spec, node, lower, groups)) for node, groups in made]
    for node, groups, reader in booting:
        log = place.log(node, "boot")
        with reader:
            if reader.readline().strip() != b"ready":
                raise LabError(f"node {node} does not boot", log=log, hint="the end of the log says why")
        for path, controllers in groups:
            if controllers == "unified":
                cgroups.delegate_controllers(path)
        wait_until(partial(_is_up, place, node), seconds=5, what=f"init of {node}", log=log)


def _is_up(place: LabPaths, node: str) -> bool:
    return init_pid(place, node) is not None


def _start(
    place: LabPaths, spec: LabSpec, node: str, lower: Sequence[Path], groups: Sequence[tuple[Path, str]]
) -> BinaryIO:
    """Begin to boot. The returned file has `ready` at the end of the boot, or ends after a failure."""
    directory = place.node_dir(node)
    directory.mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()
    with place.log(node, "boot").open("a") as sink:
        subprocess.Popen(
            ["bash", str(NODE_SH)],
            stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, pass_fds=(write_end,), start_new_session=True, cwd="/",
            env={
                "PATH": os.environ["PATH"],
                "READY": str(write_end),
                "NODE": node,
                "NETNS": str(network.NAMESPACES / place.netns(node)),
                "DIR": str(directory),
                "LOWER": lowerdir([*lower, place.site]),
                "SHARED": str(place.shared),
                "CGROUPS": "\n".join(f"{path} {controllers}" for path, controllers in groups),
                "BINDS": "\n".join(f"{b.source}\t{b.target}\t{'ro' if b.read_only else 'rw'}" for b in spec.binds),
            },
        )  # fmt: skip
    os.close(write_end)
    return os.fdopen(read_end, "rb")


def power_off(place: LabPaths, node: str) -> None:
    """End the node at once, as if its plug was pulled, and with it every process in it."""
    pid = init_pid(place, node)
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: init_pid(place, node) is None, seconds=15, what=f"the end of {node}")
