"""The argument list of a command inside a node, for any caller that is root.

Only plain programs take part. So standard input and output are the command's own, its exit code is passed on, and it
costs a few milliseconds. Killing the first process kills the command; SIGINT to the process group reaches the command
alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slurm.lab import host_settings
from slurm.lab.errors import LabError
from slurm.lab.paths import LabPaths
from slurm.lab.processes import init_pid
from slurm.lab.spec import node_named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USER_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def exec_argv(
    node: str,
    command: Sequence[str],
    *,
    user: str = "root",
    lab: LabPaths | str = "lab",
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    host_network: bool = False,
) -> list[str]:
    """Return the argument list that runs `command` in `node` as `user`, with that user's groups and a login's
    environment.

    `cwd` is a directory in the node, the user's home if None. With `host_network` the command uses the machine's
    network instead of the lab's. Raises LabError if the node is not up or has no such user.
    """
    place = LabPaths.find(lab) if isinstance(lab, str) else lab
    pid = init_pid(place, node_named(node))
    if pid is None:
        raise LabError(
            f"node {node} of lab {place.name} is not up", hint=f"python3 -m slurm.lab up --name {place.name}"
        )
    entry = passwd_entry(pid, user)
    home = entry[5] if os.path.isdir(f"/proc/{pid}/root{entry[5]}") else "/"  # noqa: PTH112 - fast: called thousands of times
    variables = {"PATH": ROOT_PATH if user == "root" else USER_PATH, **(env or {})}
    if host_network:
        variables = {**host_settings.network_variables(), **variables}
    return [
        *_ignoring_interrupts(nsenter(pid, host_network=host_network, cwd=cwd or home)),
        "env", "--default-signal=INT,QUIT",
        "setpriv", f"--reuid={user}", f"--regid={entry[3]}", "--init-groups", "--reset-env", "--pdeathsig=KILL", "--",
        "env", *(f"{name}={value}" for name, value in variables.items()),
        *command,
    ]  # fmt: skip


def nsenter(pid: int, *, host_network: bool = False, cwd: str = "/") -> list[str]:
    """Return the command that enters all namespaces of the node whose init is `pid`, with `host_network` except the
    network.
    """
    network = [] if host_network else ["--net"]
    spaces = ["--mount", "--uts", "--ipc", "--pid", "--cgroup", *network]
    return ["nsenter", f"--target={pid}", *spaces, "--root", f"--wdns={cwd}"]


def _ignoring_interrupts(argv: list[str]) -> list[str]:
    """Let only the command handle Ctrl-C: nsenter waits for it and must live to pass its exit code on."""
    return ["env", "--ignore-signal=INT,QUIT", *argv]


def passwd_entry(pid: int, user: str) -> list[str]:
    """Return the fields of the user's line in the node's passwd. LabError if there is none."""
    with open(f"/proc/{pid}/root/etc/passwd") as file:  # noqa: PTH123 - see exec_argv
        for line in file:
            fields = line.rstrip("\n").split(":")
            if fields[0] == user:
                return fields
    raise LabError(f"no user {user!r} in the lab")
