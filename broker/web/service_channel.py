"""A session channel of a tunnel: it starts a service in the session, and reports the service's state."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from broker.errors import BerthError, ConflictError
from broker.schema.service_report import ServiceReport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

MAX_LINES_PER_S = 500
MAX_BYTES_PER_S = 256 * 1024
"""A session reports a few short lines a second. One that sends more would keep berth-web from serving others."""
STOP_TIMEOUT_S = 5.0


def end_error(report: ServiceReport) -> BerthError:
    """Return the error of a service whose channel has ended by itself."""
    match report.state:
        case "failed":
            return BerthError(f"{report.service} did not start", hint="its last lines say why; reload to try again")
        case "stopped":
            return BerthError(f"{report.service} has ended", hint="reload the page to start it again")
        case _:
            return BerthError("the connection to the session has ended", hint="reload the page to connect again")


class _Budget:
    """The limit on lines and bytes of a channel within a second."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._lines = 0
        self._bytes = 0

    def spend(self, line: bytes) -> bool:
        """Whether the budget of the present second has room for this line too."""
        now = time.monotonic()
        if now - self._begin >= 1:
            self._begin, self._lines, self._bytes = now, 0, 0
        self._lines += 1
        self._bytes += len(line)
        return self._lines <= MAX_LINES_PER_S and self._bytes <= MAX_BYTES_PER_S


async def follow_service(
    channel: AbstractAsyncContextManager[asyncio.StreamReader], service: str
) -> AsyncGenerator[ServiceReport]:
    """Yield the report after each line that the channel has, until the service or the connection ends.

    The service runs on when the iteration is closed. BerthError if the session refuses, or sends too much.
    """
    report, budget = ServiceReport(service), _Budget()
    try:
        async with channel as lines:
            yield report
            while line := await lines.readline():
                if not budget.spend(line):
                    raise BerthError(f"the session reports too much on {service}", hint="restart the session")
                report.read(line)
                if report.refusal:
                    hint = "`berth services NAME` lists the services of a session"
                    raise ConflictError(f"the session cannot start {service}: {report.refusal}", hint=hint)
                yield report
                await asyncio.sleep(0)  # a line that is in the buffer already would be read without a pause
    except ValueError as error:
        raise BerthError(f"the session's report on {service} has too long a line") from error


async def end_process(process: asyncio.subprocess.Process) -> None:
    """End a process with SIGTERM, or with SIGKILL if it does not end."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
