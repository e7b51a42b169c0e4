"""Hostile bytes before a login: they reach no other client, and every such connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
from typing import TYPE_CHECKING, Any

from broker.gateway import fair_reader
from tests.deadlines import DEADLINE_S
from tests.fakes.gateway_world import World, play, until
from tests.fakes.hostile import HELLO, IGNORE, ODD, VERSION, kexinit, packet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import pytest

SEED = 20260730
VARIATIONS = 150
HERE = (ipaddress.ip_network("127.0.0.0/8"),)


async def hostile(port: int, data: bytes, *, piece: int = 0, leave: bool = False) -> bytes:
    """Send it, whole or in pieces; what the gateway said until it hung up, or until we left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(data), piece or len(data) or 1):
                writer.write(data[start : start + piece] if piece else data)
                await writer.drain()
            if not leave:
                return await reader.read(-1)
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def play_well(place: Path, scene: Callable[[World], Awaitable[None]], caplog: pytest.LogCaptureFixture) -> None:
    """Afterwards no login waits, the client that was connected all the time still is, and no error was logged."""

    async def whole(w: World) -> None:
        async with await w.client() as client:
            reader, _ = await client.open_connection(w.canonical, 22)
            assert await reader.readline()
            await scene(w)
            await until(lambda: not w.gateway._throttle.waiting)
            await client.open_connection(w.canonical, 22)
        assert (await w.ssh("dev.berth", "true")).code == 0

    settings: dict[str, Any] = {"penalty_exempt": HERE, "login_timeout": 1.0}
    play(place, whole, **settings)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_odd_things_end_whatever_sent_them(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(w: World) -> None:
        for what, data in ODD.items():
            async with asyncio.timeout(DEADLINE_S):
                said = await hostile(w.gateway.port, data)
            assert b"Traceback" not in said, what

    play_well(place, scene, caplog)


def test_a_hello_that_breaks_off_anywhere_ends(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(w: World) -> None:
        for end in range(0, len(HELLO), 7):
            await hostile(w.gateway.port, HELLO[:end], leave=True)
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(hostile(w.gateway.port, HELLO[:end]) for end in range(0, len(HELLO), 11)))

    play_well(place, scene, caplog)


def test_a_hello_with_any_error_in_it_ends(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(SEED)  # noqa: S311 - the same each time

    def spoiled() -> bytes:
        data = bytearray(HELLO)
        for _ in range(chance.choice([1, 1, 1, 2, 5, 30])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        cut = chance.randrange(len(data))
        return bytes(data) if chance.random() < 0.7 else bytes(data[:cut] + data[cut // 2 :])

    async def scene(w: World) -> None:
        for _ in range(0, VARIATIONS, 10):
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.gather(
                    *(hostile(w.gateway.port, spoiled(), piece=chance.choice([0, 1, 13])) for _ in range(10))
                )

    play_well(place, scene, caplog)


def test_no_client_without_a_login_has_more_than_a_kilobyte_at_once(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncssh deals with all that it is given before it reads from anybody else."""
    given: list[int] = []
    begin = fair_reader.FairReader._begin

    def counted(self: fair_reader.FairReader, data: bytes) -> None:
        given.append(len(data))
        begin(self, data)

    monkeypatch.setattr(fair_reader.FairReader, "_begin", counted)

    async def scene(w: World) -> None:
        given.clear()
        await asyncio.gather(*(hostile(w.gateway.port, ODD["ignore without end"]) for _ in range(5)))
        assert max(given) <= fair_reader.SMALL_PIECE_BYTES
        assert sum(given) <= 5 * (fair_reader.LOGIN_BYTES + fair_reader.SMALL_PIECE_BYTES)

    play_well(place, scene, caplog)


def test_a_logged_in_client_with_tiny_packets_gets_smaller_pieces(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sizes: set[int] = set()
    go_on = fair_reader.FairReader._go_on

    def seen(self: fair_reader.FairReader, data: bytes) -> None:
        sizes.add(self._size)
        go_on(self, data)

    monkeypatch.setattr(fair_reader.FairReader, "_go_on", seen)
    monkeypatch.setattr(fair_reader, "SLICE_S", 0.0)  # every time slice is too long

    async def scene(w: World) -> None:
        sizes.clear()
        async with await w.client() as client:
            for _ in range(50):
                client.send_debug("x" * 1000)
            await client.open_connection(w.canonical, 22)
        assert min(sizes) == fair_reader.SMALL_PIECE_BYTES

    play_well(place, scene, caplog)


def test_terrapin_is_answered(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """CVE-2023-48795: strict key exchange is offered, and a message smuggled into the handshake ends it."""

    async def scene(w: World) -> None:
        smuggled = VERSION + kexinit() + packet(IGNORE, bytes(4)) + HELLO[len(VERSION + kexinit()) :]
        said = await hostile(w.gateway.port, smuggled)
        assert b"kex-strict-s-v00@openssh.com" in said
        assert b"Strict key exchange violation" in said

    play_well(place, scene, caplog)


def test_all_connections_of_one_user_share_a_time_slice(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop deals with data of one of them; the rest waits for the next iteration."""
    monkeypatch.setattr(fair_reader, "USER_SLICE_S", 1e-9)  # one piece is too long
    dealt: list[int] = []
    iteration = 0
    go_on = fair_reader.FairReader._go_on

    def seen(self: fair_reader.FairReader, data: bytes) -> None:
        dealt.append(iteration)
        go_on(self, data)

    monkeypatch.setattr(fair_reader.FairReader, "_go_on", seen)

    async def scene(w: World) -> None:
        nonlocal iteration
        clients = [await w.client() for _ in range(10)]
        dealt.clear()
        for client in clients:
            client.send_debug("x" * 1000)
        async with asyncio.timeout(DEADLINE_S):
            while len(dealt) < 10:
                await asyncio.sleep(0)
                iteration += 1
        assert max(dealt.count(each) for each in dealt) == 1
        for client in clients:
            async with client:
                await client.open_connection(w.canonical, 22)

    play_well(place, scene, caplog)
