"""`berth gateway` itself, master and workers, in front of a world whose own gateway is not used."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from typing import TYPE_CHECKING, Protocol

import asyncssh
import yaml

from tests.deadlines import DEADLINE_S
from tests.fakes.openssh import me
from tests.processes import process_children

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Site(Protocol):
    """The site that the process serves."""

    @property
    def place(self) -> Path:
        """The directory that has the controller's socket."""
        ...

    @property
    def key(self) -> Path:
        """The path of the current user's key."""
        ...


class GatewayProcess:
    """The master, what it says, and the configuration that it reads."""

    def __init__(self, world: Site, **gateway: object) -> None:
        self.config = world.place / "gateway.yaml"
        self.said = ""
        self._world = world
        self._news = asyncio.Condition()
        self.write(**gateway)

    def write(self, **gateway: object) -> None:
        """Write the site's settings: those of the test, and a free port."""
        host_key = self._world.place / "process" / "key"
        usual = {"listen_host": "127.0.0.1", "listen_port": free_port(), "host_key": str(host_key), "workers": 1}
        told = usual | gateway
        site = {"mode": "site", "runtime_dir": str(self._world.place), "gateway": told}
        self.config.write_text(yaml.safe_dump(site))
        self.port = int(str(told["listen_port"]))

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "broker.cli",
            "gateway",
            env=os.environ | {"BERTH_CONFIG": str(self.config)},
            stderr=asyncio.subprocess.PIPE,
        )
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def says(self, what: str, times: int = 1) -> None:
        """Return once it has said that so often since it was started."""
        async with asyncio.timeout(DEADLINE_S), self._news:
            await self._news.wait_for(lambda: len(re.findall(what, self.said)) >= times)

    async def reload(self) -> None:
        before = self.said.count("serving with")
        self.signal(signal.SIGHUP)
        await self.says("serving with", before + 1)

    async def ends(self) -> int:
        """Its exit status; whatever it has started is gone as well when its standard error is at its end."""
        async with asyncio.timeout(DEADLINE_S):
            await self._reading
            return await self._process.wait()

    def workers(self) -> set[int]:
        """The process ids of the children, those that finish included."""
        return set(process_children(self.pid))

    async def client(self) -> asyncssh.SSHClientConnection:
        return await asyncssh.connect(
            "127.0.0.1",
            self.port,
            username=me(),
            client_keys=[str(self._world.key)],
            known_hosts=None,
            agent_path=None,
        )

    async def _read(self) -> None:
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            async with self._news:
                self.said += line.decode()
                self._news.notify_all()


@contextlib.asynccontextmanager
async def gateway_process(world: Site, **gateway: object) -> AsyncIterator[GatewayProcess]:
    """Run the process during the block; at the end it gets two signals to stop, so that it does not wait. `gateway`:
    settings of that section.
    """
    made = GatewayProcess(world, **gateway)
    await made.start()
    try:
        await made.says("serving with")
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            made.signal(signal.SIGTERM)
            made.signal(signal.SIGTERM)
        await made.ends()


def free_port() -> int:
    """Return a port at which no process listens now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
