"""A session whose sshd is real and whose directories are elsewhere: for commands that talk to its services."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import signal
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from broker.cli import login_key
from broker.client.client import Client
from tests.deadlines import DEADLINE_S
from tests.fakes import openssh
from tests.fakes.controller import ready

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.fakes.controller import ScriptedController
    from tests.fakes.session_services import SessionDirectories

_PROGRAM = (
    "import sys; from broker import service_catalogue as c; c.SOCKETS, c.PROGRAM = sys.argv[1:3]; "
    "del sys.argv[:3]; sys.argv.insert(0, 'berth'); from broker.cli import main; main()"
)
"""`berth`, for which a session's directories are elsewhere."""


def berth_inside(inside: SessionDirectories, *words: str) -> list[str]:
    """Return the command line of `berth` for the session's directories."""
    return [sys.executable, "-c", _PROGRAM, f"{inside.base}/web", f"{inside.base}/node/service", *words]


@contextlib.asynccontextmanager
async def reachable_session(controller: ScriptedController, tmp_path: Path) -> AsyncIterator[None]:
    """A real sshd in place of the session `dev`; logins have a home of their own."""
    me = openssh.me()
    authority, host = openssh.make_key(tmp_path / "ca"), openssh.make_key(tmp_path / "host")
    await openssh.run([
        "ssh-keygen", "-q", "-s", authority, "-I", "dev", "-h", "-n", f"{me}.dev.berth", f"{host}.pub"
    ])  # fmt: skip
    controller.sessions["dev"] = ready()
    controller.site = controller.site.model_copy(update={"user": me, "ca_public_keys": [openssh.public(authority)]})
    key = await asyncio.to_thread(login_key.ensure_certificate, Client(controller.socket), "keys")
    async with openssh.sshd(tmp_path, openssh.public(key), f"SetEnv HOME={tmp_path}/inside/home") as port:
        controller.resolved = controller.resolved.model_copy(update={"owner": me, "port": port})
        yield


def fetch_page(url: str, host: str | None = None, path: str = "/") -> tuple[int, str]:
    """Ask as a browser does, which connects to the loopback interface for every name below `localhost`."""
    parts = urlsplit(url)
    assert parts.port is not None
    connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=DEADLINE_S)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": host or parts.netloc})
        with connection.getresponse() as answer:
            return answer.status, answer.read().decode()


@contextlib.asynccontextmanager
async def opened_locally(
    inside: SessionDirectories, *words: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run `berth open` until the block ends; gives its address."""
    pipe = asyncio.subprocess.PIPE
    command = berth_inside(inside, "open", "dev", *words, "--local")
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            yield process, (await process.stdout.readline()).decode().strip()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        await process.wait()
