"""Forwards through the gateway with real OpenSSH on both sides; only the controller is a fake."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING

import asyncssh
import pytest

from broker.errors import ConflictError, RefusedError
from broker.gateway.audit import log_line
from broker.gateway.connection import terminal_text
from tests.deadlines import DEADLINE_S
from tests.fakes import openssh
from tests.fakes.gateway_world import World, play, until
from tests.fakes.openssh import me, run

if TYPE_CHECKING:
    from pathlib import Path

BULK = 16 * 2**20


def test_a_session_is_reached_without_a_prompt_or_a_word(place: Path) -> None:
    async def scene(w: World) -> None:
        done = await w.ssh("dev.berth", "echo here; exit 7")
        assert (done.code, done.out, done.err) == (7, b"here\n", "")

    play(place, scene)


def test_megabytes_arrive_bit_exact_in_both_directions(place: Path) -> None:
    async def scene(w: World) -> None:
        data = os.urandom(BULK)
        done = await w.ssh("dev.berth", "cat", stdin=data)
        assert done.out == data

    play(place, scene)


@pytest.mark.parametrize("first", ["client", "session"])
def test_either_side_may_end_first_and_still_be_heard(place: Path, first: str) -> None:
    """Half-close: what comes after the other side's end of file is not lost."""
    up, down = os.urandom(BULK), os.urandom(BULK)
    received: asyncio.Future[bytes]

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await reader.read(-1) if first == "client" else b""
        writer.write(down)
        await writer.drain()
        writer.write_eof()
        got += await reader.read(-1)
        received.set_result(got)
        writer.close()

    async def scene(w: World) -> None:
        nonlocal received
        received = asyncio.get_running_loop().create_future()
        w.trust_everybody()
        async with await asyncio.start_server(session, "127.0.0.1", 0) as server:
            w.controller.sessions[me(), "raw"] = ("127.0.0.1", server.sockets[0].getsockname()[1])
            async with await w.client() as client:
                reader, writer = await client.open_connection("raw", 22)
                if first == "session":
                    assert await reader.read(-1) == down
                writer.write(up)
                writer.write_eof()
                if first == "client":
                    assert await reader.read(-1) == down
                assert await received == up
                await writer.wait_closed()

    play(place, scene)


def test_whoever_comes_without_a_session_is_told_how(place: Path) -> None:
    async def scene(w: World) -> None:
        done = await w.ssh("berth-gateway", "true")
        assert done.code == 255
        assert "nothing runs on Berth's gateway itself" in done.err
        assert "ssh -J GATEWAY NAME.berth" in done.err

    play(place, scene)


def test_a_refusal_reaches_the_terminal_whole_and_harmless(place: Path) -> None:
    async def scene(w: World) -> None:
        w.controller.sessions[me(), w.canonical] = ConflictError(
            "dev is queued:\nPriority \x1b[31m\x07\u202e", hint="`berth show dev` tells when it is expected to start"
        )
        done = await w.ssh("dev.berth", "true")
        assert done.code == 255
        assert "dev is queued: Priority ?[31m?? (`berth show dev` tells when it is expected to start)" in done.err
        assert "\x1b" not in done.err

        w.controller.sessions[me(), w.canonical] = RefusedError("dev is not yours")
        assert "administratively prohibited: dev is not yours" in (await w.ssh("dev.berth", "true")).err

    play(place, scene)


def test_a_session_that_does_not_listen_is_named(place: Path) -> None:
    async def scene(w: World) -> None:
        w.controller.sessions[me(), w.canonical] = ("127.0.0.1", openssh.free_port())
        assert f"{me()}.dev does not answer on 127.0.0.1" in (await w.ssh("dev.berth", "true")).err

    play(place, scene)


def test_a_session_has_port_22_only(place: Path) -> None:
    async def scene(w: World) -> None:
        assert "port 22 only, not 23 (leave the port out)" in (await w.ssh("-p", "23", "dev.berth", "true")).err

    play(place, scene)


def test_a_client_that_vanished_is_noticed(place: Path) -> None:
    async def scene(w: World) -> None:
        client = await w.client()
        reader, _ = await client.open_connection(w.canonical, 22)
        assert await reader.readline()
        client._transport.pause_reading()  # type: ignore[union-attr]  # it hears nothing more, so it answers nothing
        await until(lambda: not len(w.gateway._live))
        client.abort()

    play(place, scene, keepalive_interval=0.2, keepalive_count=2)


def test_one_connection_has_so_many_forwards_and_no_more(place: Path) -> None:
    async def scene(w: World) -> None:
        async with await w.client() as client:
            _, first = await client.open_connection(w.canonical, 22)
            await client.open_connection(w.canonical, 22)
            with pytest.raises(asyncssh.ChannelOpenError, match="2 connections are open already"):
                await client.open_connection(w.canonical, 22)
            first.close()
            await first.wait_closed()
            await client.open_connection(w.canonical, 22)

    play(place, scene, max_forwards=2)


def test_a_client_that_stops_reading_does_not_fill_the_memory(place: Path) -> None:
    """Its channel window is a gigabyte, so only the TCP connection's back pressure can hold the session up."""
    produced = 0

    async def session(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal produced
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(2**20))
                await writer.drain()
                produced += 2**20

    async def scene(w: World) -> None:
        w.trust_everybody()
        async with await asyncio.start_server(session, "127.0.0.1", 0) as server:
            w.controller.sessions[me(), "raw"] = ("127.0.0.1", server.sockets[0].getsockname()[1])
            client = await w.client()
            await client.open_connection("raw", 22, window=2**30)
            await client.open_connection("raw", 22, window=2**30)
            client._transport.pause_reading()  # type: ignore[union-attr]  # the client is stuck
            before = -1
            async with asyncio.timeout(DEADLINE_S):
                while before != produced or not produced:
                    before = produced
                    await asyncio.sleep(0.5)  # long enough that a gateway without back pressure would take more
            assert produced < 64 * 2**20
            client.abort()

    play(place, scene)


def test_each_forward_leaves_one_line_in_the_log(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "broker")

    async def scene(w: World) -> None:
        await w.ssh("dev.berth", "true")
        await until(lambda: "event=forward" in caplog.text)
        line = next(m for m in caplog.messages if m.startswith("event=forward"))
        fields = dict(field.split("=", 1) for field in line.split())
        fingerprint = (await run(["ssh-keygen", "-l", "-f", w.key])).out.decode().split()[1]
        assert fields["user"] == me()
        assert fields["key"] == fingerprint
        assert fields["session"] == "01session"
        assert fields["generation"] == "1.0"
        assert fields["peer"].startswith("127.0.0.1:")
        assert int(fields["sent"]) > 500
        assert int(fields["received"]) > 500
        assert fields["end"] == "closed"

    play(place, scene)


def test_nobody_can_forge_a_field_of_the_log() -> None:
    assert log_line("refused", target='x" user=root\n', n=3) == r'event=refused target="x\" user=root\n" n=3'


def test_terminal_text_is_one_short_printable_line() -> None:
    assert terminal_text("a\x1b[2J\r\nb\tc\u2028d é") == "a?[2J b c d ?"
    assert len(terminal_text("x" * 10_000)) == 400
