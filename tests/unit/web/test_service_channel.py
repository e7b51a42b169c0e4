"""The report of a session on one of its services."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from broker.errors import BerthError, ConflictError
from broker.schema.service_report import ServiceReport
from broker.web.service_channel import MAX_LINES_PER_S, follow_service
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def _report(*lines: str) -> ServiceReport:
    report = ServiceReport("jupyter")
    for line in lines:
        report.read(f"{line}\n".encode())
    return report


@asynccontextmanager
async def _printed(*argv: str) -> AsyncIterator[asyncio.StreamReader]:
    """Yield the output of a program, in place of a session."""
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        while await process.stdout.read(65536):  # a pipe with unread lines would stay open
            pass
        await process.wait()


def test_report_has_state_socket_and_last_lines() -> None:
    report = _report("socket other.sock", "state starting", "output one", "later releases say more", "output two")
    assert (report.state, report.socket, list(report.lines)) == ("starting", "other.sock", ["one", "two"])
    assert not report.needs_new_tunnel
    assert _report("reconnect").needs_new_tunnel
    assert _report("socket ../x.sock").socket == "jupyter.sock"


def test_refusal_is_an_error_for_the_user() -> None:
    async def whole() -> None:
        async with asyncio.timeout(DEADLINE_S):
            async for _ in follow_service(_printed("echo", "refused no such service"), "jupyter"):
                pass

    with pytest.raises(ConflictError, match="cannot start jupyter: no such service"):
        asyncio.run(whole())


@pytest.mark.parametrize("line", ["output x", "output " + "x" * 60_000])
def test_channel_that_floods_ends(line: str) -> None:
    async def whole() -> None:
        async with asyncio.timeout(DEADLINE_S):
            async for _ in follow_service(_printed("yes", line), "jupyter"):
                pass

    with pytest.raises(BerthError, match="reports too much on jupyter"):
        asyncio.run(whole())


def test_lines_in_the_buffer_leave_others_their_turn() -> None:
    count = MAX_LINES_PER_S - 1
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def whole() -> None:
        others = asyncio.create_task(take_turns())
        argv, first, last = ["sh", "-c", f"yes 'output x' | head -n {count}"], 0, 0
        async with asyncio.timeout(DEADLINE_S):
            async for report in follow_service(_printed(*argv), "jupyter"):
                if report.lines:
                    first, last = first or turns, turns
        others.cancel()
        assert last - first >= count - 1

    asyncio.run(whole())
