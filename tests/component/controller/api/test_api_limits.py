"""The API under abuse, on its real server and socket: what clients send costs a bounded amount, and no header says who
calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import random
import socket
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from prometheus_client import REGISTRY
from pydantic import BaseModel, ValidationError

from broker.client.client import Client
from broker.controller import accounts
from broker.controller.api import listener, protocol
from broker.controller.api.app import application
from broker.controller.api.listener import CONNECTIONS, TOTAL_CONNECTIONS, ConnectionRoom
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.metrics import LAUNCHER_OUTCOMES, OTHER, observe_launcher
from broker.schema.connections import ConnectionReport
from broker.schema.sessions import Persistence, ResizeRequest, StartRequest
from tests.component.controller.api.test_api import (
    ME,
    as_other,
    calling,
    directory,
    make,
    needs_root,
    services,
    serving,
)
from tests.deadlines import DEADLINE_S
from tests.unit.controller.test_accounts import NameService

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["directory"]

ROUTE_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
SUBORDINATE = 2_000_000
"""The first of some uids that no account of this machine has."""


def series() -> set[tuple[str, ...]]:
    """The labels of each series of requests that there is."""
    return {
        (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items())))
        for family in REGISTRY.collect()
        if family.name.startswith("berth_http_request")
        for sample in family.samples
    }


async def raw(path: Path, request: bytes) -> bytes:
    """The answer to these bytes, sent at once, until the server hangs up."""
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


def descriptors() -> int:
    """The number of open ones of this process, in which the controller runs."""
    return len(list(Path("/proc/self/fd").iterdir()))


# Metric labels.


def test_random_requests_add_no_series(directory: Path) -> None:
    generator = random.Random(5)  # noqa: S311 - the same requests each time
    words = ["".join(generator.choices(string.ascii_letters, k=12)) for _ in range(400)]

    async def scenario() -> None:
        core = make(directory)
        async with serving(core) as path:
            for word in words:
                target = generator.choice(["/v1/sessions", f"/{word}", f"/v1/sessions/{word.lower()}", "*"])
                head = f"{word} {target}?{word}={word} HTTP/1.1\r\nHost: {word}\r\n{word}: {word}\r\nConnection: close"
                assert b" 4" in (await raw(path, f"{head}\r\n\r\n".encode()))[:14]
            for method in ROUTE_METHODS | {"OPTIONS", "TRACE", "CONNECT", "get"}:
                await raw(path, f"{method} /v1/sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

    asyncio.run(scenario())
    told = series()
    labels = {label.partition("=")[::2] for each in told for label in each[1:]}
    assert {value for name, value in labels if name == "method"} <= ROUTE_METHODS | {OTHER}
    assert all(
        value == OTHER or value.startswith(("/v1/", "/openapi.json")) for name, value in labels if name == "path"
    )
    assert all(len(value) == 3 and value.isdigit() for name, value in labels if name == "status" and value != "0")
    assert not any(word.lower() in value.lower() for word in words for _, value in labels)


def test_outcomes_that_a_worker_invents_share_a_series() -> None:
    for number in range(100):
        observe_launcher("log", f"invented-{number}", 0.1)
    told = {
        sample.labels["outcome"]
        for family in REGISTRY.collect()
        if family.name == "berth_launcher_duration_seconds"
        for sample in family.samples
        if "outcome" in sample.labels
    }
    assert told <= LAUNCHER_OUTCOMES | {OTHER}


LONG_HEADS = {
    "method": b"M" * 60_000 + b" /v1/health HTTP/1.1\r\nHost: x\r\n\r\n",
    "short method": b"M" * 17 + b" /v1/health HTTP/1.1\r\nHost: x\r\n\r\n",
    "target": b"GET /" + b"t" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "query": b"GET /v1/health?" + b"t" * 5_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "header": b"GET /v1/health HTTP/1.1\r\nHost: x\r\nA: " + b"h" * 60_000 + b"\r\n\r\n",
    "number": b"GET /v1/health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 80 + b"\r\n",
    "all": b"GET /v1/health HTTP/1.1\r\nHost: x\r\n" + (b"A: " + b"h" * 8192 + b"\r\n") * 2 + b"\r\n",
}


def test_a_head_that_is_too_long_reaches_no_route(directory: Path) -> None:
    async def scenario() -> None:
        async with serving(make(directory)) as path:
            before = series()
            for what, head in LONG_HEADS.items():
                assert (await raw(path, head)).startswith(b"HTTP/1.1 400 "), what
            assert series() == before

    asyncio.run(scenario())


def test_every_list_in_a_request_has_a_bound(directory: Path) -> None:
    document = application(services(make(directory))).openapi()
    parts = document["components"]["schemas"]
    bodies = [
        call["requestBody"]["content"]["application/json"]["schema"]
        for methods in document["paths"].values()
        for call in methods.values()
        if "requestBody" in call
    ]
    assert len(bodies) >= 15
    checked: set[str] = set()

    def check(part: object, where: str) -> None:
        if isinstance(part, list):
            for each in part:
                check(each, where)
        elif isinstance(part, dict):
            assert part.get("type") != "array" or "maxItems" in part, where
            assert not part.get("additionalProperties"), where
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name and name not in checked:
                checked.add(name)
                check(parts[name], name)
            for key, each in part.items():
                check(each, f"{where}.{key}")

    check(bodies, "")
    assert {"StartRequest", "Persistence", "ConnectionRecord"} <= checked


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (StartRequest, {"options": [1] * 100_000}),
        (StartRequest, {"defaults": [None] * 100_000}),
        (ResizeRequest, {"options": [1] * 100_000}),
        (Persistence, {"keep": ["x"] * 100_000}),
        (Persistence, {"fresh": [""] * 100_000}),
        (ConnectionReport, {"connections": [{}] * 100_000}),
    ],
)
def test_a_list_of_faults_is_one_fault(model: type[BaseModel], values: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    assert caught.value.error_count() < 20


def test_an_upgrade_is_an_ordinary_request_without_a_log_line(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(make(directory)) as path, calling(path) as client:
            headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
            assert (await client.get("/v1/health", headers=headers)).status_code == 200

    asyncio.run(scenario())
    assert "upgrade" not in caplog.text.lower()


# Identity.

FORWARDED = (
    *("X-Forwarded-For", "X-Forwarded-User", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port"),
    *("X-Forwarded-Client-Cert", "X-Real-IP", "X-Client-IP", "X-Remote-User", "Remote-User", "Via", "True-Client-IP"),
)


SPOOFED = ("[uid:65534]", "[uid:65534]:1", "uid:65534", "65534", "[uid:65534], [uid:65534]", "127.0.0.1")


def test_no_header_changes_the_callers_identity(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    monkeypatch.setenv("WEB_CONCURRENCY", "many")

    async def scenario() -> None:
        async with serving(make(directory)) as path, calling(path) as client:
            for value in SPOOFED:
                headers = dict.fromkeys(FORWARDED, value) | {"Forwarded": f"for={value};by={value};proto={value}"}
                for sent in (headers, *({name: each} for name, each in headers.items())):
                    assert (await client.get("/v1/site", headers=sent)).json()["user"] == ME, sent

    asyncio.run(scenario())


# Connections.

CROWD = """
import os, socket, sys, time
path, first, count, each, hold = sys.argv[1], *map(int, sys.argv[2:6])
held, answers = [], set()
for uid in range(first, first + count):
    os.seteuid(uid)
    for _ in range(each):
        s = socket.socket(socket.AF_UNIX); s.settimeout(120)
        try:
            s.connect(path)
            held.append(s)
        except OSError:
            s.close()
    os.seteuid(0)
    if len(held) > 400 and not hold:
        for s in held: s.close()
        held.clear()
for s in held[:20] if hold else ():
    answers.add(s.recv(4096).partition(b"\\r\\n")[0].decode())
print(len(held), sorted(answers), flush=True)
sys.stdin.read()
"""
"""Connections of many uids, as one user has them by newuidmap(1): the kernel tells the effective uid at connect(2)."""


@contextlib.contextmanager
def crowd(path: Path, first: int, count: int, each: int, *, hold: bool = True) -> Iterator[str]:
    """Within it these connections stand; what was answered."""
    command = [sys.executable, "-c", CROWD, str(path), *(str(n) for n in (first, count, each, int(hold)))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline()
        process.communicate(timeout=DEADLINE_S)


@pytest.fixture
def subordinates(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where users have subordinate uids."""
    file = directory / "subuid"
    file.write_text(f"alice:{SUBORDINATE}:65536\nbob:{SUBORDINATE + 65536}:65536\n# none\n\nx:y:z\n")
    monkeypatch.setattr(accounts, "SUBUID", file)


@needs_root
@pytest.mark.usefixtures("subordinates")
def test_uids_without_an_account_get_no_connection(directory: Path) -> None:
    async def scenario() -> None:
        async with serving(make(directory)) as path:
            before = descriptors()
            with contextlib.ExitStack() as stack:
                answers = await asyncio.to_thread(stack.enter_context, crowd(path, SUBORDINATE, 600, 2))
                assert "'HTTP/1.1 403 Refused'" in answers
                assert (await as_other(path, "GET", "/v1/site"))[0] == 200
                assert await asyncio.to_thread(Client(path).health)
                assert descriptors() < before + 50
                await asyncio.to_thread(stack.close)

    asyncio.run(scenario())


@needs_root
def test_one_uid_without_an_account_learns_why(directory: Path) -> None:
    """As the program of a container's inner user sees it."""
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom broker.client.client import Client\n"
        "Client(Path(sys.argv[1])).site()  # which imports the rest: the uid cannot read root's own Python\n"
        "os.seteuid(2000000)\n"
        "try:\n    Client(Path(sys.argv[1])).site()\nexcept Exception as error:\n    print(error)\n"
    )

    async def scenario() -> None:
        async with serving(make(directory)) as path:
            command = [sys.executable, "-c", program, str(path)]
            for _ in range(2):  # looked up, and known to have none
                run = await asyncio.to_thread(
                    subprocess.run, command, capture_output=True, text=True, timeout=DEADLINE_S
                )
                assert "there is no account with the uid 2000000 on this machine" in run.stdout, run.stderr

    asyncio.run(scenario())


def test_one_users_connections_have_a_bound_and_the_answer_says_so(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(listener, "CONNECTIONS", 4)
        async with serving(make(directory, gateway={"enabled": False}), own_uid=os.getuid()) as path:
            held = [await asyncio.open_unix_connection(path) for _ in range(4)]
            refused = await raw(path, b"")
            assert refused.startswith(b"HTTP/1.1 429 ")
            assert b"limit of connections to the controller reached (4 of 4)" in refused
            await close(held.pop()[1])
            client = Client(path)
            while not await asyncio.to_thread(client.health):  # noqa: ASYNC110 - until the server has seen the end
                await asyncio.sleep(0.01)
            for _, each in held:
                await close(each)

    asyncio.run(scenario())


def test_abandoned_requests_count_until_they_have_ended(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a client that asks and leaves could have any number of requests wait for the launcher."""

    async def scenario() -> None:
        monkeypatch.setattr(listener, "CONNECTIONS", 4)
        core = make(directory, gateway={"enabled": False})
        await core.ready(user=ME)
        asked, go_on = 0, asyncio.Event()

        async def verify(*_: object) -> NoReturn:
            nonlocal asked
            asked += 1
            await go_on.wait()
            raise LauncherError("ended", "")

        monkeypatch.setattr(core.launcher, "verify", verify)
        head = b"POST /v1/sessions/dev/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        async with serving(core, own_uid=os.getuid()) as path:
            for number in range(4):
                _, writer = await asyncio.open_unix_connection(path)
                writer.write(head)
                while asked == number:  # noqa: ASYNC110 - until it has reached the launcher
                    await asyncio.sleep(0.01)
                await close(writer)
            assert (await raw(path, b"")).startswith(b"HTTP/1.1 429 ")
            assert asked == 4
            go_on.set()
            while not await asyncio.to_thread(Client(path).health):  # noqa: ASYNC110 - until they have ended
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_users_who_take_all_leave_room_for_others() -> None:
    room = ConnectionRoom({0: 256, 4242: 256, 997: 1536}, files=65536)
    crowded = TOTAL_CONNECTIONS // CONNECTIONS + 4
    for uid in range(1000, 1000 + crowded):
        while room.take(uid) is None:
            pass
    assert room.take(5000) is None, "another user has some"
    for uid, most in ((0, 256), (4242, 256), (997, 1536)):
        taken = 0
        while room.take(uid) is None:
            taken += 1
        assert taken == most


def test_room_that_is_released_can_be_taken_again() -> None:
    room = ConnectionRoom({0: 4}, files=1024)
    for uid in (0, 1000, 1001, 0, 1000):
        assert room.take(uid) is None
        room.release(uid)
    assert room._open == {}
    assert room._shared == 0
    assert room.take(1000) is None
    room.reserve(1000, 8)
    room.release(1000)
    assert room._shared == 0


DROPS = 2000
"""Drops of a client that sends slowly: it would need 40 s for all of them."""
_POST = b"POST /v1/resolve HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n"
SLOW = {
    "nothing": [b""],
    "part of a head": [b"GET /v1/health HT"],
    "drops of a head": [b"GET /v1/health HTTP/1.1\r\n", *[b"A"] * DROPS],
    "part of a body": [_POST + b"{"],
    "drops of a body": [_POST, *[b" "] * DROPS],
    "pipelined": [b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n" + _POST],
    "idle": [b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n"],
}


def test_who_sends_slowly_is_hung_up_on(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_TIMEOUT_S", 0.3)
    monkeypatch.setattr(protocol, "KEEP_ALIVE_S", 1)

    async def send(path: Path, what: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        drops = iter([*SLOW[what], None])
        with contextlib.suppress(ConnectionError):
            hung_up = asyncio.create_task(reader.read())
            while not hung_up.done() and (drop := next(drops)) is not None:
                writer.write(drop)
                await writer.drain()
                await asyncio.sleep(0.02)  # the drops of a slow client
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(hung_up, DEADLINE_S)
        assert len(SLOW[what]) < DROPS or next(drops, None) is not None, "hung up on only after its last drop"
        await close(writer)

    async def scenario() -> None:
        async with serving(make(directory)) as path:
            await asyncio.gather(*(send(path, what) for what in SLOW))

    asyncio.run(scenario())


def test_who_takes_no_answer_is_hung_up_on(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "ANSWER_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        async with serving(make(directory)) as path:
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, str(path))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.send(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 40)
                deadline = time.monotonic() + DEADLINE_S
                while True:  # nothing is read; a write shows the end
                    assert time.monotonic() < deadline
                    try:
                        client.send(b"G")
                    except BlockingIOError:
                        pass
                    except ConnectionError:
                        break
                    await asyncio.sleep(0.02)

    asyncio.run(scenario())


def test_a_request_that_waits_for_long_is_not_hung_up_on(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        core = make(directory)
        await core.ready(user=ME)
        revision = core.row(user=ME).revision
        async with serving(core) as path, calling(path) as client:
            answer = await client.get(f"/v1/sessions/dev?after={revision}&wait=1")
            assert answer.status_code == 200
            assert (await client.get("/v1/health")).status_code == 200, "the connection is kept"

    asyncio.run(scenario())


@needs_root
@pytest.mark.usefixtures("subordinates")
def test_a_slow_name_service_delays_strangers_only(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = NameService(monkeypatch)
    service.names = {uid: pwd.getpwuid(uid).pw_name for uid in (0, 65534)}

    async def scenario() -> None:
        async with serving(make(directory)) as path:
            service.unanswered = range(SUBORDINATE + 10, SUBORDINATE + 100)  # the crowd waits for the first ten
            with contextlib.ExitStack() as stack:
                await asyncio.to_thread(stack.enter_context, crowd(path, SUBORDINATE, 100, 2))
                assert (await as_other(path, "GET", "/v1/site"))[0] == 200, "nobody has called before"
                assert await asyncio.to_thread(Client(path).health)
                service.answer.set()
                await asyncio.to_thread(stack.close)

    asyncio.run(scenario())
