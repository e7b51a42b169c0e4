"""The daemons of the cluster: their nodes, how each is started, and how to test that it serves."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab import cgroups, conf
from slurm.lab.commands import run_tool
from slurm.lab.enter import ROOT_PATH, exec_argv, nsenter
from slurm.lab.errors import LabError
from slurm.lab.processes import init_pid, is_port_open, node_processes
from slurm.lab.progress import wait_until
from slurm.lab.spec import COMPUTE, LOGIN, NODES

if TYPE_CHECKING:
    from slurm.lab.paths import LabPaths


PROBE_TIMEOUT_S = 15
START_TIMEOUT_S = 5
"""Seconds until a started daemon must be a process of its name."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that stays in the foreground and logs to standard error."""

    name: str
    """Also its command name as the kernel shows it."""
    nodes: tuple[str, ...]
    user: str
    argv: tuple[str, ...]
    port: int | None = None
    """The TCP port that it listens on when it serves."""
    socket: str = ""
    """Or the Unix socket."""
    directories: tuple[str, ...] = ()
    """The directories in /run that it needs, made for its user."""
    probe: tuple[str, ...] = ()
    """A command that succeeds once it also answers."""


DAEMONS = (
    Daemon(
        "munged", NODES, "munge",
        ("munged", "--foreground", "--num-threads=2", "--log-file=/run/munge/munged.log"),
        socket="/run/munge/munge.socket.2", directories=("/run/munge",),
    ),
    Daemon(
        "mariadbd", (LOGIN,), "slurm", ("mariadbd", "--defaults-file=/etc/slurm/mariadb.conf"),
        socket=conf.DATABASE_SOCKET, directories=("/run/mariadbd",),
    ),
    # slurmdbd.conf(5) names no socket, and the default of the client library is not the same in all releases of Debian.
    Daemon(
        "slurmdbd", (LOGIN,), "slurm", ("env", f"MYSQL_UNIX_PORT={conf.DATABASE_SOCKET}", "slurmdbd", "-D"),
        port=6819, directories=("/run/slurm",),
        probe=("sacctmgr", "--noheader", "show", "cluster"),
    ),
    # -i: slurmctld writes the use of each account for the first time after five minutes, and after a SIGKILL before
    # that it would refuse to start for want of it.
    Daemon(
        "slurmctld", (LOGIN,), "slurm", ("slurmctld", "-D", "-i"), port=6817, directories=("/run/slurm",),
        probe=("scontrol", "ping"),
    ),
    Daemon("slurmd", COMPUTE, "root", ("slurmd", "-D"), port=6818),
    Daemon("sshd", (LOGIN,), "root", ("/usr/sbin/sshd", "-D", "-e"), port=22, directories=("/run/sshd",)),
)  # fmt: skip


def daemon_named(name: str, node: str) -> Daemon:
    """Return the daemon called `name`. LabError if there is none or it does not run on `node`."""
    for daemon in DAEMONS:
        if daemon.name == name and node in daemon.nodes:
            return daemon
    offered = [daemon.name for daemon in DAEMONS if node in daemon.nodes]
    raise LabError(f"no daemon {name!r} on {node}", hint=f"there are {', '.join(offered)}")


def start_daemon(place: LabPaths, node: str, daemon: Daemon) -> None:
    """Start a daemon and return at once; `wait_for_daemon` waits until it serves."""
    pid = _init(place, node)
    prepare = "umask 022; " + "".join(f"install -d -o {daemon.user} {path}; " for path in daemon.directories)
    # In the node's cgroups, so that what it uses counts as the node's, and adopted by the node's init.
    join = "".join(f"echo $$ >{path}/cgroup.procs; " for path in _own_cgroups(place, node))
    inside = f'{prepare}exec setsid --fork setpriv --reuid={daemon.user} --regid={daemon.user} --init-groups -- "$@"'
    with place.log(node, daemon.name).open("a") as log:
        subprocess.run(
            ["sh", "-ec", f"{join}exec \"$@\"", "join", *nsenter(pid), "sh", "-ec", inside, daemon.name, *daemon.argv],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, timeout=20, env={"PATH": ROOT_PATH},
        )  # fmt: skip


def is_listening(place: LabPaths, node: str, daemon: Daemon) -> bool:
    """Whether the daemon runs and listens. A stopped process still counts: the kernel accepts connections for it."""
    pid = init_pid(place, node)
    if pid is None or daemon_pid(place, node, daemon) is None:
        return False
    if daemon.socket:
        return _accepts(f"/proc/{pid}/root{daemon.socket}")
    return daemon.port is None or is_port_open(pid, daemon.port)


def is_answering(place: LabPaths, node: str, daemon: Daemon) -> bool:
    """Whether the daemon listens and its probe, if it has one, succeeds."""
    if not is_listening(place, node, daemon):
        return False
    if not daemon.probe:
        return True
    try:
        run_tool(exec_argv(node, daemon.probe, lab=place), seconds=PROBE_TIMEOUT_S)
    except LabError:
        return False
    return True


def wait_for_daemon(place: LabPaths, node: str, daemon: Daemon, *, seconds: float = 120) -> None:
    """Return once the daemon answers; LabError if it ends or after `seconds`."""
    log = place.log(node, daemon.name)
    seen, since = False, time.monotonic()

    def done() -> bool:
        nonlocal seen
        runs = daemon_pid(place, node, daemon) is not None
        if not runs and (seen or time.monotonic() - since > START_TIMEOUT_S):
            raise LabError(f"{daemon.name} on {node} ended", log=log, hint="the end of the log says why")
        seen = runs
        return is_answering(place, node, daemon)

    wait_until(done, seconds=seconds, what=f"{daemon.name} on {node} does not serve", log=log)


def stop_daemon(place: LabPaths, node: str, daemon: Daemon, *, seconds: float = 10) -> None:
    """Ask the daemon to end, so that it can save its state; return when it is gone."""
    pid = daemon_pid(place, node, daemon)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        path = Path(f"/proc/{pid}")
        wait_until(lambda: not path.exists(), seconds=seconds, what=f"the end of {daemon.name}")


def kill_daemon(place: LabPaths, node: str, daemon: Daemon) -> None:
    """Kill the daemon if it runs, stopped or not, and return when it is gone."""
    while (pid := daemon_pid(place, node, daemon)) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        path = Path(f"/proc/{pid}")
        wait_until(lambda: not path.exists(), seconds=10, what=f"the end of {daemon.name}")  # noqa: B023 - run at once


def daemon_pid(place: LabPaths, node: str, daemon: Daemon) -> int | None:
    """Return the process id on the machine of the process that the node's init adopted. None if it does not run.

    After `scontrol reconfigure`, slurmctld and slurmd have the names of their files, which Debian calls `…-wlm`.
    """
    pid = init_pid(place, node)
    if pid is None:
        return None
    for candidate, name in node_processes(pid).items():
        if name in {daemon.name, f"{daemon.name}-wlm"} and _parent(candidate) == pid:
            return candidate
    return None


def _own_cgroups(place: LabPaths, node: str) -> list[Path]:
    groups = cgroups.existing_cgroups(place.cgroup(node))
    return [path / "init" if (path / "init").is_dir() else path for path in groups]


def _accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _init(place: LabPaths, node: str) -> int:
    pid = init_pid(place, node)
    if pid is None:
        raise LabError(f"node {node} is not up", hint=f"python3 -m slurm.lab node {node} up --name {place.name}")
    return pid
