"""The real application on a real Unix socket, in the test's process, and callers of it: this account, and another."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import pwd
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from broker.controller.api.app import application
from broker.controller.api.dependencies import Services
from broker.controller.doctor import controller_checks
from broker.controller.process import ActivityTracker, _serve_api
from broker.controller.rebuild import rebuild
from broker.names import new_id
from broker.schema.base import ErrorBody
from broker.schema.connections import ConnectionRecord
from tests.deadlines import DEADLINE_S, TEST_DEADLINE_S
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


ME = pwd.getpwuid(os.getuid()).pw_name


ROOT = os.getuid() == 0


OTHER = "nobody"


def services(core: Core, own_uid: int = 4242) -> Services:
    """Give the controller a uid that no caller of these tests has."""
    parts = (core.config, core.scheduler, core.launcher, core.stores, core.reconciler)
    return Services(
        config=core.config,
        sessions=core.sessions,
        watches=core.watches,
        connect=core.connect,
        policies=core.policies,
        extend=core.extend,
        resize=core.resize,
        rename=core.rename,
        shares=core.shares,
        guests=core.guests,
        operators=core.operators,
        connections=core.connections,
        snapshots=core.snapshots,
        clones=core.clones,
        container_changes=core.container_changes,
        upgrades=core.upgrades,
        deleted=core.deleted,
        environments=core.environments,
        offers=core.offers,
        request_checks=core.request_checks,
        keys=core.keys,
        logins=core.logins,
        cluster=core.cluster,
        site=core.site,
        web=core.web,
        checks=functools.partial(controller_checks, *parts),
        rebuild=functools.partial(rebuild, core.config, core.registry, core.scheduler, core.launcher),
        in_use=ActivityTracker().request,
        own_uid=own_uid,
    )


@contextlib.asynccontextmanager
async def serving(core: Core, own_uid: int = 4242) -> AsyncIterator[Path]:
    """The API as the controller serves it; its socket."""
    path = core.config.runtime_dir / "api.sock"
    path.parent.mkdir(mode=0o755, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        async with asyncio.timeout(TEST_DEADLINE_S), _serve_api(services(core, own_uid), listener):
            yield path


@contextlib.asynccontextmanager
async def calling(path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://berth") as client:
        yield client


def make(directory: Path, **settings: object) -> Core:
    """Make a controller for a site whose gateway account is the user of this test, unless `settings` name another."""
    values = {"gateway": {"host": "login.example", "account": ME}} | settings
    return Core.make(site_config(directory, **values), FakeLauncher(FakeScheduler()))


def refusal(response: httpx.Response) -> ErrorBody:
    assert response.status_code >= 400, response.text
    return ErrorBody.model_validate_json(response.content)


def every_call(core: Core) -> list[tuple[str, str]]:
    document = application(services(core)).openapi()
    return [(method, path) for path, methods in document["paths"].items() for method in methods]


async def as_other(path: Path, method: str, target: str, body: str = "") -> tuple[int, Any]:
    """The same call by another account; status and decoded body."""
    program = (
        "import json, socket, sys\n"
        "method, target, body = sys.argv[2:]\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])\n"
        "s.sendall(f'{method} {target} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Type: application/json"
        "\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}'.encode())\n"
        "print(b''.join(iter(lambda: s.recv(65536), b'')).decode(), end='')\n"
    )
    account = pwd.getpwnam(OTHER)
    process = await asyncio.create_subprocess_exec(
        "setpriv",
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--clear-groups",
        "python3",  # the system's, which that account can reach
        "-c",
        program,
        str(path),
        method,
        target,
        body,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
        cwd="/",
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    head, _, content = output.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(content)


needs_root = pytest.mark.skipif(not ROOT, reason="only root can be two users; `make test` runs as root")


def waiting_for(session_id: str, revision: int, seconds: float = 60) -> dict[str, Any]:
    """A question of the gateway's."""
    return {"sessions": [{"session_id": session_id, "revision": revision}], "seconds": seconds}


def calls_under_way() -> int:
    """Return the number of calls that the application, which is in this process, has not ended."""
    return sum("run_asgi" in repr(task.get_coro()) for task in asyncio.all_tasks())


def a_connection(session_id: str) -> ConnectionRecord:
    return ConnectionRecord(id=new_id(), user=ME, session_id=session_id, generation="1.0", began_at=1.0)


async def raw(path: Path, request: bytes) -> bytes:
    """The answer to these bytes, sent at once, until the server closes the connection."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(request)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            return await asyncio.wait_for(reader.read(), DEADLINE_S)
        return b""
    finally:
        await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
