"""Run a program with a time limit, show its output while it runs, and leave no process behind."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

ProgramRunner = Callable[[Sequence[str], Mapping[str, str]], str]
"""Runs a program with an environment to its end and returns its output; raises when it fails."""

DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
"""Ends the programs of a builder that was ended by SIGKILL: prctl(2), PR_SET_PDEATHSIG."""


_ERROR_LINE = re.compile(r"(E|error|ERROR|FATAL ERROR|fatal): ", re.IGNORECASE)
"""The beginning of an error line of apt, pip, mksquashfs and git."""


class CommandFailed(Exception):  # noqa: N818 - it says what happened
    """A program ended with another code than 0, did not exist, or did not end in time.

    `complaint` is the line of its output that most likely has the reason, empty if there is none; `lines` has all
    lines that are not empty.
    """

    def __init__(self, argv: Sequence[str], why: str, output: str = "") -> None:
        super().__init__(f"{argv[0]} {why}")
        self.argv = tuple(argv)
        self.lines = lines = [line.strip() for line in output.splitlines() if line.strip()]
        marked = [line for line in lines if _ERROR_LINE.match(line)]
        self.complaint = (marked or lines[-1:] or [""])[0][:500]


def run_logged(
    argv: Sequence[str],
    *,
    log: BinaryIO,
    deadline: float,
    env: Mapping[str, str] | None = None,
    line: Callable[[str], None] = lambda _: None,
) -> str:
    """Run `argv` until it ends or `deadline` (time.monotonic), and return its output, stderr included.

    The output goes to `log` and, line by line, to `line` as it arrives. Raises CommandFailed. If this returns or raises
    while the program runs, for example by an exception from `line` or by Ctrl-C, the whole process group is killed.
    """
    log.write(f"$ {' '.join(argv)}\n".encode())
    log.flush()
    try:
        process = subprocess.Popen(
            [*DIE_WITH_PARENT, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
            umask=0o022,
        )
    except OSError as error:
        raise CommandFailed(argv, f"cannot be run: {error.strerror}") from error
    try:
        output = _read_output(process, argv, log, deadline, line)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    text = output.decode(errors="replace")
    if process.returncode != 0:
        raise CommandFailed(argv, f"ended with {process.returncode}", text)
    return text


def _read_output(
    process: subprocess.Popen[bytes],
    argv: Sequence[str],
    log: BinaryIO,
    deadline: float,
    line: Callable[[str], None],
) -> bytes:
    """Read the output until it and the process have ended."""
    assert process.stdout is not None  # for the type checker: Popen has created it
    output = bytearray()
    shown = 0
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise CommandFailed(argv, "did not end in time")
            chunk = os.read(process.stdout.fileno(), 65536)
            output += chunk
            log.write(chunk)
            log.flush()
            while (end := output.find(b"\n", shown)) >= 0 or (not chunk and shown < len(output)):
                end = end if end >= 0 else len(output)
                line(output[shown:end].decode(errors="replace"))
                shown = end + 1
            if not chunk:
                break
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(argv, "did not end in time") from error
    return bytes(output)
