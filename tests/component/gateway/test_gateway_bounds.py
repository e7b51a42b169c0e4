"""Bounds on what one user holds of the gateway: over all workers, and with sides that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import asyncssh
import pytest

from broker.gateway import fair_reader, relay
from tests.deadlines import DEADLINE_S, TEST_DEADLINE_S
from tests.fakes.deaf import deaf_session
from tests.fakes.gateway_process import GatewayProcess, gateway_process
from tests.fakes.gateway_world import World, play, until, world
from tests.fakes.openssh import me

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CONNECTIONS, FORWARDS = 4, 60
"""240 forwards in all."""
FORWARD_BYTES = 400 * 1024
"""Of a worker's memory for a forward to a session that does not read, Python's own objects included."""


def play_with_workers(
    place: Path, scene: Callable[[World, GatewayProcess], Awaitable[None]], **gateway: object
) -> None:
    async def whole() -> None:
        async with asyncio.timeout(TEST_DEADLINE_S), world(place) as made, gateway_process(made, **gateway) as process:
            await scene(made, process)

    asyncio.run(whole())


def memory(pids: set[int]) -> int:
    """Bytes that the processes share of (proc(5), smaps_rollup)."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(line.split()[1]) * 1024 for text in rollups for line in text.splitlines() if line[:4] == "Pss:")


async def fill(client: asyncssh.SSHClientConnection, target: str) -> asyncssh.SSHTCPChannel[bytes]:
    """Open a forward, and send until the gateway takes no more."""
    _, writer = await client.open_connection(target, 22)
    channel = writer.channel
    assert isinstance(channel, asyncssh.SSHTCPChannel)
    while channel._send_window or not channel._send_buf:
        writer.write(bytes(16384))
        # What was sent opens the window again as long as the session's side takes it.
        await asyncio.sleep(0 if channel._send_window else 0.05)
    return channel


def test_forwards_to_sessions_that_never_read_cost_little(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess) -> None:
        async with deaf_session(place / "deaf") as (port, fingerprint):
            w.controller.fingerprint = fingerprint
            w.controller.sessions[me(), w.canonical] = ("127.0.0.1", port)
            workers = process.workers()
            clients = [await process.client() for _ in range(CONNECTIONS)]
            before = memory(workers)
            await asyncio.gather(*(fill(client, w.canonical) for client in clients for _ in range(FORWARDS)))
            assert memory(workers) - before < CONNECTIONS * FORWARDS * FORWARD_BYTES
            for client in clients:
                client.abort()

    play_with_workers(place, scene, workers=2)


def test_limits_of_one_user_hold_over_all_workers(place: Path) -> None:
    """A reload keeps what was counted, and a worker that dies takes its counts with it."""

    async def scene(w: World, process: GatewayProcess) -> None:
        async def stand(tries: int) -> list[asyncssh.SSHClientConnection]:
            """Connect so often, and return the connections that the gateway keeps.

            The gateway answers on those. On one that it has ended, asyncssh reports a failure, but `is_closed` becomes
            true only in a later iteration of the loop.
            """
            clients = [await process.client() for _ in range(tries)]
            kept = []
            for client in clients:
                with contextlib.suppress(asyncssh.Error, OSError):
                    answer, _ = await client._make_global_request(b"keepalive@openssh.com")
                    if answer == asyncssh.constants.MSG_REQUEST_SUCCESS:
                        kept.append(client)
            return kept

        kept = await stand(12)
        assert len(kept) == 5
        serving = process.workers()
        await process.reload()
        assert await stand(6) == []
        forwards = []
        for client in kept * 2:
            with contextlib.suppress(asyncssh.ChannelOpenError):
                forwards.append(await client.open_connection(w.canonical, 22))
        assert len(forwards) == 6
        for pid in serving & process.workers():  # the old ones: those of them that have connections
            os.kill(pid, signal.SIGKILL)
        for client in kept:
            await client.wait_closed()
        await until(lambda: not serving & process.workers())
        kept = await stand(12)
        assert len(kept) == 5
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(6):
                await kept[0].open_connection(w.canonical, 22)
        with pytest.raises(asyncssh.ChannelOpenError, match="has 6 connections to sessions already"):
            await kept[1].open_connection(w.canonical, 22)
        for client in kept:
            client.close()

    play_with_workers(place, scene, workers=3, max_user_connections=5, max_user_forwards=6)


def test_closed_forward_counts_until_its_session_has_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "LINGER_S", 3600.0)

    async def scene(w: World) -> None:
        async with deaf_session(place / "deaf") as (port, fingerprint), await w.client() as client:
            w.controller.fingerprint = fingerprint
            w.controller.sessions[me(), w.canonical] = ("127.0.0.1", port)
            for _ in range(2):
                channel = await fill(client, w.canonical)
                channel.abort()
                await channel.wait_closed()
            with pytest.raises(asyncssh.ChannelOpenError, match="has 2 connections to sessions already"):
                await client.open_connection(w.canonical, 22)

    play(place, scene, max_user_forwards=2)


def test_session_that_never_reads_is_given_up_after_its_client(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "LINGER_S", 0.2)

    async def scene(w: World) -> None:
        w.trust_everybody()
        async with deaf_session(place / "deaf") as (port, _):
            w.controller.sessions[me(), w.canonical] = ("127.0.0.1", port)
            client = await w.client()
            with pytest.raises(asyncssh.ChannelOpenError):  # opens the gateway's connection to the controller
                await client.open_connection(f"no-session.{w.canonical.partition('.')[2]}", 22)
            before = _descriptors()
            await fill(client, w.canonical)
            client.abort()
            # The client's connection goes with both of its ends. The session's end of the forward goes later.
            await until(lambda: _descriptors() <= before + 1 - 2)
            async with await w.client() as again, asyncio.timeout(TEST_DEADLINE_S):
                while not await _opens(again, w.canonical):  # noqa: ASYNC110 - nothing tells when a forward counts no more
                    await asyncio.sleep(0.05)

    play(place, scene, max_user_forwards=1)


async def _opens(client: asyncssh.SSHClientConnection, target: str) -> bool:
    try:
        await client.open_connection(target, 22)
    except asyncssh.ChannelOpenError:
        return False
    return True


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_tiny_pieces_wait_as_one(place: Path) -> None:
    """Python's objects for a piece of one byte take a hundred."""

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            for _ in range(200):
                writer.write(b"x")
                await asyncio.sleep(0)
            await reader.read(1)

    async def scene(w: World) -> None:
        w.trust_everybody()
        async with (
            await asyncio.start_server(session, "127.0.0.1", 0) as server,
            deaf_session(place / "deaf") as (port, _),
        ):
            w.controller.sessions[me(), "talks"] = ("127.0.0.1", server.sockets[0].getsockname()[1])
            w.controller.sessions[me(), "deaf"] = ("127.0.0.1", port)
            client = await w.client()
            _, talks = await client.open_connection("talks", 22, window=1)
            talks.channel._recv_window = 2**30  # it never opens its window again
            (channel,) = _channels(w)
            await until(lambda: channel.get_write_buffer_size() > 100)
            assert len(channel._send_buf) == 1
            talks.channel.abort()
            await until(lambda: not _channels(w))
            sends = await fill(client, "deaf")
            (channel,) = _channels(w)
            assert not channel._recv_buf
            sends.abort()
            client.abort()

    play(place, scene)


def _channels(w: World) -> list[asyncssh.SSHTCPChannel[bytes]]:
    """Return the gateway's."""
    return [channel for each in w.gateway._live for channel in each._conn._channels.values()]  # type: ignore[misc]


def test_client_that_asks_and_never_reads_is_not_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_reader, "UNSENT_BYTES", 16384)
    monkeypatch.setattr(fair_reader, "MAX_UNREAD_BYTES", 131072)

    async def scene(w: World) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", w.gateway.port))
        sock.setblocking(False)
        client = await w.client(sock=sock)
        client._transport.pause_reading()  # type: ignore[union-attr]  # it reads nothing any more
        (there,) = (each._conn._transport for each in w.gateway._live)
        assert there is not None
        while there.is_reading():
            for _ in range(100):
                client.send_packet(80, (1).to_bytes(4, "big") + b"x" + b"\1")  # a global request that wants an answer
            await asyncio.sleep(0)
            assert there.get_write_buffer_size() < 262144
        client.abort()

    play(place, scene)


def test_client_that_never_ends_a_key_exchange_fills_nothing(place: Path) -> None:
    """The output of its sessions waits for the new keys."""
    produced = 0

    async def session(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal produced
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(2**18))
                await writer.drain()
                produced += 2**18

    async def scene(w: World) -> None:
        w.trust_everybody()
        async with await asyncio.start_server(session, "127.0.0.1", 0) as server:
            w.controller.sessions[me(), "raw"] = ("127.0.0.1", server.sockets[0].getsockname()[1])
            client = await w.client()
            await client.open_connection("raw", 22, window=2**30)
            (there,) = (each._conn for each in w.gateway._live)
            client._send_kexinit()
            client._recv_handler = lambda: False
            await until(lambda: there._deferred_packets)
            before = -1
            async with asyncio.timeout(DEADLINE_S):
                while before != produced:
                    before = produced
                    await asyncio.sleep(0.3)  # long enough that a gateway that does not pause would take more
            assert sum(len(data) for _, words in there._deferred_packets for data in words) < 2**20
            client.abort()

    play(place, scene)
