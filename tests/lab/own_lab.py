"""Labs that tests bring up themselves, by the command line."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slurm.lab.enter import exec_argv
from slurm.lab.paths import LabPaths
from slurm.lab.progress import pause_s
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def cli(*argv: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slurm.lab", *argv]
    # An administrator's umask: what the lab makes must be readable all the same.
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, umask=0o077)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_S) -> None:
    began_at = time.monotonic()
    while not condition():
        assert time.monotonic() < began_at + seconds, f"{what}: not within {seconds} s"
        time.sleep(pause_s(began_at))


@dataclass(frozen=True)
class Cluster:
    """A lab that is up."""

    place: LabPaths

    def run(
        self, *command: str, node: str = "login", user: str = "alice", stdin: bytes = b"", seconds: float = DEADLINE_S
    ) -> subprocess.CompletedProcess[bytes]:
        argv = exec_argv(node, command, user=user, lab=self.place)
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=seconds, check=False)

    def text(self, *command: str, node: str = "login", user: str = "alice") -> str:
        done = self.run(*command, node=node, user=user)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def status(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(cli("status", "--name", self.place.name, "--json").stdout)
        return data


def up(name: str, state: Path, *options: str) -> Cluster:
    done = cli("up", "--name", name, "--state", str(state), *options)
    assert done.returncode == 0, done.stderr
    return Cluster(LabPaths.find(name))


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
