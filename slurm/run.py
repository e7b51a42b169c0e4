"""The one way to run a program: an argument list, no shell, a time limit, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STDERR_TAIL = 2000
"""Characters of standard error that a failure carries."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ended by itself, whatever its exit code."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


class CommandError(Exception):
    """A program could not be run to a good end; `code` is None when it was ended at its time limit or never started."""

    def __init__(self, argv: Sequence[str], code: int | None, stderr: str) -> None:
        what = "did not end in time" if code is None else f"ended with {code}"
        super().__init__(f"{argv[0]} {what}: {stderr.strip()[-STDERR_TAIL:]}")
        self.argv = tuple(argv)
        self.code = code
        self.stderr = stderr[-STDERR_TAIL:]


async def run(
    argv: Sequence[str],
    *,
    timeout: float,  # noqa: ASYNC109 - killing the process group at the limit is this function's job
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> Finished:
    """Run `argv` for at most `timeout` seconds and return its whole output, decoded as UTF-8 with replacement.

    The program gets no standard input and a process group of its own, which is killed on every way out that leaves it
    running: time limit, cancellation, error. With `check`, an exit code other than 0 raises CommandError.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandError(argv, None, str(error)) from error
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
    except TimeoutError as error:
        raise CommandError(argv, None, f"no end after {timeout:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    code = process.returncode or 0
    stderr = err.decode(errors="replace")
    if check and code != 0:
        raise CommandError(argv, code, stderr)
    return Finished(tuple(argv), code, out.decode(errors="replace"), stderr)
