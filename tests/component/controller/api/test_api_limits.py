"""The API under abuse, on its real server and socket: connections and slow clients cost a bounded amount."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from broker.client.client import Client
from broker.controller import accounts
from broker.controller.api import listener, protocol
from broker.controller.api.listener import CONNECTIONS, TOTAL_CONNECTIONS, ConnectionRoom
from broker.controller.launcher_client.errors import LauncherError
from tests.component.controller.api.api_server import (
    ME,
    as_other,
    calling,
    close,
    make,
    needs_root,
    raw,
    serving,
)
from tests.deadlines import DEADLINE_S
from tests.unit.controller.test_accounts import NameService

if TYPE_CHECKING:
    from collections.abc import Iterator


SUBORDINATE = 2_000_000
"""The first of some uids that no account of this machine has."""


def descriptors() -> int:
    """The number of open ones of this process, in which the controller runs."""
    return len(list(Path("/proc/self/fd").iterdir()))


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
    """Have these connections during the block; yield the answers."""
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
