"""A session channel of a tunnel: it starts a service in the session, and reports how far the service is.

The report is that of `broker/job/service`: lines such as `state ready`, `output TEXT` and `refused TEXT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from typing import TYPE_CHECKING

from broker.errors import BerthError, ConflictError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

MAX_LINE_BYTES = 64 * 1024
MAX_LINES_PER_S = 500
MAX_BYTES_PER_S = 256 * 1024
"""A session reports a few short lines a second. One that sends more would keep berth-web from serving others."""
MAX_LINES = 20
MAX_LINE_CHARS = 500
STOP_TIMEOUT_S = 5.0
SERVICE_STATES = ("starting", "ready", "waiting", "failed", "stopped")
"""States of a service that a session reports; `waiting` is before it starts again."""
_SOCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}\.sock")


class ServiceReport:
    """The state of a service, as its session reports it."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.state = "starting"
        """One of SERVICE_STATES, unless the session has another version."""
        self.lines: deque[str] = deque(maxlen=MAX_LINES)
        """The last lines of its output since the state changed."""
        self.socket = f"{service}.sock"
        """The file name of its socket in the session."""
        self.needs_new_tunnel = False
        """Whether this tunnel may not reach the socket, because the service was defined later."""

    def read(self, line: str) -> None:
        """Read a line. ConflictError if the session refuses to start the service."""
        word, _, text = line.partition(" ")
        match word:
            case "state":
                self.state = text.partition(" ")[0]
                self.lines.clear()
            case "output":
                self.lines.append(text[:MAX_LINE_CHARS])
            case "socket" if _SOCKET.fullmatch(text):
                self.socket = text
            case "reconnect":
                self.needs_new_tunnel = True
            case "refused":
                hint = "`berth services NAME` lists the services of a session"
                raise ConflictError(f"the session cannot start {self.service}: {text[:MAX_LINE_CHARS]}", hint=hint)
            case _:
                pass  # a later release may report more

    def end_error(self) -> BerthError:
        """Return the error of a service whose channel has ended by itself."""
        match self.state:
            case "failed":
                return BerthError(f"{self.service} did not start", hint="its last lines say why; reload to try again")
            case "stopped":
                return BerthError(f"{self.service} has ended", hint="reload the page to start it again")
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


async def follow_service(argv: list[str], service: str) -> AsyncGenerator[ServiceReport]:
    """Run ssh for the channel, and yield the report after each line, until the service or the connection ends.

    The service runs on when the iteration is closed. BerthError if the session refuses, or sends too much.
    """
    report, budget = ServiceReport(service), _Budget()
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=null, limit=MAX_LINE_BYTES)
    assert process.stdout is not None
    try:
        yield report
        while line := await process.stdout.readline():
            if not budget.spend(line):
                raise BerthError(f"the session reports too much on {service}", hint="restart the session")
            report.read(line.decode(errors="replace").rstrip("\n"))
            yield report
            await asyncio.sleep(0)  # a line that is in the buffer already would be read without a pause
    except ValueError as error:
        raise BerthError(f"the session's report on {service} has too long a line") from error
    finally:
        await asyncio.gather(end_process(process), _discard(process.stdout))


async def _discard(output: asyncio.StreamReader) -> None:
    """Read to the end: a pipe with unread lines would stay open."""
    while await output.read(MAX_LINE_BYTES):
        pass


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
