"""Servers that a session's owner announces to keep the gateway busy: a guard takes little of them, in small pieces."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import asyncssh
import pytest

from broker.gateway import guard, verifier
from broker.gateway.guard import EndpointAddress, HostKeyMismatchError
from broker.gateway.verifier import EndpointVerifier
from broker.ssh.keys import PublicKey
from tests.deadlines import DEADLINE_S
from tests.fakes import flooding, openssh
from tests.fakes.gateway_world import World, play, until
from tests.fakes.openssh import me, public

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PIECE_BYTES = 1024
MOST_BYTES = 32 * 1024
"""Of one connection that may be dealt with; the guards' budget is less."""


@contextlib.asynccontextmanager
async def flooding_server(key_path: Path, how: str) -> AsyncIterator[tuple[EndpointAddress, list[str]]]:
    """Run that server during the block; yield its endpoint, and a list that gets a line for each connection."""
    key = openssh.make_key(key_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", flooding.__name__, key, how,
        cwd=Path(__file__).parents[2], env=os.environ, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    lines: list[str] = []

    async def read(stdout: asyncio.StreamReader) -> None:
        while line := await stdout.readline():
            lines.append(line.decode())

    reading = asyncio.create_task(read(process.stdout))
    try:
        fingerprint = PublicKey.parse(public(key)).fingerprint
        yield EndpointAddress("01flood", "1.0", "127.0.0.1", port, fingerprint, me()), lines
    finally:
        process.kill()
        await process.wait()
        await reading


@pytest.fixture
def dealt(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many bytes asyncssh is given at once as a client: it processes them in one iteration of the loop."""
    pieces: list[int] = []
    given = asyncssh.SSHClientConnection.data_received

    def counted(self: asyncssh.SSHClientConnection, data: bytes, datatype: asyncssh.DataType = None) -> None:
        if "SSH-2.0-Berth" in self.get_extra_info("client_version", ""):
            pieces.append(len(data))
        given(self, data, datatype)

    monkeypatch.setattr(asyncssh.SSHClientConnection, "data_received", counted)
    return pieces


@pytest.mark.parametrize("how", flooding.WAYS)
def test_guard_of_a_flooding_server_takes_little_in_pieces(
    place: Path, how: str, dealt: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        guards = EndpointVerifier(answer_timeout=DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S), flooding_server(place / "flood", how) as (endpoint, connections):
            with contextlib.suppress(OSError, HostKeyMismatchError):
                await guards.prove(endpoint)  # it may answer before it floods
            await until(lambda: not len(guards))
            await until(lambda: len(asyncio.all_tasks()) <= 3)
            assert max(dealt) <= PIECE_BYTES
            assert sum(dealt) <= MOST_BYTES * len(connections)
        guards.close()

    asyncio.run(scene())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], "asyncio reports lost errors"


def test_flooding_server_is_left_alone_for_longer_each_time(place: Path) -> None:
    now = 1000.0

    async def scene() -> None:
        nonlocal now
        guards = EndpointVerifier(answer_timeout=DEADLINE_S, clock=lambda: now)
        async with (
            asyncio.timeout(DEADLINE_S),
            flooding_server(place / "flood", "ignore before keys") as (endpoint, lines),
        ):
            for connections, ban in ((1, 2.0), (2, 4.0), (3, 8.0)):
                with pytest.raises(guard.FloodError):
                    await guards.prove(endpoint)
                now += ban - 0.1
                for _ in range(50):
                    with pytest.raises(guard.FloodError):
                        await guards.prove(endpoint)
                assert len(lines) == connections
                now += 0.2
            with pytest.raises(ConnectionRefusedError):
                await guards.prove(endpoint._replace(port=openssh.free_port()))  # another endpoint is asked at once
        guards.close()

    asyncio.run(scene())


def test_flooded_session_is_refused_in_words(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(w: World) -> None:
        async with flooding_server(place / "flood", "ignore before keys") as (endpoint, _):
            w.controller.sessions[me(), w.canonical] = ("127.0.0.1", endpoint.port)
            for _ in range(2):
                done = await w.ssh("dev.berth", "true")
                assert done.code == 255
                assert f"the server on 127.0.0.1 for {me()}.dev sends more than an sshd does" in done.err
            assert caplog.text.count('event="guard flooded" session=01session') == 1

    play(place, scene)


def test_keystrokes_pass_while_many_flooding_servers_are_asked(place: Path, dealt: list[int]) -> None:
    """The flood has no more of the loop than is counted here, however long the echoes take."""

    async def scene(w: World) -> None:
        async with contextlib.AsyncExitStack() as stack:
            floods = [
                (await stack.enter_async_context(flooding_server(place / f"flood{number}", "ignore")))[0]
                for number in range(3)
            ]
            client = await stack.enter_async_context(await w.client())
            session = await stack.enter_async_context(
                await client.connect_ssh(
                    w.canonical, username=me(), client_keys=[str(w.key)], known_hosts=None, agent_path=None
                )
            )
            cat = await session.create_process("cat")
            done = False

            async def attack(endpoint: EndpointAddress) -> None:
                while not done:
                    with contextlib.suppress(OSError):
                        await w.gateway._guards.prove(endpoint)
                    await asyncio.sleep(0)

            async def echo() -> None:
                cat.stdin.write("x\n")
                assert await cat.stdout.readline() == "x\n"

            attackers = [asyncio.create_task(attack(each)) for each in floods]
            for _ in range(100):
                before = sum(dealt)
                await echo()
                assert sum(dealt) - before <= 3 * MOST_BYTES
            done = True
            await asyncio.gather(*attackers)
            assert max(dealt) <= PIECE_BYTES
            assert sum(dealt) <= 3 * 2 * MOST_BYTES

    play(place, scene)


def test_guards_of_one_owner_never_cost_another_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "MAX_GUARDS", 6)
    monkeypatch.setattr(verifier, "MAX_GUARDS_PER_OWNER", 4)

    async def silent(*_: object) -> None:
        pass

    async def scene() -> None:
        guards = EndpointVerifier(answer_timeout=DEADLINE_S)
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        def of(owner: str, number: int) -> EndpointAddress:
            return EndpointAddress("01session", f"{number}.0", "127.0.0.1", port, "SHA256:x", owner)

        bobs = [guards.prepare(of("bob", number)) for number in range(2)]
        for number in range(10):
            guards.prepare(of("mallory", number))
            assert len(guards) <= 6
        carols = guards.prepare(of("carol", 0))
        assert len(guards) == 6
        assert [guards.prepare(each.endpoint) for each in (*bobs, carols) if each] == [*bobs, carols]
        assert [each.owner for each in guards._guards].count("mallory") == 3
        guards.close()
        server.close()
        await until(lambda: len(asyncio.all_tasks()) == 1)

    asyncio.run(scene())
