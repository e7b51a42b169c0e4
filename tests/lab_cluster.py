"""The running lab, as tests see it: commands in its nodes, and daemons stopped, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurm.lab import daemons
from slurm.lab.enter import exec_argv, nsenter
from slurm.lab.paths import LabPaths
from slurm.lab.processes import init_pid
from slurm.lab.progress import pause_s
from slurm.lab.spec import LOGIN, NODES
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Lab:
    """One lab that is up."""

    place: LabPaths

    @classmethod
    def find(cls, name: str) -> Lab:
        """The lab called `name`. AssertionError, with the remedy, unless all its nodes are up."""
        place = LabPaths.find(name)
        up = place.ready_file.exists() and all(init_pid(place, node) is not None for node in NODES)
        assert up, f"the lab called {name} is not up: `python3 -m slurm.lab up --name {name}`, or set LAB_NAME"
        return cls(place)

    @property
    def shared(self) -> Path:
        """The machine's path of what the nodes see as /shared."""
        return self.place.shared

    def argv(
        self,
        command: Sequence[str],
        *,
        user: str = "root",
        node: str = LOGIN,
        env: Mapping[str, str] | None = None,
        host_network: bool = False,
    ) -> list[str]:
        """The argument list that runs `command` in a node, in a login's environment and the user's home."""
        return exec_argv(node, command, user=user, lab=self.place, env=env, host_network=host_network)

    def prefix(self, *, user: str = "root", node: str = LOGIN) -> tuple[str, ...]:
        """Return the words before a command that run it in a node, with the caller's environment and process group."""
        pid = init_pid(self.place, node)
        assert pid is not None, f"node {node} is not up"
        return (
            *nsenter(pid),
            "setpriv",
            f"--reuid={user}",
            f"--regid={user}",
            "--init-groups",
            "--pdeathsig=KILL",
            "--",
        )

    def run(
        self,
        command: Sequence[str],
        *,
        user: str = "root",
        node: str = LOGIN,
        seconds: float = DEADLINE_S,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        host_network: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in a node to its end, whatever its exit code; TimeoutExpired after `seconds`.

        With `host_network` it sees the machine's network, from which packages can be fetched, instead of the lab's.
        """
        argv = self.argv(command, user=user, node=node, env=env, host_network=host_network)
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=seconds, check=False)

    def sh(self, script: str, *, user: str = "root", node: str = LOGIN, seconds: float = DEADLINE_S) -> str:
        """Run a shell script in a node and return its output without the last line end; AssertionError if it fails."""
        done = self.run(["sh", "-euc", script], user=user, node=node, seconds=seconds)
        assert done.returncode == 0, f"{script!r} ended with {done.returncode}: {done.stderr.decode(errors='replace')}"
        return done.stdout.decode().removesuffix("\n")

    def popen(
        self, command: Sequence[str], *, user: str = "root", node: str = LOGIN, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command in a node, its three streams as pipes. Killing the process kills the command."""
        argv = self.argv(command, user=user, node=node, env=env)
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    @contextmanager
    def paused(self, daemon: str, *, node: str = LOGIN) -> Iterator[None]:
        """Stop the daemon with SIGSTOP during the block: its port accepts connections and does not answer."""
        pid = self._pid(daemon, node)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def wait_until_saved(self, text: str) -> None:
        """Wait until slurmctld's saved jobs contain `text`: it saves each 5 s; killed, it forgets the rest."""
        state = self.sh("scontrol show config | sed -n 's/^StateSaveLocation *= //p'") + "/job_state"
        wait_for(lambda: self.run(["grep", "--quiet", text, state]).returncode == 0, what=f"{text} to be saved")

    @contextmanager
    def without(self, daemon: str, *, node: str = LOGIN) -> Iterator[None]:
        """Have the daemon dead by SIGKILL during the block; afterwards it serves again."""
        os.kill(self._pid(daemon, node), signal.SIGKILL)
        named = daemons.daemon_named(daemon, node)
        wait_for(lambda: daemons.daemon_pid(self.place, node, named) is None, what=f"the end of {daemon}")
        try:
            yield
        finally:
            daemons.start_daemon(self.place, node, named)
            daemons.wait_for_daemon(self.place, node, named)

    def _pid(self, daemon: str, node: str) -> int:
        pid = daemons.daemon_pid(self.place, node, daemons.daemon_named(daemon, node))
        assert pid is not None, f"{daemon} does not run on {node}"
        return pid


def older_name(name: str) -> str:
    """Return the name of the lab with an older Slurm that tests bring up beside the one of this name."""
    return f"{name}-old"


def wait_for(condition: Callable[[], bool], *, what: str, seconds: float = DEADLINE_S) -> None:
    """Return once the condition holds; AssertionError, naming it, if it does not within `seconds`."""
    began_at = time.monotonic()
    while not condition():
        assert time.monotonic() < began_at + seconds, f"waited {seconds:g} s in vain for {what}"
        time.sleep(pause_s(began_at))
