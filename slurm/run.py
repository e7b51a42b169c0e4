"""Run a program with an argument list, no shell and a time limit, and leave no process behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_STDERR_CHARACTERS = 2000
"""Limit for the standard error in a CommandError."""


@dataclass(frozen=True, slots=True)
class FinishedCommand:
    """A program that has ended by itself, with any exit code."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


class CommandError(Exception):
    """A program failed. `code` is None if it was ended at its time limit or never started."""

    def __init__(self, argv: Sequence[str], code: int | None, stderr: str) -> None:
        what = "did not run to its end" if code is None else f"ended with {code}"
        super().__init__(f"{argv[0]} {what}: {stderr.strip()[-MAX_STDERR_CHARACTERS:]}")
        self.argv = tuple(argv)
        self.code = code
        self.stderr = stderr[-MAX_STDERR_CHARACTERS:]


class _Output(asyncio.SubprocessProtocol):
    """Collects the output of a program. `exited` is set at its end, `complete` when its pipes are closed too."""

    def __init__(self) -> None:
        self.written = {1: bytearray(), 2: bytearray()}
        self.exited = asyncio.Event()
        self.complete = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.written[fd] += data

    def process_exited(self) -> None:
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.complete.set()

    def text(self, fd: int) -> str:
        return self.written[fd].decode(errors="replace")


async def run_command(
    argv: Sequence[str],
    *,
    timeout: float,  # noqa: ASYNC109 - killing the process group at the limit is this function's job
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> FinishedCommand:
    """Run `argv` for at most `timeout` seconds and return its whole output, decoded as UTF-8 with replacement.

    The program gets no standard input and a process group of its own. The group is killed if this ends while the
    program runs: by time limit, cancellation or error. With `check`, an exit code other than 0 raises CommandError.
    """
    starting = asyncio.ensure_future(_start(argv, env))
    try:
        # Shielded: a start that is cancelled half-way kills the program alone and may hang (measured, Python 3.11).
        transport, output = await asyncio.shield(starting)
    except asyncio.CancelledError:
        transport, output = await starting
        await _end(transport, output)
        raise
    except OSError as error:
        raise CommandError(argv, None, str(error)) from error
    try:
        async with asyncio.timeout(timeout):
            await output.complete.wait()
    except TimeoutError as error:
        raise CommandError(argv, None, f"no end after {timeout:g} s") from error
    finally:
        await _end(transport, output)
    code = transport.get_returncode() or 0
    if check and code != 0:
        raise CommandError(argv, code, output.text(2))
    return FinishedCommand(tuple(argv), code, output.text(1), output.text(2))


async def _start(argv: Sequence[str], env: Mapping[str, str] | None) -> tuple[asyncio.SubprocessTransport, _Output]:
    return await asyncio.get_running_loop().subprocess_exec(
        _Output,
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
        start_new_session=True,
    )


async def _end(transport: asyncio.SubprocessTransport, output: _Output) -> None:
    """Kill the process group if its leader lives, and close the pipes."""
    try:
        if not output.exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(transport.get_pid(), signal.SIGKILL)
            await output.exited.wait()
    finally:
        # A descendant in a session of its own may still hold the pipes; waiting for it would be for ever.
        transport.close()
