"""Answers of HAProxy's master, whole and broken off."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from broker.web import master_socket
from broker.web.master_socket import HaproxyCommandError, MasterSocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

VERSION = "3.2.26-1\n\n"
UNKNOWN = "Can't find the target PID matching the prefix '@!7'\n"
"""After it, HAProxy 3.2 keeps the connection."""
UNREACHED = "Can't connect to the target CLI!\n"
"""The answer while a worker ends."""


@contextlib.asynccontextmanager
async def _master(path: Path, *answers: str) -> AsyncIterator[MasterSocket]:
    """A master with an answer for each connection; the last one for all further connections."""
    rest, tasks = list(answers), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        commands = await reader.readuntil(b"quit\n")
        assert commands.endswith(b"\nshow version\nquit\n")
        answer = rest.pop(0) if len(rest) > 1 else rest[0]
        writer.write(answer.encode())
        if answer == UNKNOWN:
            await reader.read()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, path / "m")
    try:
        yield MasterSocket(path / "m")
    finally:
        server.close()
        await asyncio.gather(*filter(None, tasks))


@pytest.mark.parametrize(
    ("answers", "output"),
    [
        ([f"services,s1,1\n\n{VERSION}"], "services,s1,1\n\n"),
        ([UNKNOWN], ""),
        (["services,s1,1\n\n", f"services,s1,0\n\n{VERSION}"], "services,s1,0\n\n"),
        ([UNREACHED, "", f"services,s1,1\n\n{UNREACHED}", UNKNOWN], ""),
    ],
)
def test_answer_is_whole_or_that_of_a_process_that_has_ended(tmp_path: Path, answers: list[str], output: str) -> None:
    async def scene() -> None:
        async with asyncio.timeout(5), _master(tmp_path, *answers) as master:
            assert await master.run(7, ["show stat"]) == output

    asyncio.run(scene())


def test_process_that_never_answers_all_commands_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with asyncio.timeout(5), _master(tmp_path, "services,s1,1\n\n") as master:
            with pytest.raises(HaproxyCommandError, match="process 7 does not answer"):
                await master.run(7, ["show stat"])
            await master.send(7, ["shutdown session 0x1"])

    monkeypatch.setattr(master_socket, "COMMAND_TIMEOUT_S", 0.1)
    asyncio.run(scene())


def test_list_of_processes_is_whole(tmp_path: Path) -> None:
    listed = (
        "# workers\n12   worker   0   0d00h00m02s   3.2.26-1\n# old workers\n7   worker   1   0d00h01m02s   3.2.26-1\n"
    )

    async def scene() -> None:
        answers = (f"{listed}\n{VERSION}", listed, VERSION)
        async with asyncio.timeout(5), _master(tmp_path, *answers) as master:
            assert await master.workers() == [12, 7]
            for _ in range(2):
                with pytest.raises(HaproxyCommandError, match="no worker"):
                    await master.workers()

    asyncio.run(scene())
