"""Actions that are repeated whatever happens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.errors import TooManyError
from broker.web.repetition import repeat
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    import pytest


def test_errors_end_no_repetition_and_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception | None] = [RuntimeError("x"), RuntimeError("x"), TooManyError("y"), None, RuntimeError("x")]
    done = asyncio.Event()

    async def act() -> None:
        if not errors:
            done.set()
        elif (error := errors.pop(0)) is not None:
            raise error

    async def whole() -> None:
        task = asyncio.create_task(repeat("action", act, 0, 0))
        async with asyncio.timeout(DEADLINE_S):
            await done.wait()
        task.cancel()

    asyncio.run(whole())
    assert [record.getMessage().partition(" error=")[2] for record in caplog.records] == [
        "RuntimeError('x')",
        "TooManyError('y')",
        "RuntimeError('x')",
    ]
