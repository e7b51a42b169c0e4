"""The daemons of the cluster: where each runs, how it is started, how one knows that it serves."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab import cgroups, conf
from slurm.lab.enter import ROOT_PATH, nsenter
from slurm.lab.errors import LabError
from slurm.lab.processes import init_pid, listens, of_node
from slurm.lab.progress import wait_until
from slurm.lab.spec import COMPUTE, LOGIN, NODES

if TYPE_CHECKING:
    from slurm.lab.place import Place


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that stays in the foreground and logs to standard error."""

    name: str
    process: str
    """Its command name as the kernel shows it, at most 15 characters."""
    nodes: tuple[str, ...]
    user: str
    argv: tuple[str, ...]
    port: int | None = None
    """The TCP port that it listens on when it serves."""
    socket: str = ""
    """Or the Unix socket."""
    directories: tuple[str, ...] = ()
    """What it needs in /run, made for its user."""


DAEMONS = (
    Daemon(
        "munged", "munged", NODES, "munge",
        ("munged", "--foreground", "--num-threads=2", "--log-file=/run/munge/munged.log"),
        socket="/run/munge/munge.socket.2", directories=("/run/munge",),
    ),
    Daemon(
        "mariadbd", "mariadbd", (LOGIN,), "slurm", ("mariadbd", "--defaults-file=/etc/slurm/mariadb.conf"),
        socket=conf.DATABASE_SOCKET, directories=("/run/mariadbd",),
    ),
    Daemon("slurmdbd", "slurmdbd", (LOGIN,), "slurm", ("slurmdbd", "-D"), port=6819, directories=("/run/slurm",)),
    Daemon("slurmctld", "slurmctld", (LOGIN,), "slurm", ("slurmctld", "-D"), port=6817, directories=("/run/slurm",)),
    Daemon("slurmd", "slurmd", COMPUTE, "root", ("slurmd", "-D"), port=6818),
    Daemon("sshd", "sshd", (LOGIN,), "root", ("/usr/sbin/sshd", "-D", "-e"), port=22, directories=("/run/sshd",)),
)  # fmt: skip


def daemon_named(name: str, node: str) -> Daemon:
    """The daemon called `name`; LabError if there is none or it does not run on `node`."""
    for daemon in DAEMONS:
        if daemon.name == name and node in daemon.nodes:
            return daemon
    offered = [daemon.name for daemon in DAEMONS if node in daemon.nodes]
    raise LabError(f"no daemon {name!r} on {node}", hint=f"there are {', '.join(offered)}")


def start(place: Place, node: str, daemon: Daemon) -> None:
    """Start it and return at once; `wait_for` says when it serves."""
    pid = _init(place, node)
    prepare = "".join(f"install -d -o {daemon.user} {path}; " for path in daemon.directories)
    # In the node's cgroups, so that what it uses counts as the node's; a process of its own session, adopted by the node's init.
    join = "".join(f"echo $$ >{path}/cgroup.procs; " for path in _own_cgroups(place, node))
    inside = f"{prepare}exec setsid --fork setpriv --reuid={daemon.user} --regid={daemon.user} --init-groups -- \"$@\""
    with place.log(node, daemon.name).open("a") as log:
        subprocess.run(
            ["sh", "-ec", f"{join}exec \"$@\"", "join", *nsenter(pid), "sh", "-ec", inside, daemon.name, *daemon.argv],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, timeout=20, env={"PATH": ROOT_PATH},
        )  # fmt: skip


def serves(place: Place, node: str, daemon: Daemon) -> bool:
    """Whether the daemon runs and listens. A stopped process still counts: the kernel listens for it."""
    pid = init_pid(place, node)
    if pid is None or process_of(place, node, daemon) is None:
        return False
    if daemon.socket:
        return Path(f"/proc/{pid}/root{daemon.socket}").is_socket()
    return daemon.port is None or listens(pid, daemon.port)


def wait_for(place: Place, node: str, daemon: Daemon, *, seconds: float = 30) -> None:
    """Return once the daemon serves; LabError if it ends or after `seconds`."""
    log = place.log(node, daemon.name)
    seen = False

    def done() -> bool:
        nonlocal seen
        runs = process_of(place, node, daemon) is not None
        if seen and not runs:
            raise LabError(f"{daemon.name} on {node} ended", log=log, hint="the end of the log says why")
        seen = runs
        return serves(place, node, daemon)

    wait_until(done, seconds=seconds, what=f"{daemon.name} on {node} does not serve", log=log)


def process_of(place: Place, node: str, daemon: Daemon) -> int | None:
    """Its process id on the machine: the one that the node's init adopted. None if it does not run."""
    pid = init_pid(place, node)
    if pid is None:
        return None
    for candidate, name in of_node(pid).items():
        if name == daemon.process and _parent(candidate) == pid:
            return candidate
    return None


def _own_cgroups(place: Place, node: str) -> list[Path]:
    groups = cgroups.existing(place.cgroup(node))
    return [path / "init" if (path / "init").is_dir() else path for path in groups]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _init(place: Place, node: str) -> int:
    pid = init_pid(place, node)
    if pid is None:
        raise LabError(f"node {node} is not up", hint=f"python3 -m slurm.lab node {node} up --name {place.name}")
    return pid


