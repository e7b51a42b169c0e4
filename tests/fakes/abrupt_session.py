"""A session's sshd, a real one, that ends as a job does: at once, and without a word."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from broker.gateway.guard import EndpointAddress
from broker.ssh.keys import PublicKey
from tests.fakes import openssh
from tests.fakes.gateway_world import until
from tests.fakes.openssh import me, public
from tests.processes import process_state, process_tree

if TYPE_CHECKING:
    from pathlib import Path

IN_ITS_OWN_PIDS = [
    "unshare",
    *(["--user", "--map-current-user"] if os.geteuid() else []),
    "--pid",
    "--fork",
    "--kill-child",
    "--",
]
"""As a container, which the kernel ends as a whole (pid_namespaces(7))."""


@dataclass
class Session:
    """A real sshd that ends as a job does: all its processes at once, without a word. It always has the same port."""

    place: Path
    port: int = field(default_factory=openssh.free_port)
    process: asyncio.subprocess.Process | None = None

    @property
    def endpoint(self) -> EndpointAddress:
        fingerprint = PublicKey.parse(public(self.place / "host")).fingerprint
        return EndpointAddress("01session", "1.0", "127.0.0.1", self.port, fingerprint, me())

    @property
    def log(self) -> str:
        return (self.place / "log").read_text()

    async def start(self, *options: str) -> None:
        self.place.mkdir(exist_ok=True)
        if not (self.place / "host").exists():
            openssh.make_key(self.place / "host")
        assert openssh.SSHD is not None
        openssh.make_room_for_root()
        words = [f"Port={self.port}", f"HostKey={self.place / 'host'}", "ListenAddress=127.0.0.1", "UsePAM=no"]
        words += ["PidFile=none", "PasswordAuthentication=no", "MaxStartups=200", *options]
        with (self.place / "log").open("ab") as log:
            before = log.tell()
            self.process = await asyncio.create_subprocess_exec(
                *IN_ITS_OWN_PIDS, openssh.SSHD, "-D", "-e", "-f", os.devnull, *(f"-o{each}" for each in words),
                stdin=asyncio.subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        await until(lambda: b"Server listening" in (self.place / "log").read_bytes()[before:])

    async def end(self, *, wait: bool = True) -> None:
        if self.process is not None:
            every = self.processes()
            self.process.kill()
            await self.process.wait()
            self.process = None
            if wait:
                await until(lambda: all(process_state(each) in "ZX" for each in every))

    def processes(self) -> list[int]:
        assert self.process is not None
        return process_tree(self.process.pid)

    def signal(self, number: int) -> None:
        """Send a signal to all its processes."""
        for each in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, number)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()
