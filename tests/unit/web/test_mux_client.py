"""Requests to a shared connection of ssh that does not answer as it should. The real one is in tests/component/web."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

import pytest

from broker.web import mux_client
from broker.web.mux_client import MuxError, open_channel, open_forward
from tests.deadlines import DEADLINE_S

HELLO = struct.pack(">III", 8, 1, 4)
REASON = b"no forwarding here"
FAILURE = struct.pack(">IIII", 12 + len(REASON), 0x80000003, 1, len(REASON)) + REASON


async def _errors(tmp_path: Path, answers: tuple[bytes, ...]) -> set[str]:
    """Return the errors of opening a forward and a channel, if the master sends these packets and then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            await reader.readexactly(length)
            writer.write(answer)
        writer.close()
        served.set()

    control, found, served = tmp_path / "control", set(), asyncio.Event()
    async with asyncio.timeout(DEADLINE_S), await asyncio.start_unix_server(serve, control):
        with pytest.raises(MuxError) as forward:
            await open_forward(control, tmp_path / "local.sock", "/remote.sock")
        found.add(forward.value.message)
        await served.wait()
        served.clear()
        with pytest.raises(MuxError) as channel:
            async with open_channel(control, "start echo"):
                pass
        found.add(channel.value.message)
        await served.wait()
        await asyncio.sleep(0)  # asyncio closes the connection in its next turn
    return found


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ((HELLO, FAILURE), "ssh has refused a request: no forwarding here"),
        ((HELLO, struct.pack(">III", 8, 0x80000009, 1)), "ssh has refused a request: answer 0x80000009"),
        ((struct.pack(">III", 8, 1, 3),), "ssh shares connections by another protocol: version 3"),
        ((struct.pack(">I", 2**31),), "ssh does not answer: its answer has a wrong length"),
    ],
)
def test_wrong_answer_is_an_error(tmp_path: Path, answers: tuple[bytes, ...], message: str) -> None:
    before = _descriptors()
    assert asyncio.run(_errors(tmp_path, answers)) == {message}
    assert _descriptors() == before


def test_master_that_is_gone_or_silent_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux_client, "TIMEOUT_S", 0.05)

    async def whole() -> None:
        control = tmp_path / "control"
        with pytest.raises(MuxError, match="No such file"):
            await open_forward(control, tmp_path / "local.sock", "/remote.sock")
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(control))
            silent.listen()
            with pytest.raises(MuxError, match="ssh does not answer: timeout"):
                await open_forward(control, tmp_path / "local.sock", "/remote.sock")

    asyncio.run(whole())
