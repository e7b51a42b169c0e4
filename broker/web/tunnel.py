"""The connection to one session: one ssh(1) with a forward and a session channel for each service.

sshd sends small packets at once only on a connection that has had a session channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.web import metrics
from broker.web.mux_client import MuxError, close_forward, open_channel, open_forward
from broker.web.service_channel import end_process, follow_service

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator
    from pathlib import Path

    from broker.schema.service_report import ServiceReport
    from broker.schema.web import DoorAnswer

SOCKETS = "/run/berth/web"
"""The directory of the services' sockets in a session."""
CONNECT_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 10.0
POLL_S = 0.02
MAX_ERROR_BYTES = 64 * 1024
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "TERM", "--")


class ConnectionFailedError(BerthError):
    """ssh could not connect to the session, or has lost the connection."""


class WebKey:
    """berth-web's key of this run: made at its start, and never stored elsewhere."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "key"
        self.public = ""
        """Its public line."""

    async def make(self) -> None:
        """Make it. BerthError if ssh-keygen is missing or fails."""
        public = self.path.with_name("key.pub")
        for each in (self.path, public):
            each.unlink(missing_ok=True)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "berth-web", "-f", str(self.path)]
        try:
            message = await _run(argv)
        except OSError as error:
            message = str(error)
        if message is not None:
            hint = f"install the package openssh-client, and make room in {self.path.parent}"
            raise BerthError(f"berth-web cannot make its ssh key: {_last_line(message)}", hint=hint)
        self.public = public.read_text(encoding="ascii").strip()


class Tunnel:
    """ssh as a master of connection sharing (ControlMaster in ssh_config(5)), with files in `directory`."""

    def __init__(self, directory: Path, key: WebKey, door: DoorAnswer) -> None:
        self._directory = directory
        self._key = key
        self._door = door
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._control = directory / "control"

    @property
    def is_open(self) -> bool:
        return self._reading is not None and not self._reading.done()

    async def connect(self) -> None:
        """Connect. ConnectionFailedError, with ssh's message, if the session's sshd is not reached or not trusted."""
        began, outcome = time.monotonic(), "failed"
        try:
            await self._connect()
            outcome = "open"
        finally:
            metrics.TUNNEL_SECONDS.labels(outcome).observe(time.monotonic() - began)

    async def _connect(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._directory / "known_hosts").write_text("\n".join([*self._door.known_hosts, ""]), encoding="utf-8")
        (self._directory / "certificate").write_text(f"{self._door.certificate}\n", encoding="ascii")
        self._process = await asyncio.create_subprocess_exec(
            *(*_DIE_WITH_PARENT, "ssh", "-N", "-M", *self._options(), self._destination),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_ERROR_BYTES,
        )
        try:
            await self._wait_until_connected(self._process)
        except BaseException:
            await self.close()
            raise
        self._reading = asyncio.create_task(_read_to_end(self._process))

    async def forward(self, service: str, socket: str) -> Path:
        """Forward a new local socket to the service's socket in the session, and return its path."""
        local = self._directory / f"{service}.sock"
        remote = f"{SOCKETS}/{socket}"
        with contextlib.suppress(MuxError):
            await close_forward(self._control, local, remote)
        local.unlink(missing_ok=True)
        with _connection_errors():
            await open_forward(self._control, local, remote)
        return local

    def follow(self, service: str) -> AsyncGenerator[ServiceReport]:
        """Start a service in a session channel, and follow it: see follow_service."""
        return follow_service(self._run(f"start {service}"), service)

    @asynccontextmanager
    async def _run(self, command: str) -> AsyncIterator[asyncio.StreamReader]:
        """Run a command in a session channel, and yield its output. ConnectionFailedError if that is not possible."""
        async with AsyncExitStack() as stack:
            with _connection_errors():
                output = await stack.enter_async_context(open_channel(self._control, command))
            yield output

    async def close(self) -> None:
        """Close the connection, and with it all channels and forwards."""
        if self._process is not None:
            await end_process(self._process)
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _destination(self) -> str:
        return f"{self._door.login}@{self._door.host}"

    def _options(self) -> list[str]:
        """Options of ssh(1) that depend on no file of the account or the machine."""
        values = {
            "BatchMode": "yes",
            "CertificateFile": self._directory / "certificate",
            "ConnectTimeout": "10",
            "ControlPath": self._control,
            "ExitOnForwardFailure": "yes",
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": self._door.host_key_alias,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "IdentityFile": self._key.path,
            "LogLevel": "ERROR",
            "PreferredAuthentications": "publickey",
            "ServerAliveCountMax": "3",
            "ServerAliveInterval": "15",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "UserKnownHostsFile": self._directory / "known_hosts",
        }
        return ["-F", "none", "-p", str(self._door.port), *(f"-o{name}={value}" for name, value in values.items())]

    async def _wait_until_connected(self, process: asyncio.subprocess.Process) -> None:
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        while not self._control.exists():
            if process.returncode is not None:
                assert process.stderr is not None
                raise _tunnel_error((await process.stderr.read(MAX_ERROR_BYTES)).decode(errors="replace"))
            if time.monotonic() > deadline:
                raise _tunnel_error(f"no connection within {CONNECT_TIMEOUT_S:g} s")
            await asyncio.sleep(POLL_S)


async def _read_to_end(process: asyncio.subprocess.Process) -> None:
    """Discard the messages of ssh, which would otherwise block, until it ends."""
    assert process.stderr is not None
    while await process.stderr.read(MAX_ERROR_BYTES):
        pass
    await process.wait()


async def _run(argv: list[str]) -> str | None:
    """Run a short program, and return its message if it fails."""
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, stdin=null, stdout=null, stderr=pipe)
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            _, message = await process.communicate()
    except TimeoutError:
        return f"{argv[0]} does not end"
    finally:
        if process.returncode is None:
            await end_process(process)
    return None if process.returncode == 0 else message.decode(errors="replace")


@contextmanager
def _connection_errors() -> Iterator[None]:
    try:
        yield
    except MuxError as error:
        raise _tunnel_error(error.message) from error


def _tunnel_error(message: str) -> ConnectionFailedError:
    return ConnectionFailedError(
        f"no connection to the session: {_last_line(message)}",
        hint="reload the page to try again; `berth show NAME` shows the session's state",
    )


def _last_line(message: str) -> str:
    lines = message.strip().splitlines()
    return lines[-1][:500] if lines else "ssh has ended"
